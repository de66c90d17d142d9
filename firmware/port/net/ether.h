/* What an Ethernet controller gives to the network port: whole frames, without their checksum, and whether a cable is in.
 *
 * port/lan9118 is one. All are called from the main loop; the controller's interrupt handler only notes that something came.
 * Nothing waits unbounded for hardware.
 */
#ifndef KF_NET_ETHER_H
#define KF_NET_ETHER_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/status.h"

#define KF_ETHER_FRAME 1514u /* bytes of the longest frame: header 14, payload 1500 */

/* Reset the controller and let it receive. mac: in, the address to take when the controller has none of its own; out, the
 * address it has. KF_OK, or KF_ERR_PORT: there is no such controller, or it did not come up in bounded time. */
KF_MUST_CHECK kf_status_t kf_ether_start(uint8_t mac[6]);

/* Whether the other end of the cable is there. */
int kf_ether_link(void);

/* Whether frames may have come since the last kf_ether_receive() that returned 0. With interrupts masked or not. */
int kf_ether_pending(void);

/* Take the oldest frame that came whole; damaged and longer ones are dropped. frame: `size` bytes, a multiple of 4 and at
 * least KF_ETHER_FRAME, aligned to 4. Returns the frame's bytes, 0 when there is none. */
size_t kf_ether_receive(void *frame, size_t size);

/* Send a frame of `size` bytes: kf_ether_send(size), then all its bytes in pieces of any length by kf_ether_put().
 * KF_ERR_BUSY: the controller has no room now, and takes no bytes; whoever sends over a network sends again. */
KF_MUST_CHECK kf_status_t kf_ether_send(size_t size);
void kf_ether_put(const void *bytes, size_t size);

#endif
