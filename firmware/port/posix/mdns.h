/* Find a host that announces itself on the local network: one question by multicast DNS, and its answers (RFC 6762, 6763).
 *
 * The question goes out from an ordinary port, so that answers come back to it alone (RFC 6762, 6.7). An answer counts when it
 * carries all at once: the service (SRV) and the IPv4 address (A) of its machine, as announcers send it. Nothing in it is
 * trusted: whoever answers is believed only once the session shows that it holds the device's key. */
#ifndef KF_POSIX_MDNS_H
#define KF_POSIX_MDNS_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

/* Ask, and wait up to `wait_ms` for an answer. Returns 1 and fills `out`; 0 when nobody answered; -1 with errno when the network
 * cannot be asked. A signal ends the wait with 0. */
int kf_mdns_find(struct sockaddr_in *out, int wait_ms);

/* Read one answer of `size` bytes. Returns 1 and fills `out` when it holds a host and its address, else 0. Reads nothing outside of
 * the packet, whatever is in it. */
int kf_mdns_parse(const uint8_t *packet, size_t size, struct sockaddr_in *out);

#endif
