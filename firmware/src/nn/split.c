/* SPLIT, SPLIT_V and UNPACK, int8: a tensor cut along an axis; UNPACK drops the axis. The way back of concat.c.
 *
 * Seen from memory, the input is `outer` rows, and a row is one piece of every output in turn. A slice is one such row.
 */
#include <string.h>

#include "layout.h"

/* Which of the inputs is cut, and along which axis (-1: a wrong one). */
static const kf_tensor_t *source(const kf_node_t *node) {
    return &node->in[node->op->code == KF_BUILTIN_SPLIT ? 1 : 0];
}

static int32_t axis_of(const kf_node_t *node) {
    kf_fb_t fb = kf_model_reader(node->model);
    const int32_t rank = source(node)->rank;
    if (node->op->code == KF_BUILTIN_UNPACK) {
        return kf_axis(kf_fb_get_i32(&fb, node->options, KF_UNPACK_AXIS, 0), rank);
    }
    return kf_axis(kf_integer(&node->in[node->op->code == KF_BUILTIN_SPLIT ? 0 : 2], 0), rank);
}

/* The tensors beside the one that is cut, and the count in the options. */
static kf_model_fault_t check_arguments(kf_node_t *node) {
    kf_fb_t fb = kf_model_reader(node->model);
    const uint8_t code = node->op->code;
    const uint32_t inputs = code == KF_BUILTIN_SPLIT ? 2u : code == KF_BUILTIN_SPLIT_V ? 3u : 1u;
    if (node->inputs != inputs) {
        return KF_FAULT_COUNT;
    }
    for (uint32_t i = 0; i < inputs; i++) {
        if (&node->in[i] != source(node)) {
            const kf_model_fault_t fault = kf_check_integers(node, &node->in[i]);
            if (fault != KF_FAULT_NONE) {
                return fault;
            }
            if (node->in[i].elements != (code == KF_BUILTIN_SPLIT_V && i == 1 ? node->outputs : 1u)) {
                node->blame = node->in[i].index;
                return KF_FAULT_SHAPE;
            }
        }
    }
    if (kf_fb_get_i32(&fb, node->options, KF_SPLIT_COUNT, 0) != node->outputs || axis_of(node) < 0) {
        return KF_FAULT_OPTIONS;
    }
    return KF_FAULT_NONE;
}

/* Along the axis, how much of the source output `i` takes; 0: its shape does not fit. */
static uint32_t length_of(const kf_node_t *node, uint32_t i, const kf_tensor_t *t, int32_t axis) {
    const kf_tensor_t *x = source(node);
    if (node->op->code == KF_BUILTIN_UNPACK) {
        kf_tensor_t cut = *x;
        for (int32_t k = axis; k + 1 < (int32_t)cut.rank; k++) {
            cut.dims[k] = cut.dims[k + 1];
        }
        cut.rank--;
        return kf_same_shape(t, &cut, -1) ? 1u : 0u;
    }
    if (!kf_same_shape(t, x, axis)) {
        return 0;
    }
    const int32_t wanted = node->op->code == KF_BUILTIN_SPLIT ? node->out.dims[axis] : kf_integer(&node->in[1], i);
    return wanted == -1 || wanted == t->dims[axis] ? (uint32_t)t->dims[axis] : 0u;
}

static kf_model_fault_t check(kf_node_t *node) {
    kf_model_fault_t fault = check_arguments(node);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_int8(node, source(node));
    }
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    const int32_t axis = axis_of(node);
    uint32_t total = 0; /* at most KF_MODEL_OUTPUTS_MAX * 2^24: fits */
    for (uint32_t i = 0; i < node->outputs; i++) {
        kf_tensor_t t;
        fault = kf_node_output_read(node, i, &t);
        if (fault == KF_FAULT_NONE) {
            fault = kf_check_moved(node, &t, source(node));
        }
        if (fault != KF_FAULT_NONE) {
            return fault;
        }
        const uint32_t length = length_of(node, i, &t, axis);
        if (length == 0) {
            node->blame = t.index;
            return KF_FAULT_SHAPE;
        }
        total += length;
    }
    return total == (uint32_t)source(node)->dims[axis] ? KF_FAULT_NONE : KF_FAULT_SHAPE;
}

static void work(const kf_node_t *node, kf_work_t *work) {
    const kf_tensor_t *x = source(node);
    work->slices = kf_outer(x, axis_of(node));
    work->macs = x->elements / work->slices / 4 + 24u * node->outputs;
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    const kf_tensor_t *x = source(node);
    const uint8_t *in = io->in[x - node->in];
    const uint32_t outer = kf_outer(x, axis_of(node));
    const uint32_t row = x->elements / outer;
    uint32_t at = first * row;
    for (uint32_t i = 0; i < node->outputs; i++) {
        kf_tensor_t t;
        uint8_t *out = kf_io_output(node, io, i, &t);
        const uint32_t piece = t.elements / outer;
        for (uint32_t k = 0; k < count; k++) {
            memcpy(out + (first + k) * piece, in + at + k * row, piece);
        }
        at += piece;
    }
}

const kf_op_t kf_op_split = {KF_BUILTIN_SPLIT, KF_OPTIONS_SPLIT, check, work, run};
const kf_op_t kf_op_split_v = {KF_BUILTIN_SPLIT_V, KF_OPTIONS_SPLIT_V, check, work, run};
const kf_op_t kf_op_unpack = {KF_BUILTIN_UNPACK, KF_OPTIONS_UNPACK, check, work, run};
