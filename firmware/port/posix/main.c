/* kilofed-posix: many devices of the real core in one process and one loop (loop.h), or one over stdin and stdout. */
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

#include "loop.h"
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

#define FILES_BESIDES 16u /* files that are not a device's socket */

/* A connection a device: as many files as the system allows. 0, or -1 after printing that they are too few. */
static int files_allow(uint32_t count) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return 0;
    }
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < count + FILES_BESIDES) {
        fprintf(stderr, "kilofed-posix: --count %u: this system allows a process %lu files, and a device takes one: lower --count, or "
                        "raise the hard limit (`ulimit -Hn`)\n",
                count, (unsigned long)limit.rlim_max);
        return -1;
    }
    return 0;
}

/* One turn of a device on stdin and stdout. Returns 0 when stdin has ended. poll(), as epoll takes no file on a disk. */
static int turn(kf_unit_t *unit, uint32_t slice_macs, const sigset_t *inside) {
    struct pollfd fds[2] = {{.fd = unit->in, .events = POLLIN}, {.fd = unit->blocked ? unit->out : -1, .events = POLLOUT}};
    const uint32_t left = kf_time_left(kf_unit_clock(), unit->due_ms);
    const uint32_t wait = left < SLEEP_MAX_MS ? left : SLEEP_MAX_MS;
    const struct timespec timeout = {(time_t)(wait / 1000u), (long)(wait % 1000u) * 1000000};
    if (ppoll(fds, 2, &timeout, inside) < 0 && errno != EINTR) {
        perror("kilofed-posix: ppoll");
        return 0;
    }
    if (stopping) {
        return 1;
    }
    const uint32_t now = kf_unit_clock();
    if (fds[0].revents != 0 && kf_unit_read(unit, now) != 0) {
        return 0;
    }
    if (fds[1].revents != 0) {
        unit->blocked = 0;
        unit->due_ms = now;
    }
    if (kf_time_reached(now, unit->due_ms)) {
        kf_unit_work(unit, slice_macs);
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

/* Until a signal comes, or stdin has ended. */
static int work(kf_unit_t *units, const kf_options_t *o, const struct addrinfo *address) {
    sigset_t inside;
    signals_begin(&inside);
    if (o->verbose) {
        fprintf(stderr, "kilofed-posix: %u devices of %zu bytes\n", o->count, units[0].memory_bytes);
    }
    if (o->stdio) {
        while (!stopping && turn(&units[0], o->slice_macs, &inside)) {
        }
        return 0;
    }
    kf_loop_t loop;
    int failed = kf_loop_init(&loop, units, o->count, address, o->slice_macs) != 0;
    while (!failed && !stopping) {
        failed = kf_loop_turn(&loop, &inside) != 0;
    }
    kf_loop_free(&loop);
    return failed;
}

static int run(const kf_options_t *o, const kf_file_t *model, const kf_file_t *samples) {
    struct addrinfo *address = NULL;
    if (!o->stdio && (address = resolve(o)) == NULL) {
        return 1;
    }
    const uint32_t boot = o->boots != NULL ? kf_boot_count(o->boots) : 0;
    int failed = (o->boots != NULL && boot == 0) || files_allow(o->count) != 0;
    kf_unit_t *units = failed ? NULL : calloc(o->count, sizeof *units);
    uint32_t made = 0;
    failed = failed || units == NULL;
    while (!failed && made < o->count) {
        failed = kf_unit_init(&units[made], o, model, samples, made, boot) != 0;
        made++;
    }
    if (!failed && o->stdio) {
        failed = kf_unit_use_stdio(&units[0]) != 0;
    }
    if (!failed) {
        failed = work(units, o, address);
        for (uint32_t i = 0; i < made; i++) {
            kf_unit_leave(&units[i]);
        }
    }
    for (uint32_t i = 0; i < made; i++) {
        kf_unit_free(&units[i]);
    }
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
        kf_file_t model = {NULL, 0}, samples = {NULL, 0};
        result = 1;
        if (kf_file_map(&model, options.model) == 0 &&
            (options.all_samples == NULL || kf_file_map(&samples, options.all_samples) == 0)) {
            result = run(&options, &model, &samples);
        }
        kf_file_unmap(&samples);
        kf_file_unmap(&model);
    }
    kf_options_free(&options);
    return result;
}
