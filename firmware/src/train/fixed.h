/* The trainer's arithmetic on single numbers: saturation, rounding division, and the multiplication by a rate.
 *
 * A right shift of a negative integer is arithmetic here, as on every compiler we know; C leaves it to the implementation.
 */
#ifndef KILOFED_TRAIN_FIXED_H
#define KILOFED_TRAIN_FIXED_H

#include <stdint.h>

#include "kilofed/params.h"
#include "kilofed/train.h"

#if defined(__GNUC__) || defined(__clang__)
#define KF_NOINLINE __attribute__((noinline))
#else
#define KF_NOINLINE
#endif

_Static_assert((-3 >> 1) == -2, "the trainer needs arithmetic right shifts");

static inline int32_t clamp32(int32_t v, int32_t limit) {
    return v > limit ? limit : v < -limit ? -limit : v;
}

static inline int32_t clamp64(int64_t v, int32_t limit) {
    return v > limit ? limit : v < -(int64_t)limit ? -limit : (int32_t)v;
}

static inline uint32_t magnitude(int32_t v) {
    return v < 0 ? 0u - (uint32_t)v : (uint32_t)v;
}

/* floor((2v + d) / (2d)), v / d rounded half up. |v| <= 2^30, 1 <= d <= 2^30.
 * It equals floor((v + floor(d/2)) / d) for odd d too: with k = v + (d-1)/2 it is floor((k + 1/2) / d) = floor(k / d). */
static inline int32_t divide_rounded(int32_t v, uint32_t d) {
    const int32_t n = v + (int32_t)(d >> 1);
    const int32_t q = n / (int32_t)d;
    return q * (int32_t)d > n ? q - 1 : q;
}

/* ceil(largest / q_max), but at least 1: the step that lets q_max steps reach the largest magnitude. */
static inline uint32_t step_for(uint32_t largest, uint32_t q_max) {
    const uint32_t step = largest / q_max + (largest % q_max != 0);
    return step ? step : 1;
}

/* floor((v * M + 2^(sh-1)) / 2^sh) for |v| <= 2^31, M < 2^15, 1 <= sh <= 46: below 2^46 in magnitude before the shift. */
static inline int64_t scale64(int64_t v, kf_rate_t rate) {
    return (v * rate.mantissa + (INT64_C(1) << (rate.shift - 1))) >> rate.shift;
}

/* The same for an int32, clamped to +-2^30, in 32-bit steps where the shift is at least 17, which is the usual case.
 * v = h * 2^16 + l with 0 <= l < 2^16, |h| <= 2^15. As 2^(sh-1) has no bits below 2^16,
 *   floor((v M + 2^(sh-1)) / 2^sh) = floor((h M + floor(l M / 2^16) + 2^(sh-17)) / 2^(sh-16)),
 * and |h M| <= 2^30, l M < 2^31, 2^(sh-17) <= 2^29: the sum stays inside int32. */
static inline int32_t scale32(int32_t v, kf_rate_t rate) {
    if (rate.shift < 17) {
        return clamp64(scale64(v, rate), INT32_C(1) << 30);
    }
    const uint32_t low = ((uint32_t)v & 0xFFFFu) * rate.mantissa;
    const int32_t high = (v >> 16) * (int32_t)rate.mantissa;
    return (high + (int32_t)(low >> 16) + (INT32_C(1) << (rate.shift - 17))) >> (rate.shift - 16);
}

#endif
