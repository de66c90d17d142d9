/* CONCATENATION and PACK, int8: tensors laid side by side along an axis; PACK makes the axis.
 *
 * Seen from memory, the output is `outer` rows, and a row is one piece of every input in turn. A slice is one such row.
 */
#include <string.h>

#include "layout.h"

/* PACK: the inputs have the output's shape without `axis`. */
static int fits_packed(const kf_tensor_t *t, const kf_tensor_t *out, int32_t axis) {
    if (t->rank + 1 != out->rank) {
        return 0;
    }
    for (int32_t i = 0; i < (int32_t)t->rank; i++) {
        if (t->dims[i] != out->dims[i < axis ? i : i + 1]) {
            return 0;
        }
    }
    return 1;
}

static int is_pack(const kf_node_t *node) {
    return node->op->code == KF_BUILTIN_PACK;
}

static int32_t axis_of(const kf_node_t *node) {
    kf_fb_t fb = kf_model_reader(node->model);
    uint32_t field = is_pack(node) ? KF_PACK_AXIS : KF_CONCAT_AXIS;
    return kf_axis(kf_fb_get_i32(&fb, node->options, field, 0), node->out.rank);
}

static kf_model_fault_t check(kf_node_t *node) {
    kf_fb_t fb = kf_model_reader(node->model);
    kf_model_fault_t fault = kf_check_int8(node, &node->out);
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    const int32_t axis = axis_of(node);
    if (axis < 0 || (is_pack(node) && kf_fb_get_i32(&fb, node->options, KF_PACK_COUNT, 0) != node->inputs) ||
        (!is_pack(node) && kf_fb_get_u8(&fb, node->options, KF_CONCAT_ACTIVATION, KF_ACT_NONE) != KF_ACT_NONE)) {
        return KF_FAULT_OPTIONS;
    }
    uint32_t length = 0; /* at most KF_MODEL_INPUTS_MAX * 2^24: fits */
    for (uint32_t i = 0; i < node->inputs; i++) {
        kf_tensor_t t;
        fault = kf_node_input_read(node, i, &t);
        if (fault == KF_FAULT_NONE) {
            fault = kf_check_moved(node, &t, &node->out);
        }
        if (fault == KF_FAULT_NONE &&
            !(is_pack(node) ? fits_packed(&t, &node->out, axis) : kf_same_shape(&t, &node->out, axis))) {
            node->blame = t.index;
            fault = KF_FAULT_SHAPE;
        }
        if (fault != KF_FAULT_NONE) {
            return fault;
        }
        length += is_pack(node) ? 1u : (uint32_t)t.dims[axis];
    }
    return length == (uint32_t)node->out.dims[axis] ? KF_FAULT_NONE : KF_FAULT_SHAPE;
}

static void work(const kf_node_t *node, kf_work_t *work) {
    work->slices = kf_outer(&node->out, axis_of(node));
    work->macs = node->out.elements / work->slices / 4 + 24u * node->inputs;
    work->in_place = work->slices == 1; /* the first input may be where it belongs already */
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    const uint32_t outer = kf_outer(&node->out, axis_of(node));
    const uint32_t row = node->out.elements / outer;
    uint32_t at = first * row;
    for (uint32_t i = 0; i < node->inputs; i++) {
        kf_tensor_t t;
        const uint8_t *in = kf_io_input(node, io, i, &t);
        const uint32_t piece = t.elements / outer;
        for (uint32_t k = 0; k < count; k++) {
            memmove(io->out + at + k * row, in + (first + k) * piece, piece);
        }
        at += piece;
    }
}

const kf_op_t kf_op_concatenation = {KF_BUILTIN_CONCATENATION, KF_OPTIONS_CONCATENATION, check, work, run};
const kf_op_t kf_op_pack = {KF_BUILTIN_PACK, KF_OPTIONS_PACK, check, work, run};
