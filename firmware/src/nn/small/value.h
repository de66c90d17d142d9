/* What the kernels for cores of the first Thumb instruction set share, Cortex-M0 and M0+: eight registers that calculate and five
 * that can only be moved and added, and a multiplication that keeps 32 bits.
 *
 * GCC 12.2 keeps sums in the low registers and moves pointers up and down for it. The loops that take the time are therefore written
 * out: sums live in the high registers, where an addition costs the same, and one index serves several pointers. Products
 * with zero are left out, which costs a value that is not zero no more than the others cost anyway.
 */
#ifndef KF_NN_SMALL_VALUE_H
#define KF_NN_SMALL_VALUE_H

#include "../kernels.h"
#include "../op.h"

/* The value of any sum. */
int8_t kf_value(const kf_output_t *o, const kf_channel_t *channel, int32_t sum);

/* `count` sums (1 at least), of one channel or of successive ones (`step` bytes apart), to out[0], out[out_step], ... */
void kf_values(const kf_output_t *o, const kf_channel_t *channel, int32_t step, const int32_t *sum, int32_t count, int8_t *out,
               int32_t out_step);

#endif
