/* The forward pass: logits of a class from its weights and a sample's features. Shared by training and evaluation.
 * Defined in TRAINING.md, section 2.
 */
#ifndef KILOFED_TRAIN_LOGIT_H
#define KILOFED_TRAIN_LOGIT_H

#include <stdint.h>

#include "kilofed/params.h"

/* The scale of the dot products: the smallest k, 0..8, with (largest + floor(2^k / 2)) >> k <= 32767, where `largest` is the
 * largest |weight| of the whole head. Then every weight rounded to 2^k units fits int16. */
uint32_t kf_weight_shift(uint32_t largest);

/* Largest |weight|, by looking at all of them. */
uint32_t kf_largest_weight(const kf_params_t *params);
uint32_t kf_largest_head_weight(const kf_head_view_t *head);

/* The logit z in 2^-12, saturated to int32, with h = floor(2^k / 2):
 *   z = (sum_f ((w[f] + h) >> k) * (q[f] - x_zp) + ((bias + h) >> k), rounded half up to a multiple of 2^(8-k)) >> (8-k)
 * w [features], |bias| <= KF_BIAS_MAX, q [features]. */
int32_t kf_logit(const int32_t *w, int32_t bias, uint32_t k, const int8_t *q, uint32_t features, int32_t x_zp);

/* The same for class c of a head blob. */
int32_t kf_logit_head(const kf_head_view_t *head, uint32_t c, uint32_t k, const int8_t *q, int32_t x_zp);

#endif
