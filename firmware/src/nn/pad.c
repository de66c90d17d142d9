/* PAD and PADV2, int8, rank <= 5. Paddings are a constant int32 [rank][2]. A slice is one row along the last axis. */
#include <stddef.h>
#include <string.h>

#include "check.h"

static int32_t before(const kf_node_t *node, int32_t axis) {
    return kf_le32(node->in[1].constant + 8 * axis);
}

static kf_model_fault_t check_paddings(const kf_node_t *node) {
    const kf_tensor_t *x = &node->in[0];
    if (node->in[1].elements != 2u * x->rank || x->rank < 1 || node->out.rank != x->rank) {
        return KF_FAULT_SHAPE;
    }
    for (int32_t axis = 0; axis < (int32_t)x->rank; axis++) {
        int32_t low = before(node, axis);
        int32_t high = kf_le32(node->in[1].constant + 8 * axis + 4);
        int32_t room = node->out.dims[axis] - x->dims[axis];
        if (low < 0 || low > room || high != room - low) {
            return KF_FAULT_SHAPE;
        }
    }
    return KF_FAULT_NONE;
}

static kf_model_fault_t check(kf_node_t *node) {
    if (node->inputs < 2) {
        return KF_FAULT_COUNT;
    }
    kf_model_fault_t fault = kf_check_int8(node, &node->in[0]);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_int8(node, &node->out);
    }
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    node->blame = node->in[1].index;
    if (node->in[1].type != KF_TYPE_INT32) {
        return KF_FAULT_TYPE;
    }
    if (node->in[1].constant == NULL) {
        return KF_FAULT_BUFFER;
    }
    fault = check_paddings(node);
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    if (node->inputs == 3) {
        const kf_tensor_t *value = &node->in[2];
        fault = kf_check_int8(node, value);
        node->blame = value->index;
        if (fault != KF_FAULT_NONE) {
            return fault;
        }
        if (value->elements != 1 || value->constant == NULL) {
            return KF_FAULT_SHAPE;
        }
        if (value->zp != node->out.zp || value->scale_f32 != node->out.scale_f32) {
            return KF_FAULT_QUANTIZATION;
        }
    }
    node->blame = KF_MODEL_NONE;
    return KF_FAULT_NONE;
}

static void work(const kf_node_t *node, kf_work_t *work) {
    uint32_t row = (uint32_t)node->out.dims[node->out.rank - 1];
    work->slices = node->out.elements / row;
    work->macs = row / 4 + 8;
}

/* The input row that lies in output row `index`, or NULL when the row is padding alone. */
static const uint8_t *input_row(const kf_node_t *node, const uint8_t *in, uint32_t index) {
    const int32_t *x = node->in[0].dims;
    int32_t axis = (int32_t)node->out.rank - 1;
    int32_t at = 0;
    int32_t step = x[axis];
    while (--axis >= 0) {
        uint32_t out = (uint32_t)node->out.dims[axis];
        int32_t own = (int32_t)(index % out) - before(node, axis);
        index /= out;
        if (own < 0 || own >= x[axis]) {
            return NULL;
        }
        at += own * step;
        step *= x[axis];
    }
    return in + at;
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    int32_t last = (int32_t)node->out.rank - 1;
    size_t row = (size_t)node->out.dims[last];
    size_t left = (size_t)before(node, last);
    size_t inner = (size_t)node->in[0].dims[last];
    int value = node->inputs == 3 ? (int8_t)io->in[2][0] : node->out.zp;
    uint8_t *out = io->out + (size_t)first * row;
    for (uint32_t i = first; i < first + count; i++) {
        const uint8_t *in = input_row(node, io->in[0], i);
        memset(out, value, row);
        if (in != NULL) {
            memcpy(out + left, in, inner);
        }
        out += row;
    }
}

const kf_op_t kf_op_pad = {KF_BUILTIN_PAD, KF_OPTIONS_NONE, check, work, run};
const kf_op_t kf_op_padv2 = {KF_BUILTIN_PADV2, KF_OPTIONS_NONE, check, work, run};
