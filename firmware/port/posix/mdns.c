#define _GNU_SOURCE
#include "mdns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORT 5353
#define GROUP "224.0.0.251"
#define SERVICE "_kilofed._tcp.local"
#define PACKET_BYTES 9000 /* RFC 6762, 17 */
#define RECORDS 64u       /* of an answer that are looked at */
#define JUMPS 16u         /* of one name: each goes back, so a loop would take as many as there are bytes */

enum { TYPE_A = 1, TYPE_PTR = 12, TYPE_SRV = 33, CLASS_IN = 1, ASK_UNICAST = 0x8000 };
enum { NAME_BYTES = 256 }; /* a name as text with its zero: at most 255 (RFC 1035, 2.3.4) */

/* PTR? _kilofed._tcp.local, class IN, answers to the asker alone. */
static const uint8_t question[] = {
    0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8, '_', 'k', 'i', 'l', 'o', 'f', 'e', 'd', 4, '_', 't', 'c', 'p', 5, 'l', 'o', 'c', 'a', 'l',
    0, 0, TYPE_PTR, ASK_UNICAST >> 8, CLASS_IN,
};

typedef struct record {
    char name[NAME_BYTES];
    uint16_t type;
    size_t data, size; /* of its content in the packet */
} record_t;

static uint16_t get_u16(const uint8_t *bytes) {
    return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

/* Read the name at `at`, joined by dots, into `out`. Returns the position behind it, 0 for one that is damaged or too long. */
static size_t name_read(const uint8_t *packet, size_t size, size_t at, char out[NAME_BYTES]) {
    size_t used = 0, behind = 0;
    unsigned jumps = 0;

    while (at < size) {
        const size_t length = packet[at];
        if (length == 0) {
            out[used > 0 ? used - 1 : 0] = 0; /* in place of the last dot */
            return behind != 0 ? behind : at + 1;
        }
        if ((length & 0xC0u) == 0xC0u) { /* the rest stands elsewhere, before this */
            if (at + 2 > size || ++jumps > JUMPS) {
                return 0;
            }
            behind = behind != 0 ? behind : at + 2;
            at = get_u16(packet + at) & 0x3FFFu;
            continue;
        }
        if ((length & 0xC0u) != 0 || at + 1 + length > size || used + length + 1 > NAME_BYTES) {
            return 0;
        }
        memcpy(out + used, packet + at + 1, length);
        used += length;
        out[used++] = '.';
        at += 1 + length;
    }
    return 0;
}

/* Read the record at `at`. Returns the position behind it, 0 for one that is damaged. */
static size_t record_read(const uint8_t *packet, size_t size, size_t at, record_t *out) {
    at = name_read(packet, size, at, out->name);
    if (at == 0 || size - at < 10) {
        return 0;
    }
    out->type = get_u16(packet + at);
    out->size = get_u16(packet + at + 8);
    out->data = at + 10;
    return out->size <= size - out->data ? out->data + out->size : 0;
}

/* The position of the first record, behind the questions; 0 for a packet that is no answer. */
static size_t records_begin(const uint8_t *packet, size_t size) {
    char name[NAME_BYTES];
    size_t at = 12;

    if (size < 12 || (packet[2] & 0x80u) == 0) {
        return 0;
    }
    for (unsigned left = get_u16(packet + 4); left > 0 && at != 0; left--) {
        at = name_read(packet, size, at, name);
        at = at != 0 && size - at >= 4 ? at + 4 : 0;
    }
    return at;
}

/* The next record of `type` from `*at` on, of the `*left` that remain. Returns 0 when there is none. */
static int record_find(const uint8_t *packet, size_t size, size_t *at, unsigned *left, uint16_t type, record_t *out) {
    while (*left > 0 && *at != 0) {
        (*left)--;
        *at = record_read(packet, size, *at, out);
        if (*at != 0 && out->type == type) {
            return 1;
        }
    }
    return 0;
}

static int ends_with(const char *text, const char *end) {
    const size_t length = strlen(text), tail = strlen(end);

    return length > tail && strcasecmp(text + length - tail, end) == 0 && text[length - tail - 1] == '.';
}

int kf_mdns_parse(const uint8_t *packet, size_t size, struct sockaddr_in *out) {
    const size_t begin = records_begin(packet, size);
    unsigned count;
    size_t at = begin;
    record_t service, host;

    if (begin == 0) {
        return 0;
    }
    count = (unsigned)get_u16(packet + 6) + get_u16(packet + 8) + get_u16(packet + 10);
    count = count < RECORDS ? count : RECORDS;
    for (unsigned left = count; record_find(packet, size, &at, &left, TYPE_SRV, &service);) {
        char target[NAME_BYTES];
        size_t place = begin;

        if (!ends_with(service.name, SERVICE) || service.size < 7 ||
            name_read(packet, size, service.data + 6, target) == 0 || get_u16(packet + service.data + 4) == 0) {
            continue;
        }
        for (unsigned more = count; record_find(packet, size, &place, &more, TYPE_A, &host);) {
            if (host.size == 4 && strcasecmp(host.name, target) == 0) {
                memset(out, 0, sizeof *out);
                out->sin_family = AF_INET;
                memcpy(&out->sin_addr, packet + host.data, 4);
                out->sin_port = htons(get_u16(packet + service.data + 4));
                return 1;
            }
        }
    }
    return 0;
}

static int64_t now_ms(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int answer_wait(int fd, struct sockaddr_in *out, int wait_ms) {
    static uint8_t packet[PACKET_BYTES];
    const int64_t until = now_ms() + wait_ms;
    struct pollfd waiting = {.fd = fd, .events = POLLIN};

    for (;;) {
        const int64_t left = until - now_ms();
        if (left <= 0 || poll(&waiting, 1, (int)left) <= 0) {
            return 0;
        }
        const ssize_t size = recv(fd, packet, sizeof packet, MSG_DONTWAIT);
        if (size > 0 && kf_mdns_parse(packet, (size_t)size, out)) {
            return 1;
        }
    }
}

/* Ask on each network this machine is on: which of them a host is on, and whether multicast has a route, nobody knows. Returns how
 * many were asked, -1 with errno for none. */
static int ask_everywhere(int fd) {
    struct sockaddr_in group = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    struct ifaddrs *all = NULL;
    int asked = 0, error = ENETUNREACH;

    (void)inet_pton(AF_INET, GROUP, &group.sin_addr);
    if (getifaddrs(&all) != 0) {
        return -1;
    }
    for (const struct ifaddrs *one = all; one != NULL; one = one->ifa_next) {
        struct sockaddr_in own;
        if (one->ifa_addr == NULL || one->ifa_addr->sa_family != AF_INET || (one->ifa_flags & IFF_UP) == 0 ||
            (one->ifa_flags & IFF_LOOPBACK) != 0) {
            continue;
        }
        memcpy(&own, one->ifa_addr, sizeof own);
        if (setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &own.sin_addr, sizeof own.sin_addr) == 0 &&
            sendto(fd, question, sizeof question, 0, (struct sockaddr *)&group, sizeof group) == (ssize_t)sizeof question) {
            asked++;
        } else {
            error = errno;
        }
    }
    freeifaddrs(all);
    errno = error;
    return asked > 0 ? asked : -1;
}

int kf_mdns_find(struct sockaddr_in *out, int wait_ms) {
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int found = -1, error;

    if (fd < 0) {
        return -1;
    }
    if (ask_everywhere(fd) > 0) {
        found = answer_wait(fd, out, wait_ms);
    }
    error = errno;
    close(fd);
    errno = error;
    return found;
}
