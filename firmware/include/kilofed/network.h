/* kilofed: where the host is, for a device that reaches it over a network: the network block, written beside the settings
 * page at flash time.
 *
 * The block is 32 bytes, little endian, KF_NETWORK_OFFSET bytes behind the address of the settings page; IPv4 addresses are
 * four bytes in the order they are written in:
 *
 *   0 u32 magic "KFN1" | 4 u16 version 1 | 6 u16 size 32 | 8 host[4] | 12 u16 port | 14 u16 0
 *   16 address[4] | 20 netmask[4] | 24 gateway[4] | 28 u32 CRC-32 of 0..27
 *
 * It holds no secret: who may be talked to is the session's matter (SECURITY.md). */
#ifndef KILOFED_NETWORK_H
#define KILOFED_NETWORK_H

#include <stdint.h>

#include "kilofed/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KF_NETWORK_BYTES 32u
#define KF_NETWORK_OFFSET 256u /* behind the settings page, which may grow up to here */

typedef struct kf_network {
    uint8_t host[4];    /* never all zero */
    uint16_t port;      /* 1 .. 65535 */
    uint8_t address[4]; /* the device's own; all zero: ask by DHCP, and ignore the two below */
    uint8_t netmask[4];
    uint8_t gateway[4]; /* all zero: none, the host is on the device's own network */
} kf_network_t;

/* Read a network block. It may lie at any address; `out` is a copy. Returns KF_OK; KF_ERR_ARG for a null pointer; KF_ERR_PORT
 * for a block that is erased, of another version, damaged, or without a host or port: then `out` is all zero. Next step for
 * a user: `kilofed flash --link ethernet --host HOST:PORT` writes it. */
KF_MUST_CHECK kf_status_t kf_network_read(kf_network_t *out, const uint8_t block[KF_NETWORK_BYTES]);

#ifdef __cplusplus
}
#endif
#endif
