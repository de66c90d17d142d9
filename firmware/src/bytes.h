/* Little-endian integers in bytes of any alignment. */
#ifndef KF_BYTES_H
#define KF_BYTES_H

#include <stdint.h>

static inline uint16_t kf_get_u16(const uint8_t *at) {
    return (uint16_t)(at[0] | (uint32_t)at[1] << 8);
}

static inline uint32_t kf_get_u32(const uint8_t *at) {
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Two's complement without relying on the conversion of an unsigned that does not fit. */
static inline int32_t kf_get_i32(const uint8_t *at) {
    const uint32_t u = kf_get_u32(at);
    return u <= INT32_MAX ? (int32_t)u : -(int32_t)~u - 1;
}

static inline void kf_put_u16(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static inline void kf_put_u32(uint8_t *at, uint32_t value) {
    kf_put_u16(at, value);
    kf_put_u16(at + 2, value >> 16);
}

#endif
