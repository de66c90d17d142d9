#include "kilofed/settings.h"

#include <string.h>

#include "../bytes.h"
#include "../link/crc32.h"

#define MAGIC UINT32_C(0x3149464B) /* "KFI1" */

int kf_identity_has_key(const kf_identity_t *identity) {
    uint8_t any = 0;
    for (size_t i = 0; i < sizeof identity->key; i++) {
        any |= identity->key[i];
    }
    return any != 0;
}

kf_status_t kf_settings_read(kf_identity_t *out, const uint8_t page[KF_SETTINGS_BYTES]) {
    if (out == NULL || page == NULL) {
        return KF_ERR_ARG;
    }
    memset(out, 0, sizeof *out);
    if (kf_get_u32(page) != MAGIC || kf_get_u16(page + 4) != 1 || kf_get_u16(page + 6) != KF_SETTINGS_BYTES ||
        kf_get_u32(page + 60) != kf_crc32(0, page, 60)) {
        return KF_ERR_PORT;
    }
    memcpy(out->id, page + 8, sizeof out->id);
    memcpy(out->key, page + 16, sizeof out->key);
    memcpy(out->name, page + 48, sizeof out->name);
    return KF_OK;
}
