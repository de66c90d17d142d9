/* SLICE, STRIDED_SLICE and TRANSPOSE, int8, rank <= 5: the output's values in order, the input's in steps. A slice is one row of the
 * output along its last axis. */
#include <stddef.h>
#include <string.h>

#include "layout.h"

/* Output value (i0, i1, ...) is input value start + i0 * step[0] + i1 * step[1] + ... */
typedef struct view {
    int32_t rank, start;
    int32_t size[KF_MODEL_RANK_MAX], step[KF_MODEL_RANK_MAX];
} view_t;

/* From one value to the next along an axis of the input. */
static int32_t step_of(const kf_tensor_t *t, int32_t axis) {
    int32_t step = 1;
    for (int32_t i = (int32_t)t->rank - 1; i > axis; i--) {
        step *= t->dims[i];
    }
    return step;
}

static void add_axis(view_t *v, int32_t size, int32_t step) {
    v->size[v->rank] = size;
    v->step[v->rank++] = step;
}

/* SLICE: where it begins, and how much of each axis (-1: the rest). */
static kf_model_fault_t read_slice(const kf_node_t *node, view_t *v) {
    const kf_tensor_t *x = &node->in[0];
    for (int32_t axis = 0; axis < (int32_t)x->rank; axis++) {
        const int32_t begin = kf_integer(&node->in[1], (uint32_t)axis);
        const int32_t size = kf_integer(&node->in[2], (uint32_t)axis);
        if (begin < 0 || begin >= x->dims[axis] || (size != -1 && (size < 1 || size > x->dims[axis] - begin))) {
            return KF_FAULT_OPTIONS;
        }
        v->start += begin * step_of(x, axis);
        add_axis(v, size == -1 ? x->dims[axis] - begin : size, step_of(x, axis));
    }
    return KF_FAULT_NONE;
}

/* A place on an axis that may be counted from its end, clamped to [low, high]; `masked`: `otherwise`. */
static int32_t place_on(int32_t place, int32_t size, int32_t low, int32_t high, int masked, int32_t otherwise) {
    if (masked) {
        return otherwise;
    }
    return kf_clamp(place < 0 ? place + size : place, low, high); /* a negative number and a size cannot overflow */
}

/* STRIDED_SLICE: begin, end and stride of each axis; axes of the shrink mask are dropped. */
static kf_model_fault_t read_strided(const kf_node_t *node, view_t *v) {
    const kf_tensor_t *x = &node->in[0];
    kf_fb_t fb = kf_model_reader(node->model);
    const uint32_t begins = (uint32_t)kf_fb_get_i32(&fb, node->options, KF_STRIDED_BEGIN_MASK, 0);
    const uint32_t ends = (uint32_t)kf_fb_get_i32(&fb, node->options, KF_STRIDED_END_MASK, 0);
    const uint32_t shrink = (uint32_t)kf_fb_get_i32(&fb, node->options, KF_STRIDED_SHRINK_MASK, 0);
    if (kf_fb_get_i32(&fb, node->options, KF_STRIDED_ELLIPSIS_MASK, 0) != 0 ||
        kf_fb_get_i32(&fb, node->options, KF_STRIDED_NEW_AXIS_MASK, 0) != 0 ||
        kf_fb_get_u8(&fb, node->options, KF_STRIDED_OFFSET, 0) != 0) {
        return KF_FAULT_OPTIONS;
    }
    kf_tensor_t strides;
    if (kf_node_input_read(node, 3, &strides) != KF_FAULT_NONE) {
        return KF_FAULT_INDEX;
    }
    for (int32_t axis = 0; axis < (int32_t)x->rank; axis++) {
        const uint32_t bit = 1u << axis;
        const int32_t size = x->dims[axis];
        const int32_t stride = kf_integer(&strides, (uint32_t)axis);
        if (stride == 0) {
            return KF_FAULT_OPTIONS;
        }
        /* A step beyond the axis takes one value, as one of the axis' size does. */
        const int32_t step = stride < 0 ? (stride < -size ? -size : stride) : (stride > size ? size : stride);
        const int32_t low = step > 0 ? 0 : -1;
        const int32_t high = step > 0 ? size : size - 1;
        const int32_t begin = place_on(kf_integer(&node->in[1], (uint32_t)axis), size, low, high, (begins & bit) != 0,
                                       step > 0 ? 0 : size - 1);
        const int32_t end = place_on(kf_integer(&node->in[2], (uint32_t)axis), size, low, high, (ends & bit) != 0,
                                     step > 0 ? size : -1);
        const int dropped = (shrink & bit) != 0;
        const int32_t reach = step > 0 ? end - begin : begin - end;
        const int32_t length = step > 0 ? step : -step;
        const int32_t count = dropped ? 1 : reach > 0 ? (reach + length - 1) / length : 0;
        if (begin < 0 || begin >= size || count < 1) {
            return KF_FAULT_SHAPE; /* nothing is left */
        }
        v->start += begin * step_of(x, axis);
        if (!dropped) {
            add_axis(v, count, step * step_of(x, axis));
        }
    }
    return KF_FAULT_NONE;
}

/* TRANSPOSE: which axis of the input each axis of the output is. */
static kf_model_fault_t read_transpose(const kf_node_t *node, view_t *v) {
    const kf_tensor_t *x = &node->in[0];
    uint32_t seen = 0;
    for (uint32_t i = 0; i < x->rank; i++) {
        const int32_t axis = kf_axis(kf_integer(&node->in[1], i), x->rank);
        if (axis < 0 || (seen & (1u << axis)) != 0) {
            return KF_FAULT_OPTIONS;
        }
        seen |= 1u << axis;
        add_axis(v, x->dims[axis], step_of(x, axis));
    }
    return KF_FAULT_NONE;
}

static kf_model_fault_t read_view(const kf_node_t *node, view_t *v) {
    v->rank = 0;
    v->start = 0;
    switch (node->op->code) {
    case KF_BUILTIN_SLICE:
        return read_slice(node, v);
    case KF_BUILTIN_STRIDED_SLICE:
        return read_strided(node, v);
    default:
        return read_transpose(node, v);
    }
}

/* What says how to look: constant int32, one value an axis of the input. */
static kf_model_fault_t check_arguments(kf_node_t *node) {
    const uint32_t inputs = node->op->code == KF_BUILTIN_SLICE ? 3u : node->op->code == KF_BUILTIN_TRANSPOSE ? 2u : 4u;
    if (node->inputs != inputs) {
        return KF_FAULT_COUNT;
    }
    for (uint32_t i = 1; i < inputs; i++) {
        kf_tensor_t t;
        kf_model_fault_t fault = kf_node_input_read(node, i, &t);
        if (fault == KF_FAULT_NONE) {
            fault = kf_check_integers(node, &t);
        }
        if (fault == KF_FAULT_NONE && t.elements != node->in[0].rank) {
            node->blame = t.index;
            fault = KF_FAULT_SHAPE;
        }
        if (fault != KF_FAULT_NONE) {
            return fault;
        }
    }
    return KF_FAULT_NONE;
}

static kf_model_fault_t check(kf_node_t *node) {
    view_t v;
    kf_model_fault_t fault = kf_check_int8(node, &node->out);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_moved(node, &node->in[0], &node->out);
    }
    if (fault == KF_FAULT_NONE) {
        fault = check_arguments(node);
    }
    if (fault == KF_FAULT_NONE) {
        fault = read_view(node, &v);
    }
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    if (v.rank != (int32_t)node->out.rank) {
        return KF_FAULT_SHAPE;
    }
    for (int32_t axis = 0; axis < v.rank; axis++) {
        if (v.size[axis] != node->out.dims[axis]) {
            return KF_FAULT_SHAPE;
        }
    }
    return KF_FAULT_NONE;
}

static uint32_t row_of(const kf_tensor_t *t) {
    return t->rank == 0 ? 1u : (uint32_t)t->dims[t->rank - 1];
}

static void work(const kf_node_t *node, kf_work_t *work) {
    const uint32_t row = row_of(&node->out);
    work->slices = node->out.elements / row;
    work->macs = row + 16;
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    view_t v;
    if (read_view(node, &v) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    const uint32_t row = row_of(&node->out);
    const int32_t step = v.rank == 0 ? 1 : v.step[v.rank - 1];
    uint8_t *out = io->out + (size_t)first * row;
    for (uint32_t i = first; i < first + count; i++) {
        int32_t at = v.start;
        uint32_t rest = i;
        for (int32_t axis = v.rank - 2; axis >= 0; axis--) {
            at += (int32_t)(rest % (uint32_t)v.size[axis]) * v.step[axis];
            rest /= (uint32_t)v.size[axis];
        }
        const uint8_t *in = io->in[0] + at;
        if (step == 1) {
            memcpy(out, in, row);
        } else {
            for (uint32_t k = 0; k < row; k++) {
                out[k] = in[(int32_t)k * step];
            }
        }
        out += row;
    }
}

const kf_op_t kf_op_slice = {KF_BUILTIN_SLICE, KF_OPTIONS_NONE, check, work, run};
const kf_op_t kf_op_strided_slice = {KF_BUILTIN_STRIDED_SLICE, KF_OPTIONS_STRIDED_SLICE, check, work, run};
const kf_op_t kf_op_transpose = {KF_BUILTIN_TRANSPOSE, KF_OPTIONS_NONE, check, work, run};
