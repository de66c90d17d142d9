/* kilofed-posix: many devices of the real core in one process and one loop.
 *
 * The loop sleeps in poll() until bytes come, a full socket has room, or the next device is due; devices with work take turns, a
 * slice each. An idle device costs its share of one poll() and a heartbeat every two seconds. */
#define _GNU_SOURCE /* ppoll */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include "mdns.h"
#include "options.h"
#include "unit.h"

#define SLEEP_MAX_MS 60000u

/* Between two questions for a host, doubling (RFC 6762, 5.2). */
enum { ASK_FIRST_MS = 1000, ASK_LAST_MS = 16000 };

static volatile sig_atomic_t stopping;

static void stop(int signal_number) {
    (void)signal_number;
    stopping = 1;
}

/* Signals are let in only inside ppoll(), so that none is lost between the look at `stopping` and the sleep. */
static void signals_begin(sigset_t *inside) {
    sigset_t held;
    sigemptyset(&held);
    sigaddset(&held, SIGTERM);
    sigaddset(&held, SIGINT);
    sigprocmask(SIG_BLOCK, &held, inside);
    sigdelset(inside, SIGTERM);
    sigdelset(inside, SIGINT);
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = stop;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
}

/* A connection a device: as many files as the system allows. */
static void files_allow(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static uint32_t unit_wait(const kf_unit_t *unit, uint32_t now_ms, int connects) {
    uint32_t wait = kf_time_left(now_ms, unit->due_ms);
    if (connects && unit->line == KF_LINE_DOWN) {
        const uint32_t retry = kf_time_left(now_ms, unit->retry_ms);
        wait = retry < wait ? retry : wait;
    }
    return wait;
}

static short unit_wants(const kf_unit_t *unit) {
    switch (unit->line) {
    case KF_LINE_CONNECTING:
        return POLLOUT;
    case KF_LINE_UP:
        return POLLIN;
    default:
        return 0;
    }
}

/* One turn: sleep, read, connect, work. Returns 0 when stdin has ended. */
static int turn(kf_unit_t *units, struct pollfd *fds, const kf_options_t *o, const struct addrinfo *address,
                const sigset_t *inside) {
    uint32_t now = kf_unit_clock();
    uint32_t wait = SLEEP_MAX_MS;
    nfds_t files = 0;
    for (uint32_t i = 0; i < o->count; i++) {
        kf_unit_t *unit = &units[i];
        const uint32_t left = unit_wait(unit, now, address != NULL);
        wait = left < wait ? left : wait;
        fds[2 * i] = (struct pollfd){.fd = unit->in, .events = unit_wants(unit)};
        fds[2 * i + 1] = (struct pollfd){.fd = unit->blocked ? unit->out : -1, .events = POLLOUT};
        files = 2u * (i + 1u);
    }
    const struct timespec timeout = {(time_t)(wait / 1000u), (long)(wait % 1000u) * 1000000};
    if (ppoll(fds, files, &timeout, inside) < 0 && errno != EINTR) {
        perror("kilofed-posix: ppoll");
        return 0;
    }
    if (stopping) {
        return 1;
    }
    now = kf_unit_clock();
    for (uint32_t i = 0; i < o->count; i++) {
        kf_unit_t *unit = &units[i];
        const short happened = fds[2 * i].revents;
        if (unit->line == KF_LINE_UP && happened != 0 && kf_unit_read(unit, now) != 0 && address == NULL) {
            return 0;
        }
        if (address != NULL && unit->line != KF_LINE_UP && (happened != 0 || unit->line == KF_LINE_DOWN)) {
            kf_unit_connect(unit, address, now);
        }
        if (fds[2 * i + 1].revents != 0) {
            unit->blocked = 0;
            unit->due_ms = now;
        }
        if (kf_time_reached(now, unit->due_ms)) {
            kf_unit_work(unit, o->slice_macs);
        }
    }
    return 1;
}

/* Ask for a host until one answers, and write its address as --connect would have it. */
static int look_for_host(char host[INET_ADDRSTRLEN], char port[8]) {
    struct sockaddr_in address;
    int wait_ms = ASK_FIRST_MS, found = 0;

    fputs("kilofed-posix: looking for a host that announces itself (kilofed run --announce)\n", stderr);
    while (found == 0) {
        found = kf_mdns_find(&address, wait_ms);
        wait_ms = wait_ms * 2 > ASK_LAST_MS ? ASK_LAST_MS : wait_ms * 2;
    }
    if (found < 0 || inet_ntop(AF_INET, &address.sin_addr, host, INET_ADDRSTRLEN) == NULL) {
        fprintf(stderr, "kilofed-posix: --connect auto: %s: name the host's address\n", strerror(errno));
        return -1;
    }
    snprintf(port, 8, "%u", ntohs(address.sin_port));
    fprintf(stderr, "kilofed-posix: found %s:%s\n", host, port);
    return 0;
}

static struct addrinfo *resolve(const kf_options_t *o) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    char host[INET_ADDRSTRLEN], port[8];
    int error;

    if (o->port == NULL) {
        if (look_for_host(host, port) != 0 || getaddrinfo(host, port, &hints, &found) != 0) {
            return NULL;
        }
        return found;
    }
    error = getaddrinfo(o->host, o->port, &hints, &found);
    if (error != 0) {
        fprintf(stderr, "kilofed-posix: --connect %s:%s: %s: check the address\n", o->host, o->port, gai_strerror(error));
        return NULL;
    }
    return found;
}

static int run(const kf_options_t *o, const kf_file_t *model) {
    struct addrinfo *address = NULL;
    if (!o->stdio && (address = resolve(o)) == NULL) {
        return 1;
    }
    const uint32_t boot = o->boots != NULL ? kf_boot_count(o->boots) : 0;
    if (o->boots != NULL && boot == 0) {
        if (address != NULL) {
            freeaddrinfo(address);
        }
        return 1;
    }
    files_allow();
    kf_unit_t *units = calloc(o->count, sizeof *units);
    struct pollfd *fds = calloc(2u * (size_t)o->count, sizeof *fds);
    uint32_t made = 0;
    int failed = units == NULL || fds == NULL;
    while (!failed && made < o->count) {
        failed = kf_unit_init(&units[made], o, model, made, boot) != 0;
        made++;
    }
    if (!failed && o->stdio) {
        failed = kf_unit_use_stdio(&units[0]) != 0;
    }
    if (!failed) {
        sigset_t inside;
        signals_begin(&inside);
        if (o->verbose) {
            fprintf(stderr, "kilofed-posix: %u devices of %zu bytes\n", o->count, units[0].memory_bytes);
        }
        while (!stopping && turn(units, fds, o, address, &inside)) {
        }
        for (uint32_t i = 0; i < made; i++) {
            kf_unit_leave(&units[i]);
        }
    }
    for (uint32_t i = 0; i < made; i++) {
        kf_unit_free(&units[i]);
    }
    free(fds);
    free(units);
    if (address != NULL) {
        freeaddrinfo(address);
    }
    return failed;
}

int main(int argc, char **argv) {
    kf_options_t options;
    const int parsed = kf_options_parse(&options, argc, argv);
    int result = parsed < 0 ? 2 : 0;
    if (parsed == 0) {
        kf_file_t model;
        result = 1;
        if (kf_file_map(&model, options.model) == 0) {
            result = run(&options, &model);
            kf_file_unmap(&model);
        }
    }
    kf_options_free(&options);
    return result;
}
