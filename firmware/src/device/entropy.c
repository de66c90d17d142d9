#include <string.h>

#include <monocypher.h>

#include "../bytes.h"
#include "kilofed/settings.h"

kf_status_t kf_entropy_of_boots(const kf_identity_t *identity, uint32_t boot, uint32_t draw, uint8_t *out, size_t size) {
    static const char label[17] = "kilofed entropy 1";
    uint8_t text[17 + 8];
    if (identity == NULL || out == NULL || size == 0 || size > 64) {
        return KF_ERR_ARG;
    }
    if (!kf_identity_has_key(identity)) {
        return KF_ERR_UNSUPPORTED;
    }
    memcpy(text, label, sizeof label);
    kf_put_u32(text + 17, boot);
    kf_put_u32(text + 21, draw);
    crypto_blake2b_keyed(out, size, identity->key, sizeof identity->key, text, sizeof text);
    return KF_OK;
}
