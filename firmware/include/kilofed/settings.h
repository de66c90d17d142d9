/* kilofed: who this device is: the settings page that is written beside the firmware at flash time.
 *
 * The page is 64 bytes, little endian, at an address the board's data file names:
 *
 *   0 u32 magic "KFI1" | 4 u16 version 1 | 6 u16 size 64 | 8 id[8] | 16 key[32] | 48 name[12] | 60 u32 CRC-32 of 0..59
 *
 * The key is the secret that the device shares with its host: with one, its sessions are encrypted, and no others are opened
 * (SECURITY.md). All zero means that it has none, for the bench: its sessions are in the clear. A page that is erased or damaged is refused whole: a device with a half-right name or
 * key would be worse than one that says nothing. */
#ifndef KILOFED_SETTINGS_H
#define KILOFED_SETTINGS_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KF_SETTINGS_BYTES 64u

typedef struct kf_identity {
    uint8_t id[8];   /* stable for the life of the device; all zero is allowed and unwise */
    uint8_t key[32]; /* secret; all zero: none */
    uint8_t name[12]; /* UTF-8, zero padded, not zero terminated when all 12 bytes are used; for people */
} kf_identity_t;

/* Read a settings page. The page may lie at any address; `out` is a copy and the page is not needed afterwards.
 * Returns KF_OK; KF_ERR_ARG for a null pointer; KF_ERR_PORT for a page that is erased, of another version, or whose
 * CRC is wrong: then `out` is all zero. Next step for a user: `kilofed flash` writes the page. */
KF_MUST_CHECK kf_status_t kf_settings_read(kf_identity_t *out, const uint8_t page[KF_SETTINGS_BYTES]);

/* Whether the device has a key. Looks at every byte, whatever they are. */
int kf_identity_has_key(const kf_identity_t *identity);

/* What kf_port_t.entropy may give on a board that has storage and no hardware source of randomness: `size` bytes, 1 to 64, that
 * nobody without the device's key can foresee. They do not come again as long as the port keeps two rules. boot: larger
 * than at any start before, and stored before this start's first call. draw: counts the calls of this start.
 * KF_ERR_UNSUPPORTED: the device has no key, so there is no seed. KF_ERR_ARG: a null pointer or another size. */
KF_MUST_CHECK kf_status_t kf_entropy_of_boots(const kf_identity_t *identity, uint32_t boot, uint32_t draw, uint8_t *out,
                                              size_t size);

#ifdef __cplusplus
}
#endif
#endif
