/* Softmax, its cross-entropy and its gradient, in 32-bit integers. Defined in TRAINING.md, section 3. */
#ifndef KILOFED_TRAIN_SOFTMAX_H
#define KILOFED_TRAIN_SOFTMAX_H

#include <stdint.h>

/* errors[c * stride] = p_c - (c == label), in 2^-15, clamped to 32767, from the logits z[c * KF_TILE] (2^-12, destroyed).
 * Returns the sample's loss -ln p_label in 2^-12 nats, capped at 65535, and raises *peak to the largest |z|.
 * 1 <= classes <= 1024, label < classes. */
uint32_t kf_softmax_errors(int32_t *z, uint32_t classes, uint32_t label, int16_t *errors, uint32_t stride, uint32_t *peak);

#endif
