/* What the operators share that only move values about: same quantization on both sides, places worked out from shapes. */
#ifndef KF_NN_LAYOUT_H
#define KF_NN_LAYOUT_H

#include "check.h"

/* `t` is int8 and quantized as `like` is: its values can be copied. Sets node->blame. */
KF_MUST_CHECK kf_model_fault_t kf_check_moved(kf_node_t *node, const kf_tensor_t *t, const kf_tensor_t *like);

/* `t` is constant int32. Sets node->blame. */
KF_MUST_CHECK kf_model_fault_t kf_check_integers(kf_node_t *node, const kf_tensor_t *t);

/* Value `i` of constant int32. */
static inline int32_t kf_integer(const kf_tensor_t *t, uint32_t i) {
    return kf_le32(t->constant + 4u * i);
}

/* An axis that may be counted from the end, in [0, rank); -1: there is none such. */
int32_t kf_axis(int32_t axis, int32_t rank);

/* Product of the dimensions before `axis`. */
uint32_t kf_outer(const kf_tensor_t *t, int32_t axis);

/* Shapes equal, but along `except` (-1: nowhere). */
int kf_same_shape(const kf_tensor_t *a, const kf_tensor_t *b, int32_t except);

#endif
