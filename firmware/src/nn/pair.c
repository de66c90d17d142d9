#include "pair.h"

/* Size of an input along output axis `axis`. */
static int32_t size_along(const kf_tensor_t *t, int32_t out_rank, int32_t axis) {
    const int32_t own = axis - (out_rank - (int32_t)t->rank);
    return own < 0 ? 1 : t->dims[own];
}

kf_model_fault_t kf_pair_check(kf_node_t *node) {
    if (node->inputs != 2) {
        return KF_FAULT_COUNT;
    }
    kf_model_fault_t fault = kf_check_int8(node, &node->in[0]);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_int8(node, &node->in[1]);
    }
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_int8(node, &node->out);
    }
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    const int32_t rank = node->out.rank;
    if ((int32_t)node->in[0].rank > rank || (int32_t)node->in[1].rank > rank) {
        return KF_FAULT_SHAPE;
    }
    for (int32_t axis = 0; axis < rank; axis++) {
        const int32_t a = size_along(&node->in[0], rank, axis);
        const int32_t b = size_along(&node->in[1], rank, axis);
        const int32_t out = node->out.dims[axis];
        if ((a != out && a != 1) || (b != out && b != 1) || (a != out && b != out)) {
            return KF_FAULT_SHAPE;
        }
    }
    return KF_FAULT_NONE;
}

void kf_pair_work(const kf_node_t *node, kf_work_t *work, uint32_t macs) {
    work->slices = node->out.elements;
    work->macs = macs;
    for (uint32_t i = 0; i < 2; i++) {
        if (node->in[i].elements == node->out.elements) {
            work->in_place |= 1u << i;
        }
    }
}

/* Position in an input of output value `index`, and the steps along the output's axes. */
static uint32_t locate(const kf_node_t *node, const kf_tensor_t *t, uint32_t index, int32_t *steps) {
    uint32_t at = 0;
    int32_t step = 1;
    for (int32_t axis = (int32_t)node->out.rank - 1; axis >= 0; axis--) {
        const uint32_t out = (uint32_t)node->out.dims[axis];
        const int32_t size = size_along(t, node->out.rank, axis);
        steps[axis] = size == 1 ? 0 : step;
        at += (index % out) * (uint32_t)steps[axis];
        step *= size;
        index /= out;
    }
    return at;
}

void kf_pair_begin(const kf_node_t *node, uint32_t index, kf_pair_t *p) {
    p->rank = node->out.rank;
    p->a = locate(node, &node->in[0], index, p->step_a);
    p->b = locate(node, &node->in[1], index, p->step_b);
    for (int32_t axis = p->rank - 1; axis >= 0; axis--) {
        const uint32_t size = (uint32_t)node->out.dims[axis];
        p->size[axis] = (int32_t)size;
        p->at[axis] = (int32_t)(index % size);
        index /= size;
    }
}
