/* Fixed-point functions of SOFTMAX and LOGISTIC, to the bit those of gemmlowp (fixedpoint/fixedpoint.h), which the
 * reference kernels use. Qi.f: a signed 32-bit number with i integer bits and f = 31 - i fraction bits. */
#ifndef KF_NN_FIXED_H
#define KF_NN_FIXED_H

#include <stdint.h>

/* exp(x) in Q0.31 for x <= 0 in Q(integer_bits).(31 - integer_bits), integer_bits 4 or 5. exp(0) is 2^31 - 1. */
int32_t kf_fixed_exp(int32_t x, int32_t integer_bits);

/* 1 / (1 + x) and (1 - x) / (1 + x) in Q0.31 for x in [0, 1) in Q0.31. */
int32_t kf_fixed_inverse(int32_t x);
int32_t kf_fixed_complement(int32_t x);

#endif
