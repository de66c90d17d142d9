#include "layout.h"

#include <stddef.h>

kf_model_fault_t kf_check_moved(kf_node_t *node, const kf_tensor_t *t, const kf_tensor_t *like) {
    const kf_model_fault_t fault = kf_check_int8(node, t);
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    if (t->scale_f32 != like->scale_f32 || t->zp != like->zp) {
        node->blame = t->index;
        return KF_FAULT_QUANTIZATION;
    }
    return KF_FAULT_NONE;
}

kf_model_fault_t kf_check_integers(kf_node_t *node, const kf_tensor_t *t) {
    node->blame = t->index;
    if (t->type != KF_TYPE_INT32) {
        return KF_FAULT_TYPE;
    }
    if (t->constant == NULL) {
        return KF_FAULT_BUFFER;
    }
    node->blame = KF_MODEL_NONE;
    return KF_FAULT_NONE;
}

int32_t kf_axis(int32_t axis, int32_t rank) {
    if (axis < -rank || axis >= rank) {
        return -1;
    }
    return axis < 0 ? axis + rank : axis;
}

uint32_t kf_outer(const kf_tensor_t *t, int32_t axis) {
    uint32_t outer = 1;
    for (int32_t i = 0; i < axis; i++) {
        outer *= (uint32_t)t->dims[i];
    }
    return outer;
}

int kf_same_shape(const kf_tensor_t *a, const kf_tensor_t *b, int32_t except) {
    if (a->rank != b->rank) {
        return 0;
    }
    for (int32_t i = 0; i < (int32_t)a->rank; i++) {
        if (i != except && a->dims[i] != b->dims[i]) {
            return 0;
        }
    }
    return 1;
}
