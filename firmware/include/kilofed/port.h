/* What the core asks of the board it runs on: four functions, none of which may block.
 *
 * A port is this struct filled in, a loop that feeds received bytes to kf_receive() and calls kf_poll(), and a
 * settings page. PORTING.md walks through writing one; port/template compiles with each gap marked. */
#ifndef KILOFED_PORT_H
#define KILOFED_PORT_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kf_port {
    /* Handed to every call below; the core never looks at it. */
    void *context;

    /* Takes up to `size` bytes for the line and returns how many it took, 0 when its buffer is full. Must not
     * wait for the line: the core keeps the rest and offers it again at the next kf_poll(). */
    size_t (*write)(void *context, const uint8_t *bytes, size_t size);

    /* Milliseconds since any fixed moment, wrapping at 2^32. Steps of up to 20 ms are fine (a 100 Hz tick is). */
    uint32_t (*millis)(void *context);

    /* Fills `out` with bytes nobody else can predict and that do not come again, not after a reset either: they make a session's
     * keys fresh (SECURITY.md). A port with storage and no hardware source meets this with a count of its boots and
     * kf_entropy_of_boots(), settings.h. A board with neither returns KF_ERR_UNSUPPORTED, or has NULL here: the device then says so in its hello, and derives nonces from its identity, a
     * counter and the time, which gives up the protection against replay after a reset. */
    kf_status_t (*entropy)(void *context, uint8_t *out, size_t size);

    /* Optional (NULL): bytes from the line that were no frame, for a log; as they came, without the 0x00 that ended
     * them. Called from kf_receive(), once for each such piece. The bytes are gone after the call. */
    void (*stray)(void *context, const uint8_t *bytes, size_t size);
} kf_port_t;

#ifdef __cplusplus
}
#endif
#endif
