/* float32 arithmetic in integers, for preparing multipliers and for the two operators that touch floats.
 *
 * Values are the bits of an IEEE 754 binary32. Rounding is to nearest, ties to even, as the reference's hardware does it.
 * Subnormals are computed, not flushed. Cost: bitwise division, about 250 instructions on a Cortex-M0.
 */
#ifndef KF_NN_F32_H
#define KF_NN_F32_H

#include <stdint.h>

/* |value| = m * 2^e with m in [2^23, 2^24), or m = 0 for zero. Sign, infinity and NaN are the caller's business. */
typedef struct kf_f32 {
    uint32_t m;
    int32_t e;
} kf_f32_t;

kf_f32_t kf_f32_split(uint32_t bits);

/* 1 for a finite value above 0 (a scale). */
int kf_f32_is_scale(uint32_t bits);

/* Bits of the float32 nearest to m * 2^e, m >= 0; infinity when it is too large. */
uint32_t kf_f32_pack(uint64_t m, int32_t e);

/* Bits of the float32 product a * b of two values >= 0. */
uint32_t kf_f32_mul(uint32_t a, uint32_t b);

/* Bits of the float32 quotient a / b, a >= 0, b > 0. */
uint32_t kf_f32_div(uint32_t a, uint32_t b);

/* round(float32(a / scale)), ties away from zero, for a scale as above. Saturates at +-2^23; NaN gives 0. */
int32_t kf_f32_div_round(uint32_t a, uint32_t scale);

#endif
