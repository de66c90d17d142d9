/* What the network tells a person who looks at the UART: one line an event, dropped when the line is busy. */
#ifndef KF_NET_SAY_H
#define KF_NET_SAY_H

#include <stdint.h>

/* Up to KF_SAY_NONE, an address in network byte order, and a port after a colon unless it is 0. */
#define KF_SAY_NONE 0u
void kf_say(const char *text, uint32_t address, uint16_t port);

#endif
