/* Little-endian integers in bytes of any alignment. */
#ifndef KILOFED_TRAIN_BYTES_H
#define KILOFED_TRAIN_BYTES_H

#include <stdint.h>

static inline uint16_t get_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | (uint32_t)p[1] << 8);
}

static inline uint32_t get_u32(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Two's complement without relying on the conversion of an unsigned that does not fit. */
static inline int32_t get_i32(const uint8_t *p) {
    const uint32_t u = get_u32(p);
    return u <= INT32_MAX ? (int32_t)u : -(int32_t)~u - 1;
}

static inline void put_u16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void put_u32(uint8_t *p, uint32_t v) {
    put_u16(p, v);
    put_u16(p + 2, v >> 16);
}

#endif
