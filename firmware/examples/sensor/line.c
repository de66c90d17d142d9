#define _GNU_SOURCE /* getaddrinfo, getrandom */
#include "line.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int line_open(line_t *line, const char *address) {
    char host[256];
    const char *colon = strrchr(address, ':');
    if (colon == NULL || (size_t)(colon - address) >= sizeof host) {
        fprintf(stderr, "sensor: %s: give HOST:PORT, such as 127.0.0.1:7600\n", address);
        return -1;
    }
    memcpy(host, address, (size_t)(colon - address));
    host[colon - address] = 0;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    if (getaddrinfo(host, colon + 1, &hints, &found) == 0) {
        for (const struct addrinfo *at = found; at != NULL && line->socket < 0; at = at->ai_next) {
            line->socket = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, at->ai_protocol);
            if (line->socket >= 0 && connect(line->socket, at->ai_addr, at->ai_addrlen) != 0) {
                close(line->socket);
                line->socket = -1;
            }
        }
        freeaddrinfo(found);
    }
    if (line->socket < 0) {
        fprintf(stderr, "sensor: nobody listens at %s: start `kilofed run --listen %s` first\n", address, address);
        return -1;
    }
    const int on = 1;
    (void)setsockopt(line->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return 0;
}

void line_close(line_t *line) {
    if (line->socket >= 0) {
        close(line->socket);
    }
    *line = (line_t)LINE_DOWN;
}

int line_read(line_t *line, uint8_t *bytes, size_t size) {
    if (line->socket < 0) {
        return 0;
    }
    const ssize_t got = recv(line->socket, bytes, size, MSG_DONTWAIT);
    if (got > 0) {
        return (int)got;
    }
    return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? 0 : -1;
}

void line_wait(const line_t *line, uint32_t wait_ms) {
    /* poll() passes over a file number below 0. */
    struct pollfd file = {.fd = line->socket, .events = (short)(line->full ? POLLIN | POLLOUT : POLLIN)};
    (void)poll(&file, 1, wait_ms < 1000u ? (int)wait_ms : 1000);
}

/* ---- the port --------------------------------------------------------------------------------------------------- */

static size_t port_write(void *context, const uint8_t *bytes, size_t size) {
    line_t *line = context;
    if (line->socket < 0) {
        return 0; /* takes nothing: kilofed keeps its hello until there is a line */
    }
    const ssize_t sent = send(line->socket, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    const size_t taken = sent > 0 ? (size_t)sent : 0;
    line->full = taken < size;
    return taken;
}

static uint32_t port_millis(void *context) {
    (void)context;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)now.tv_sec * 1000u + (uint32_t)(now.tv_nsec / 1000000);
}

static kf_status_t port_entropy(void *context, uint8_t *out, size_t size) {
    (void)context;
    return getrandom(out, size, 0) == (ssize_t)size ? KF_OK : KF_ERR_PORT;
}

kf_port_t line_port(line_t *line) {
    return (kf_port_t){.context = line, .write = port_write, .millis = port_millis, .entropy = port_entropy};
}
