/* The board's UART, buffered both ways between its interrupt handlers and the main loop.
 *
 * One producer and one consumer a ring: the handler writes `rx` and reads `tx`, the loop the other way round. Indices
 * run freely and wrap at 2^32, so that a ring of 2^k bytes holds 2^k bytes; each is written by one side only. A full
 * receive ring refuses the byte: the handler leaves it in the UART, and a sender with flow control (QEMU, or a window
 * of the link protocol, which is the size of this ring) waits.
 */
#ifndef KF_BARE_LINE_H
#define KF_BARE_LINE_H

#include <stddef.h>
#include <stdint.h>

/* ---- for the main loop ---- */

/* Take up to `size` received bytes; returns how many. */
size_t kf_line_read(uint8_t *out, size_t size);

/* Queue up to `size` bytes for sending; returns how many fit. Never waits. */
size_t kf_line_write(const uint8_t *bytes, size_t size);

/* Whether the loop has something to do for the line: bytes to read, or room after a write that did not fit. Call with
 * interrupts masked before sleeping, so that nothing comes between the look and the sleep. */
int kf_line_pending(void);

/* ---- for interrupt handlers and the chip's functions that run with interrupts masked ---- */

/* Whether the receive ring takes another byte. */
int kf_line_rx_room(void);

/* Put one received byte; there must be room. */
void kf_line_rx_put(uint8_t byte);

/* Take the next byte to send into *byte; 0 when there is none. */
int kf_line_tx_get(uint8_t *byte);

#endif
