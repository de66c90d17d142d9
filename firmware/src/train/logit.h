/* One logit: a class's weights times a sample's features. Shared by training and evaluation. */
#ifndef KILOFED_TRAIN_LOGIT_H
#define KILOFED_TRAIN_LOGIT_H

#include <stdint.h>

#include "kilofed/params.h"

/* z = sum_f ((w[f] + 128) >> 8) * (q[f] - x_zp) + ((bias + 128) >> 8) in 2^-12, saturated to int32.
 * w [features], |w| <= KF_WEIGHT_MAX; q [features]; |bias| <= KF_BIAS_MAX. */
int32_t kf_logit(const int32_t *w, int32_t bias, const int8_t *q, uint32_t features, int32_t x_zp);

/* The same for class c of a head blob. */
int32_t kf_logit_head(const kf_head_view_t *head, uint32_t c, const int8_t *q, int32_t x_zp);

#endif
