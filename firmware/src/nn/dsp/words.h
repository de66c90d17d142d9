/* What the kernels for Arm cores with the DSP extension share (ARMv7E-M, ARMv8-M Main with DSP): words of four int8 values, and the
 * way from a sum to a value.
 *
 * A word holds four int8 values. SXTB16 makes int16 pairs of values 0 and 2, and, rotated, of 1 and 3; SXTAB16 adds the input's
 * offset on the way, so x - zp costs nothing: |x - zp| <= 255 fits. SMLAD adds two products modulo 2^32, as the sums are
 * defined. Words are read with the compiler's own memcpy, which is one LDR on these cores wherever the word lies (a call of
 * memcpy would stay a call: there is no hosted library here).
 *
 * The inner loops are inline assembly. GCC 12.2 moves pointers and sums up and down where all fourteen registers are needed,
 * and neither pairs of loads nor their order are its own idea: on these cores a load that follows another takes one cycle
 * instead of two, so loads are kept together.
 */
#ifndef KF_NN_DSP_WORDS_H
#define KF_NN_DSP_WORDS_H

#include <arm_acle.h>
#include <stddef.h>

#include "../kernels.h"
#include "../op.h"

static inline uint32_t kf_word(const int8_t *p) {
    uint32_t value;
    __builtin_memcpy(&value, p, sizeof value);
    return value;
}

/* The last terms % 4 values of x[terms], in the low bytes of a word whose others are 0. Nothing outside of x is read. */
static inline uint32_t kf_last_word(const int8_t *x, int32_t terms) {
    int32_t rest = terms & 3;
    if (terms >= 4) {
        return rest == 0 ? 0 : kf_word(x + terms - 4) >> (32 - 8 * rest);
    }
    uint32_t value = 0;
    for (int32_t i = rest - 1; i >= 0; i--) {
        value = value << 8 | (uint8_t)x[i];
    }
    return value;
}

/* int16 pairs: values 0 and 2, and 1 and 3, of four. The compiler has no intrinsic for the rotated form. */
static inline int16x2_t kf_even(uint32_t four) {
    return __sxtb16((int8x4_t)four);
}

static inline int16x2_t kf_odd(uint32_t four) {
    uint32_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(four));
    return (int16x2_t)pair;
}

static inline int16x2_t kf_even_plus(int16x2_t offset, uint32_t four) {
    return __sxtab16(offset, (int8x4_t)four);
}

static inline int16x2_t kf_odd_plus(int16x2_t offset, uint32_t four) {
    uint32_t pair;
    __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(pair) : "r"(offset), "r"(four));
    return (int16x2_t)pair;
}

static inline int16x2_t kf_both(int32_t value) {
    return (int16x2_t)(((uint32_t)value & 0xFFFFu) * 0x10001u);
}

static inline int32_t kf_dot_word(int32_t sum, int16x2_t x_even, int16x2_t x_odd, uint32_t w) {
    return __smlad(x_odd, kf_odd(w), __smlad(x_even, kf_even(w), sum));
}

/* ---- from sums to values ----------------------------------------------------------------------------------------- */

/* Outputs for which kf_tight() is right: |sum| < 2^30 and 0 <= right <= KF_RIGHT_NARROW, and clamping is saturation to int8. */
static inline int kf_is_tight(const kf_output_t *o) {
    return o->narrow && o->low == -128 && o->high == 127;
}

/* The value of a sum. With n = right + 1, kf_requant_narrow() is floor((y + 2^(n-1)) / 2^n) + zp, where y is the first rounding
 * floor((2 sum mult + 2^31) / 2^32), less 1 when the sum is negative. (Its own test is y < 0; a negative sum whose y is 0 gives
 * zp either way.) So everything but the last division by 2 can be added before it: up = 2^(n-1) + zp 2^n =
 * (2 zp + 1) << right. SMMLAR multiplies,
 * rounds and adds at once: |2 sum mult / 2^32| < 2^30 and |up| < 2^29. */
static inline int32_t kf_tight(int32_t sum, int32_t mult, int32_t up, int32_t right) {
    int32_t value;
    __asm__("smmlar %0, %1, %2, %3" : "=r"(value) : "r"(2 * sum), "r"(mult), "r"(up + (sum >> 31)));
    __asm__("ssat %0, #8, %1, asr #1" : "=r"(value) : "r"(value >> right) : "cc");
    return value;
}

static inline int8_t kf_value(const kf_output_t *o, const kf_channel_t *channel, int32_t sum) {
    int32_t value = o->narrow ? kf_requant_narrow(sum, channel->mult, channel->right)
                              : kf_requant_any(sum, channel->mult, channel->right);
    return (int8_t)kf_clamp(value + o->zp, o->low, o->high);
}

#endif
