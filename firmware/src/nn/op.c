#include "op.h"

#include <stddef.h>

static const kf_op_t *const ops[] = {
    &kf_op_conv,     &kf_op_depthwise, &kf_op_fully_connected, &kf_op_average_pool, &kf_op_max_pool, &kf_op_mean,
    &kf_op_add,      &kf_op_pad,       &kf_op_padv2,           &kf_op_reshape,      &kf_op_squeeze,  &kf_op_expand_dims,
    &kf_op_softmax,  &kf_op_logistic,  &kf_op_quantize,        &kf_op_dequantize,
};

const kf_op_t *kf_op_find(uint32_t code) {
    for (uint32_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (ops[i]->code == code) {
            return ops[i];
        }
    }
    return NULL;
}

kf_model_fault_t kf_op_work(const kf_model_t *m, uint16_t op, const kf_head_overlay_t *overlay, kf_node_t *node,
                            kf_work_t *work) {
    static const kf_work_t nothing = {0, 0, 0, 0};
    *work = nothing;
    kf_model_fault_t fault = kf_node_read(m, op, overlay, node);
    if (fault == KF_FAULT_NONE) {
        node->op->work(node, work);
    }
    return fault;
}
