/* What lwIP asks of a compiler and a core: nothing beyond its defaults for GCC on a little-endian core. */
#ifndef KF_NET_ARCH_CC_H
#define KF_NET_ARCH_CC_H

#include <stdint.h>

/* netif.c: initial sequence numbers, the first local port, DHCP's transaction numbers. */
uint32_t kf_net_random(void);
#define LWIP_RAND() kf_net_random()

#endif
