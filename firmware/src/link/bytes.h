/* Little-endian numbers at any alignment. */
#ifndef KF_LINK_BYTES_H
#define KF_LINK_BYTES_H

#include <stdint.h>

static inline uint32_t kf_get_u16(const uint8_t *at) {
    return (uint32_t)at[0] | ((uint32_t)at[1] << 8);
}

static inline uint32_t kf_get_u32(const uint8_t *at) {
    return kf_get_u16(at) | (kf_get_u16(at + 2) << 16);
}

static inline void kf_put_u32(uint8_t *at, uint32_t value) {
    for (unsigned i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8u * i));
    }
}

#endif
