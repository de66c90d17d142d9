#include "op.h"

#include <stddef.h>

#include "../model/plan.h"

/* The build may name a part of ops.def: only what is in the table is linked. */
#ifndef KF_OPS_FILE
#define KF_OPS_FILE "ops.def"
#endif

static const kf_op_line_t ops[] = {
#define KF_OP(builtin, name, inputs, outputs, state) {&kf_op_##name, inputs, outputs, state},
#include KF_OPS_FILE
#undef KF_OP
};

const kf_op_line_t *kf_op_find(uint32_t code) {
    for (uint32_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
        if (ops[i].op->code == code) {
            return &ops[i];
        }
    }
    return NULL;
}

static uint8_t *place(const kf_node_t *node, const kf_io_t *io, const kf_tensor_t *t) {
    return io->arena + kf_plan_offset(node->model, io->own, t->index);
}

const uint8_t *kf_io_input(const kf_node_t *node, const kf_io_t *io, uint32_t i, kf_tensor_t *t) {
    if (kf_node_input_read(node, i, t) != KF_FAULT_NONE) {
        return NULL; /* left out: nothing else can be, the model was judged when it was opened */
    }
    return t->constant != NULL ? t->constant : place(node, io, t);
}

uint8_t *kf_io_state(const kf_node_t *node, const kf_io_t *io) {
    return io->arena + kf_plan_offset(node->model, io->own, kf_node_state(node->model, node->index));
}

uint8_t *kf_io_output(const kf_node_t *node, const kf_io_t *io, uint32_t i, kf_tensor_t *t) {
    return kf_node_output_read(node, i, t) == KF_FAULT_NONE ? place(node, io, t) : NULL;
}

kf_model_fault_t kf_op_work(const kf_model_t *m, uint16_t op, const kf_head_overlay_t *overlay, kf_node_t *node,
                            kf_work_t *work) {
    static const kf_work_t nothing;
    *work = nothing;
    kf_model_fault_t fault = kf_node_read(m, op, overlay, node);
    if (fault == KF_FAULT_NONE) {
        node->op->work(node, work);
    }
    return fault;
}
