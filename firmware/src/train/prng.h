/* The shuffle's generator: Marsaglia's 32-bit xorshift (13, 17, 5), period 2^32 - 1.
 *
 * Seeds are often small and alike (round numbers), and xorshift takes dozens of steps to forget that; so the seed first goes
 * through a bijective mixer (the finaliser of MurmurHash3). The one seed that it maps to 0, where xorshift would stay, gives
 * the golden ratio's 0x9E3779B9 instead.
 */
#ifndef KILOFED_TRAIN_PRNG_H
#define KILOFED_TRAIN_PRNG_H

#include <stdint.h>

static inline uint32_t prng_seed(uint32_t seed) {
    uint32_t s = seed + UINT32_C(0x9E3779B9);
    s = (s ^ s >> 16) * UINT32_C(0x85EBCA6B);
    s = (s ^ s >> 13) * UINT32_C(0xC2B2AE35);
    s ^= s >> 16;
    return s ? s : UINT32_C(0x9E3779B9);
}

static inline uint32_t prng_next(uint32_t *state) {
    uint32_t s = *state;
    s ^= s << 13;
    s ^= s >> 17;
    s ^= s << 5;
    *state = s;
    return s;
}

/* A number below n, 1 <= n <= 65535, from the upper half of the next word; no division. The bias is below n / 65536. */
static inline uint32_t prng_below(uint32_t *state, uint32_t n) {
    return (prng_next(state) >> 16) * n >> 16;
}

#endif
