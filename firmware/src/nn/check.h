/* What several operators ask of their tensors. */
#ifndef KF_NN_CHECK_H
#define KF_NN_CHECK_H

#include "../model/node.h"
#include "op.h"
#include "requant.h"

/* Sums of int8 products stay inside int32: |w * (x - zp)| <= 128 * 255 < 2^15, so 2^16 terms stay below 2^31. */
enum { KF_TERMS_MAX = 1 << 16 };

/* int8 with one usable scale. Sets node->blame. */
KF_MUST_CHECK kf_model_fault_t kf_check_int8(kf_node_t *node, const kf_tensor_t *t);

/* Weights: constant int8 with `channels` scales (or one) along `dimension`, all zero points 0; and their bias, when
 * there is one: constant int32, one a channel. Input, output and scales give multipliers of at most 2^30. */
KF_MUST_CHECK kf_model_fault_t kf_check_weights(kf_node_t *node, int32_t channels, uint8_t dimension);

/* The multiplier of output channel `channel`, in one of the reference's two ways of preparing it. */
kf_requant_t kf_channel_requant(const kf_node_t *node, int32_t channel);

/* Bias of output channel `channel`, 0 without a bias. */
int32_t kf_channel_bias(const kf_node_t *node, const kf_io_t *io, int32_t channel);

/* a * b, or the largest value when that does not fit: costs of hostile models must not look small. */
uint32_t kf_mul_saturating(uint32_t a, uint32_t b);

/* How an operator goes through its inputs that makes value n of the output of value n of each input, all of one shape. */
void kf_values_walk(const kf_node_t *node, kf_walk_t *walk);

/* Clamping range of a fused activation in the output's quantization. */
typedef struct kf_range {
    int32_t low, high;
} kf_range_t;

/* KF_FAULT_OPTIONS for an activation that is not computed. */
KF_MUST_CHECK kf_model_fault_t kf_read_range(const kf_node_t *node, uint32_t activation_field, kf_range_t *range);

#endif
