/* The device's network interface: lwIP over the controller of ether.h, with an address of its own or one from DHCP. */
#ifndef KF_NET_NETIF_H
#define KF_NET_NETIF_H

#include <stdint.h>

#include "kilofed/network.h"
#include "kilofed/settings.h"
#include "kilofed/status.h"

/* Start the controller and lwIP. KF_OK, or what kf_ether_start() found. Called once. */
KF_MUST_CHECK kf_status_t kf_netif_start(const kf_network_t *network, const kf_identity_t *identity);

/* Take what came, look at the cable, run lwIP's timers. Returns in how many milliseconds to call again at the latest. */
uint32_t kf_netif_poll(void);

/* Whether packets can be sent: a cable, and an address. */
int kf_netif_up(void);

/* A number that differs from boot to boot where the board has entropy, and from device to device anywhere. */
uint32_t kf_net_random(void);

#endif
