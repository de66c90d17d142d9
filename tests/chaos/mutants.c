/* Frames that were damaged on the way: none may be delivered.
 *
 *     mutants COUNT SEED        prints how many of the damaged frames were refused, and how many had come whole after all
 *
 * Each frame is sealed as a session's next one, and damaged in one to four places: bits and bytes changed, taken out, put in,
 * two frames mixed, an end cut off. Then it is fed to a decoder of that session. What is delivered has to be, byte for byte, what
 * was sealed; when nothing is, the frame itself comes next and has to be. The exit status is 1 when it is not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kilofed/frame.h"

enum { LONGEST = 128, ROOM = 2 * LONGEST + 8 };

static uint64_t state;

/* xorshift64* (Marsaglia 2003, Vigna 2016). */
static uint32_t chance(uint32_t below) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)((state * UINT64_C(2685821657736338717)) >> 32) % below;
}

static size_t seal(kf_frame_channel_t *out, uint8_t message[LONGEST], size_t *size, uint8_t wire[LONGEST]) {
    uint8_t buffer[KF_FRAME_SEND_BYTES(LONGEST)];
    *size = 1u + chance((uint32_t)kf_frame_message_max(LONGEST, KF_FRAME_ENCRYPTED));
    for (size_t i = 0; i < *size; i++) {
        message[i] = (uint8_t)chance(chance(4) ? 256 : 2); /* zeros are what COBS is about */
    }
    memcpy(kf_frame_message_at(buffer, LONGEST), message, *size);
    size_t bytes;
    const uint8_t *frame = kf_frame_seal(buffer, LONGEST, *size, out, &bytes);
    memcpy(wire, frame, bytes);
    return bytes;
}

/* One change. Returns how many bytes there are then. */
static size_t damage(uint8_t *line, size_t bytes, const uint8_t *other, size_t other_bytes) {
    const size_t at = chance((uint32_t)bytes);
    switch (chance(7)) {
    case 0: /* another byte */
        line[at] = (uint8_t)chance(256);
        return bytes;
    case 1: /* one is lost */
        memmove(line + at, line + at + 1, bytes - at - 1);
        return bytes > 1 ? bytes - 1 : bytes;
    case 2: /* one comes too much */
        if (bytes < ROOM) {
            memmove(line + at + 1, line + at, bytes - at);
            line[at] = (uint8_t)chance(256);
            return bytes + 1;
        }
        return bytes;
    case 3: /* the rest is another frame's */
        if (at < other_bytes) {
            memcpy(line + at, other + at, other_bytes - at);
            return other_bytes;
        }
        return bytes;
    case 4: /* the end is missing; its delimiter is the next frame's */
        line[at] = 0;
        return at + 1;
    default:
        line[at] ^= (uint8_t)(1u << chance(8));
        return bytes;
    }
}

/* How many frames are delivered; -1 when one is not what was sealed. */
static int deliver(kf_frame_channel_t *in, const uint8_t *line, size_t bytes, const uint8_t *message, size_t size) {
    uint8_t buffer[LONGEST];
    kf_frame_decoder_t decoder;
    kf_frame_decoder_init(&decoder, buffer, sizeof buffer);
    int delivered = 0;
    for (size_t done = 0; done < bytes;) {
        kf_frame_outcome_t outcome;
        kf_frame_t frame;
        done += kf_frame_feed(&decoder, in, line + done, bytes - done, &outcome, &frame);
        if (outcome == KF_FRAME_READY) {
            delivered++;
            if (frame.type != KF_FRAME_ENCRYPTED || frame.size != size || memcmp(frame.bytes, message, size) != 0) {
                return -1;
            }
        }
    }
    return delivered;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        return 2;
    }
    const unsigned long count = strtoul(argv[1], NULL, 10);
    state = strtoull(argv[2], NULL, 10) * 2654435761u + 1;
    unsigned long refused = 0, whole = 0;
    kf_frame_channel_t out = {.open = 1, .sender = KF_FROM_HOST, .encrypted = 1};
    for (size_t i = 0; i < sizeof out.key; i++) {
        out.key[i] = (uint8_t)chance(256);
    }
    uint8_t other[LONGEST], message[LONGEST], wire[LONGEST], line[ROOM];
    size_t other_bytes = 0;
    kf_frame_channel_t in = out;
    for (unsigned long n = 0; n < count; n++) {
        size_t size;
        const size_t sealed = seal(&out, message, &size, wire);
        size_t bytes = sealed;
        memcpy(line, wire, sealed);
        do {
            for (uint32_t changes = 1 + chance(4); changes > 0; changes--) {
                bytes = damage(line, bytes, other, other_bytes);
            }
        } while (bytes == sealed && memcmp(line, wire, sealed) == 0);
        const int delivered = deliver(&in, line, bytes, message, size);
        if (delivered < 0 || delivered > 1 || (delivered == 0 && deliver(&in, wire, sealed, message, size) != 1)) {
            printf("frame %lu: %s\n", n, delivered != 0 ? "delivered damaged, or twice" : "refused undamaged");
            return 1;
        }
        refused += !delivered;
        whole += delivered != 0;
        memcpy(other, wire, sealed);
        other_bytes = sealed;
    }
    printf("%lu %lu\n", refused, whole);
    return 0;
}
