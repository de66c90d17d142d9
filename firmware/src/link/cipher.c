#include "cipher.h"

#include <string.h>

#include "../bytes.h"

/* RFC 8439, 2.8: each part of what is authenticated is filled up with zeros to a multiple of 16. */
static void pad(crypto_poly1305_ctx *mac, uint32_t size) {
    static const uint8_t zeros[15];
    crypto_poly1305_update(mac, zeros, (16u - size % 16u) % 16u);
}

void kf_cipher_begin(kf_cipher_t *c, const uint8_t key[KF_FRAME_KEY_BYTES], uint32_t number,
                     const uint8_t header[KF_FRAME_HEADER_BYTES]) {
    c->key = key;
    c->bytes = 0;
    memset(c->nonce, 0, sizeof c->nonce);
    kf_put_u32(c->nonce, number);
    uint8_t once[32]; /* 2.6: the tag's key is the first half of block 0 */
    crypto_chacha20_ietf(once, NULL, sizeof once, key, c->nonce, 0);
    crypto_poly1305_init(&c->mac, once);
    crypto_wipe(once, sizeof once);
    crypto_poly1305_update(&c->mac, header, KF_FRAME_HEADER_BYTES);
    pad(&c->mac, KF_FRAME_HEADER_BYTES);
}

void kf_cipher_update(kf_cipher_t *c, const uint8_t *text, size_t size) {
    crypto_poly1305_update(&c->mac, text, size);
    c->bytes += (uint32_t)size;
}

void kf_cipher_tag(kf_cipher_t *c, uint8_t tag[KF_FRAME_TAG_BYTES]) {
    uint8_t sizes[16] = {KF_FRAME_HEADER_BYTES};
    kf_put_u32(sizes + 8, c->bytes);
    pad(&c->mac, c->bytes);
    crypto_poly1305_update(&c->mac, sizes, sizeof sizes);
    crypto_poly1305_final(&c->mac, tag);
}

void kf_cipher_crypt(const kf_cipher_t *c, uint8_t *text, size_t size) {
    crypto_chacha20_ietf(text, text, size, c->key, c->nonce, 1);
}

/* ---- keys ------------------------------------------------------------------------------------------------------ */

#define KEYED(out, out_bytes, key, label) \
    crypto_blake2b_keyed(out, out_bytes, key, KF_FRAME_KEY_BYTES, (const uint8_t *)(label), sizeof(label) - 1u)

void kf_key_next(uint8_t next[KF_FRAME_KEY_BYTES], const uint8_t key[KF_FRAME_KEY_BYTES]) {
    KEYED(next, KF_FRAME_KEY_BYTES, key, "next"); /* the key is read before anything is written */
}

void kf_keys_derive(const uint8_t key[KF_FRAME_KEY_BYTES], const uint8_t *hello, size_t hello_bytes, const uint8_t *welcome,
                    size_t welcome_bytes, uint8_t from_host[KF_FRAME_KEY_BYTES], uint8_t from_device[KF_FRAME_KEY_BYTES],
                    uint8_t proof[16]) {
    static const char label[27] = "kilofed encrypted session 1";
    uint8_t root[KF_FRAME_KEY_BYTES];
    crypto_blake2b_ctx hash;
    crypto_blake2b_keyed_init(&hash, sizeof root, key, KF_FRAME_KEY_BYTES);
    crypto_blake2b_update(&hash, (const uint8_t *)label, sizeof label);
    crypto_blake2b_update(&hash, hello, hello_bytes);
    crypto_blake2b_update(&hash, welcome, welcome_bytes);
    crypto_blake2b_final(&hash, root); /* wipes `hash` */
    KEYED(from_host, KF_FRAME_KEY_BYTES, root, "from host");
    KEYED(from_device, KF_FRAME_KEY_BYTES, root, "from device");
    KEYED(proof, 16, root, "proof");
    crypto_wipe(root, sizeof root);
}
