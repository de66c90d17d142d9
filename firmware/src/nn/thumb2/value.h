/* What the kernels for Cortex-M3 share: the way from a sum to a value.
 *
 * This core has one multiply-accumulate an instruction, of two cycles, and none that does two. So fewest instructions are made by leaving
 * out products (convolve.c) and by keeping what is read in registers. Loops are written out in inline assembly where GCC 12.2
 * moves sums or pointers up and down.
 */
#ifndef KF_NN_THUMB2_VALUE_H
#define KF_NN_THUMB2_VALUE_H

#include "../kernels.h"
#include "../op.h"

/* Values that are narrow (see kf_output_t) and may be anything in int8: one instruction clamps them. `half` is 2 zp + 1, since
 * kf_requant_narrow() adds 1 before it halves. */
static inline int32_t kf_is_plain(const kf_output_t *o) {
    return o->narrow && o->low == -128 && o->high == 127;
}

static inline int8_t kf_plain_value(int32_t mult, int32_t right, int32_t sum, int32_t half) {
    int64_t product = (int64_t)(2 * sum) * mult;
    int32_t value = (int32_t)(product >> 32) + (int32_t)((uint32_t)product >> 31);
    value = ((value + (value >> 31)) >> right) + half;
    __asm__("ssat %0, #8, %1, asr #1" : "=r"(value) : "r"(value));
    return (int8_t)value;
}

/* Any other. */
int8_t kf_value(const kf_output_t *o, const kf_channel_t *channel, int32_t sum);

#endif
