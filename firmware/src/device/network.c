#include "kilofed/network.h"

#include <stddef.h>
#include <string.h>

#include "../bytes.h"
#include "../link/crc32.h"

#define MAGIC UINT32_C(0x314E464B) /* "KFN1" */

kf_status_t kf_network_read(kf_network_t *out, const uint8_t block[KF_NETWORK_BYTES]) {
    if (out == NULL || block == NULL) {
        return KF_ERR_ARG;
    }
    memset(out, 0, sizeof *out);
    if (kf_get_u32(block) != MAGIC || kf_get_u16(block + 4) != 1 || kf_get_u16(block + 6) != KF_NETWORK_BYTES ||
        kf_get_u32(block + 28) != kf_crc32(0, block, 28) || kf_get_u32(block + 8) == 0 || kf_get_u16(block + 12) == 0) {
        return KF_ERR_PORT;
    }
    memcpy(out->host, block + 8, sizeof out->host);
    out->port = kf_get_u16(block + 12);
    memcpy(out->address, block + 16, sizeof out->address);
    memcpy(out->netmask, block + 20, sizeof out->netmask);
    memcpy(out->gateway, block + 24, sizeof out->gateway);
    return KF_OK;
}
