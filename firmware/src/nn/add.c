/* ADD, int8, with broadcasting up to rank 5 and a fused activation. A slice is one output value. */
#include "check.h"

/* Both inputs are brought to the scale 2 * max(scale_a, scale_b), with 20 more bits: |q - zp| * 2^20 < 2^28. */
enum { LEFT_SHIFT = 20 };

typedef struct sum {
    kf_requant_t a, b, out;
    kf_range_t range;
} sum_t;

static kf_model_fault_t prepare(const kf_node_t *node, sum_t *s) {
    uint32_t a = node->in[0].scale_f32;
    uint32_t b = node->in[1].scale_f32;
    uint32_t out = node->out.scale_f32;
    kf_f32_t max = kf_f32_split(a > b ? a : b); /* positive floats compare like their bits */
    kf_f32_t x = kf_f32_split(a);
    kf_f32_t y = kf_f32_split(b);
    kf_f32_t z = kf_f32_split(out);
    s->a = kf_requant_ratio(x.m, x.e, max.m, max.e + 1);
    s->b = kf_requant_ratio(y.m, y.e, max.m, max.e + 1);
    s->out = kf_requant_ratio(max.m, max.e + 1, z.m, z.e + LEFT_SHIFT);
    if (s->out.shift > 0) {
        return KF_FAULT_QUANTIZATION; /* the reference refuses an output scale this small */
    }
    return kf_read_range(node, KF_ADD_ACTIVATION, &s->range);
}

/* Size of an input along output axis `axis`: shapes are aligned at their last axes. */
static int32_t size_along(const kf_tensor_t *t, int32_t out_rank, int32_t axis) {
    int32_t own = axis - (out_rank - (int32_t)t->rank);
    return own < 0 ? 1 : t->dims[own];
}

static kf_model_fault_t check(kf_node_t *node) {
    sum_t s;
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
    int32_t rank = node->out.rank;
    if ((int32_t)node->in[0].rank > rank || (int32_t)node->in[1].rank > rank) {
        return KF_FAULT_SHAPE;
    }
    for (int32_t axis = 0; axis < rank; axis++) {
        int32_t a = size_along(&node->in[0], rank, axis);
        int32_t b = size_along(&node->in[1], rank, axis);
        int32_t out = node->out.dims[axis];
        if ((a != out && a != 1) || (b != out && b != 1) || (a != out && b != out)) {
            return KF_FAULT_SHAPE;
        }
    }
    return prepare(node, &s);
}

static void work(const kf_node_t *node, kf_work_t *work) {
    work->slices = node->out.elements;
    work->macs = 12; /* three requantizations */
    /* An input that is not broadcast is read value by value, just before the output is written there. */
    for (uint32_t i = 0; i < 2; i++) {
        if (node->in[i].elements == node->out.elements) {
            work->in_place |= 1u << i;
        }
    }
}

static int8_t add(const kf_node_t *node, const sum_t *s, int8_t a, int8_t b) {
    int32_t x = kf_requant((a - node->in[0].zp) * (1 << LEFT_SHIFT), s->a);
    int32_t y = kf_requant((b - node->in[1].zp) * (1 << LEFT_SHIFT), s->b);
    return (int8_t)kf_clamp(kf_requant(x + y, s->out) + node->out.zp, s->range.low, s->range.high);
}

/* Position in an input of the value that meets output value `index`. */
static uint32_t position(const kf_node_t *node, const kf_tensor_t *t, uint32_t index) {
    uint32_t at = 0;
    uint32_t step = 1;
    for (int32_t axis = (int32_t)node->out.rank - 1; axis >= 0; axis--) {
        uint32_t out = (uint32_t)node->out.dims[axis];
        uint32_t size = (uint32_t)size_along(t, node->out.rank, axis);
        if (size != 1) {
            at += (index % out) * step;
            step *= size;
        }
        index /= out;
    }
    return at;
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    sum_t s;
    if (prepare(node, &s) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    int same = node->in[0].elements == node->out.elements && node->in[1].elements == node->out.elements;
    for (uint32_t i = first; i < first + count; i++) {
        uint32_t a = same ? i : position(node, &node->in[0], i);
        uint32_t b = same ? i : position(node, &node->in[1], i);
        io->out[i] = (uint8_t)add(node, &s, (int8_t)io->in[0][a], (int8_t)io->in[1][b]);
    }
}

const kf_op_t kf_op_add = {KF_BUILTIN_ADD, KF_OPTIONS_ADD, check, work, run};
