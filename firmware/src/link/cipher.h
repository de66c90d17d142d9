/* The cipher of encrypted frames, ChaCha20-Poly1305 (RFC 8439), in pieces, and the keys of a session.
 *
 * Made of Monocypher's chacha20 and poly1305, in the order of RFC 8439, 2.8. In pieces because a receiver reads a frame's bytes
 * through COBS: it checks the tag on the way and touches nothing before the tag is right. tests/vectors/secure.json, which a
 * third implementation made, holds it to the RFC.
 *
 *     begin, update with all of the ciphertext, tag, and crypt with all of the text, before or after that */
#ifndef KF_LINK_CIPHER_H
#define KF_LINK_CIPHER_H

#include <stddef.h>
#include <stdint.h>

#include <monocypher.h>

#include "kilofed/frame.h"

typedef struct kf_cipher {
    crypto_poly1305_ctx mac;
    const uint8_t *key; /* must outlive the cipher */
    uint8_t nonce[12];  /* the frame's number, little endian */
    uint32_t bytes;     /* of ciphertext so far */
} kf_cipher_t;

/* Begin a frame: its whole number, and its header, which is authenticated. Never begin to seal two frames under one number and
 * key. */
void kf_cipher_begin(kf_cipher_t *cipher, const uint8_t key[KF_FRAME_KEY_BYTES], uint32_t number,
                     const uint8_t header[KF_FRAME_HEADER_BYTES]);

/* Ciphertext, in pieces of any size. */
void kf_cipher_update(kf_cipher_t *cipher, const uint8_t *text, size_t size);

/* The tag over all of it, once. Wipes what the cipher keeps of the key stream. */
void kf_cipher_tag(kf_cipher_t *cipher, uint8_t tag[KF_FRAME_TAG_BYTES]);

/* Plain text to ciphertext or back, in place: the whole of it in one call. */
void kf_cipher_crypt(const kf_cipher_t *cipher, uint8_t *text, size_t size);

/* ---- keys ------------------------------------------------------------------------------------------------------ */

/* The key of a direction for its next 2^16 numbers; in place is fine. */
void kf_key_next(uint8_t next[KF_FRAME_KEY_BYTES], const uint8_t key[KF_FRAME_KEY_BYTES]);

/* The keys of the session that a hello and its welcome open, and what proves that the host has the device's key (PROTOCOL.md,
 * "Encrypted sessions"). hello: the message as it was sent; welcome: the message up to where its proof begins. */
void kf_keys_derive(const uint8_t key[KF_FRAME_KEY_BYTES], const uint8_t *hello, size_t hello_bytes, const uint8_t *welcome,
                    size_t welcome_bytes, uint8_t from_host[KF_FRAME_KEY_BYTES], uint8_t from_device[KF_FRAME_KEY_BYTES],
                    uint8_t proof[16]);

#endif
