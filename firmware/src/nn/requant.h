/* From an int32 sum to an int8 value: the fixed-point multiplication of TFLite, with its two roundings.
 *
 * A multiplier is mult * 2^(shift - 31): mult in [2^30, 2^31) (or 0), shift in [-31, 30]. Preparing one from scales follows
 * the reference step by step: what it computes in double precision or in float32 is computed here in integers with the same
 * roundings (tests/firmware/engine/test_requant.py compares several 100,000).
 */
#ifndef KF_NN_REQUANT_H
#define KF_NN_REQUANT_H

#include <stdint.h>

#include "f32.h"

typedef struct kf_requant {
    int32_t mult;
    int32_t shift;
} kf_requant_t;

/* The multiplier of num * 2^num_e / (den * 2^den_e), num < 2^48, den in [2^23, 2^24): the quotient in double precision,
 * then to 31 bits, ties away from zero. Below 2^-32 it is 0. The shift is not limited upwards here. */
kf_requant_t kf_requant_ratio(uint64_t num, int32_t num_e, uint32_t den, int32_t den_e);

/* a / b, for two scales. */
kf_requant_t kf_requant_scales(uint32_t a, uint32_t b);

/* x * w / out with the product in double precision: convolutions, and FULLY_CONNECTED with a scale a channel. w may be 0. */
kf_requant_t kf_requant_product(uint32_t x, uint32_t w, uint32_t out);

/* x * w / out with the product in float32: FULLY_CONNECTED with one scale. So do tflite-runtime 2.14, which runs on a Pi of the
 * same fleet, and TFLite Micro to August 2026; later builds use doubles, and can differ by one where a sum meets a tie. */
kf_requant_t kf_requant_product_f32(uint32_t x, uint32_t w, uint32_t out);

/* round(a * b / 2^31), ties up. Fits unless a = b = -2^31. The shift of a negative number is arithmetic on every compiler
 * we build with. */
static inline int32_t kf_mul_high(int32_t a, int32_t b) {
    return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}

/* round(x / 2^places), ties away from zero, places in [0, 31]. */
static inline int32_t kf_round_shift(int32_t x, int32_t places) {
    uint32_t mask = ((uint32_t)1 << places) - 1u;
    uint32_t rest = (uint32_t)x & mask;
    uint32_t half = (mask >> 1) + (x < 0 ? 1u : 0u);
    return (x >> places) + (rest > half ? 1 : 0);
}

/* x * multiplier, rounded twice as the reference does, with right = -1 - shift. A left shift that leaves int32 wraps, as it does
 * there.
 *
 * The right shift is kf_round_shift() in four instructions, for n = right + 1 in [1, 31] and |x| < 2^31 - 1, which a product with
 * mult < 2^31 keeps: floor((y + 2^(n-1)) / 2^n) = floor((floor(y / 2^(n-1)) + 1) / 2), where y = x - (x < 0) turns ties that
 * go up into ties away from zero. */
static inline int32_t kf_requant_any(int32_t x, int32_t mult, int32_t right) {
    if (right < 0) {
        return kf_mul_high((int32_t)((uint32_t)x << (-1 - right)), mult);
    }
    x = kf_mul_high(x, mult);
    return (((x + (x >> 31)) >> right) + 1) >> 1;
}

/* Right shifts of kf_requant_narrow(): no further, so that families may add (2 zp + 1) << right to a product. Larger ones belong to
 * multipliers below 2^-22, whose layers are constant. */
enum { KF_RIGHT_NARROW = 21 };

/* The same for |x| < 2^30 and 0 <= right <= KF_RIGHT_NARROW, in fewer instructions: with 2 x the first rounding falls between the two words of the
 * product, floor((2 x mult + 2^31) / 2^32). */
static inline int32_t kf_requant_narrow(int32_t x, int32_t mult, int32_t right) {
    int64_t product = (int64_t)(2 * x) * mult;
    x = (int32_t)(product >> 32) + (int32_t)((uint32_t)product >> 31);
    return (((x + (x >> 31)) >> right) + 1) >> 1;
}

static inline int32_t kf_requant(int32_t x, kf_requant_t by) {
    return kf_requant_any(x, by.mult, -1 - by.shift);
}

static inline int32_t kf_clamp(int32_t x, int32_t low, int32_t high) {
    if (x < low) {
        return low;
    }
    return x > high ? high : x;
}

#endif
