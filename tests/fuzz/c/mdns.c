/* Fuzz target: an answer by multicast DNS, as the posix port reads it off the network before any key was shown.
 *
 *     u8 what & 1: 0 the bytes are the packet | 1 a header that says answer and counts comes before them
 *
 * Promised by mdns.h: nothing outside of the packet is read (it lies at the end of a block of its own), the same packet gives the
 * same host, and a host that is given has an address and a port of the packet's. */
#include "input.h"
#include "port/posix/mdns.h"

enum { HEADER_BYTES = 12 };

static int holds(const uint8_t *packet, size_t size, const void *part, size_t bytes) {
    for (size_t at = 0; at + bytes <= size; at++) {
        if (memcmp(packet + at, part, bytes) == 0) {
            return 1;
        }
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint8_t header[HEADER_BYTES] = {0, 0, 0x84, 0, 0, 0, 0, 4, 0, 0, 0, 4};
    struct sockaddr_in found, again;
    size_t before, bytes;
    uint8_t *packet;

    if (size == 0) {
        return 0;
    }
    before = (data[0] & 1u) != 0 ? HEADER_BYTES : 0;
    bytes = before + size - 1;
    packet = block(bytes);
    memcpy(packet, header, before);
    memcpy(packet + before, data + 1, size - 1);

    memset(&found, 0xA5, sizeof found);
    memset(&again, 0x5A, sizeof again);
    const int status = kf_mdns_parse(packet, bytes, &found);
    PROMISE(status == 0 || status == 1);
    PROMISE(kf_mdns_parse(packet, bytes, &again) == status);
    if (status == 1) {
        PROMISE(memcmp(&found, &again, sizeof found) == 0);
        PROMISE(found.sin_family == AF_INET && found.sin_port != 0);
        PROMISE(holds(packet, bytes, &found.sin_addr, 4) && holds(packet, bytes, &found.sin_port, 2));
    } else {
        const uint8_t *untouched = (const uint8_t *)&found;
        for (size_t i = 0; i < sizeof found; i++) {
            PROMISE(untouched[i] == 0xA5);
        }
    }
    free(packet);
    return 0;
}
