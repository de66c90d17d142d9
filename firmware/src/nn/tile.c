/* TILE, int8, rank <= 5: the input repeated along its axes, which is what converters make of nearest upsampling. A slice is one row of
 * the output along its last axis. */
#include <stddef.h>
#include <string.h>

#include "layout.h"

static kf_model_fault_t check(kf_node_t *node) {
    const kf_tensor_t *x = &node->in[0];
    if (node->inputs != 2) {
        return KF_FAULT_COUNT;
    }
    kf_model_fault_t fault = kf_check_int8(node, &node->out);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_moved(node, x, &node->out);
    }
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_integers(node, &node->in[1]);
    }
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    if (x->rank < 1 || node->out.rank != x->rank || node->in[1].elements != x->rank) {
        return KF_FAULT_SHAPE;
    }
    for (uint32_t axis = 0; axis < x->rank; axis++) {
        const int32_t times = kf_integer(&node->in[1], axis);
        if (times < 1 || node->out.dims[axis] % x->dims[axis] != 0 || node->out.dims[axis] / x->dims[axis] != times) {
            return KF_FAULT_SHAPE;
        }
    }
    return KF_FAULT_NONE;
}

static void work(const kf_node_t *node, kf_work_t *work) {
    const uint32_t row = (uint32_t)node->out.dims[node->out.rank - 1];
    work->slices = node->out.elements / row;
    work->macs = row / 2 + 16;
}

/* The input row that output row `index` repeats. */
static size_t row_at(const kf_node_t *node, uint32_t index) {
    size_t at = 0;
    size_t step = 1;
    for (int32_t axis = (int32_t)node->out.rank - 2; axis >= 0; axis--) {
        const uint32_t out = (uint32_t)node->out.dims[axis];
        const uint32_t in = (uint32_t)node->in[0].dims[axis];
        at += index % out % in * step;
        step *= in;
        index /= out;
    }
    return at;
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    const size_t out_row = (size_t)node->out.dims[node->out.rank - 1];
    const size_t in_row = (size_t)node->in[0].dims[node->in[0].rank - 1];
    uint8_t *out = io->out + (size_t)first * out_row;
    for (uint32_t i = first; i < first + count; i++) {
        const uint8_t *in = io->in[0] + row_at(node, i) * in_row;
        for (size_t done = 0; done < out_row; done += in_row) {
            memcpy(out, in, in_row);
            out += in_row;
        }
    }
}

const kf_op_t kf_op_tile = {KF_BUILTIN_TILE, KF_OPTIONS_NONE, check, work, run};
