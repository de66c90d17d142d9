/* Softmax, its cross-entropy and its gradient, in 32-bit integers. Defined in TRAINING.md, section 3. */
#ifndef KILOFED_TRAIN_SOFTMAX_H
#define KILOFED_TRAIN_SOFTMAX_H

#include <stdint.h>

/* 2^15 * exp(-d / 4096), rounded; 32768 at d = 0 and falling. d 0 .. 65535 (16 nats). */
uint32_t kf_exp_q15(uint32_t d);

/* ln(sum / 2^15) in 2^-12, for 2^15 <= sum < 2^26. */
uint32_t kf_ln_q12(uint32_t sum);

/* errors[c] = p_c - (c == label), in 2^-15, clamped to 32767, from the logits z (2^-12, [classes], destroyed).
 * Returns the sample's loss -ln p_label in 2^-12 nats, capped at 65535. 1 <= classes <= 1024, label < classes. */
uint32_t kf_softmax_errors(int32_t *z, uint32_t classes, uint32_t label, int16_t *errors);

#endif
