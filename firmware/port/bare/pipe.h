/* Where the device's frames come from and go to: bytes in order, both ways, until they are lost.
 *
 * The build links one of two: pipe.c beside this file (the UART) or port/net/pipe.c (one TCP connection to the host). All
 * are called from the main loop. What the board says to people goes over the UART (line.h) in either case.
 */
#ifndef KF_BARE_PIPE_H
#define KF_BARE_PIPE_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/settings.h"

/* What kf_pipe_poll() answers when it wants nothing at any time. */
#define KF_PIPE_NEVER UINT32_MAX

/* Called once, after kf_chip_start(). Returns NULL, or why there will be no pipe and what to do about it, for people. */
const char *kf_pipe_start(const kf_identity_t *identity);

/* Do what is due, and send what was written. Returns in how many milliseconds to call again at the latest. */
uint32_t kf_pipe_poll(void);

/* Take up to `size` received bytes; returns how many. */
size_t kf_pipe_read(uint8_t *out, size_t size);

/* Queue up to `size` bytes for sending; returns how many were taken. Never waits. A pipe that is cut takes all of them, and
 * they go nowhere, as into an unplugged cable: the session notices by the silence. */
size_t kf_pipe_write(const uint8_t *bytes, size_t size);

/* Whether the loop has something to do: bytes to read, room after a write that was not taken whole, or work for
 * kf_pipe_poll(). Call with interrupts masked before sleeping, so that nothing comes between the look and the sleep. */
int kf_pipe_pending(void);

#endif
