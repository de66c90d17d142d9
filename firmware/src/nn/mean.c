/* MEAN, SUM, REDUCE_MAX and REDUCE_MIN, int8, over any set of axes of a tensor of rank <= 5. Axes are a constant int32 tensor.
 * A slice is one output value. */
#include <stddef.h>

#include "layout.h"

/* The input's axes split into those that stay and those that are summed, innermost last, with sizes and steps in values. */
typedef struct axes {
    int32_t kept, summed;
    int32_t kept_size[KF_MODEL_RANK_MAX], kept_step[KF_MODEL_RANK_MAX];
    int32_t sum_size[KF_MODEL_RANK_MAX], sum_step[KF_MODEL_RANK_MAX];
    uint32_t outputs; /* product of kept sizes */
    uint32_t terms;   /* product of summed sizes */
} axes_t;

static kf_model_fault_t read_axes(const kf_node_t *node, axes_t *a) {
    const kf_tensor_t *x = &node->in[0];
    uint32_t mask = 0;
    for (uint32_t i = 0; i < node->in[1].elements; i++) {
        int32_t axis = kf_le32(node->in[1].constant + 4 * i);
        axis += axis < 0 ? (int32_t)x->rank : 0;
        if (axis < 0 || axis >= (int32_t)x->rank) {
            return KF_FAULT_OPTIONS;
        }
        mask |= 1u << axis;
    }
    a->kept = 0;
    a->summed = 0;
    a->outputs = 1;
    a->terms = 1;
    int32_t step = (int32_t)x->elements;
    for (uint32_t i = 0; i < x->rank; i++) {
        step /= x->dims[i];
        if ((mask & (1u << i)) != 0) {
            a->sum_size[a->summed] = x->dims[i];
            a->sum_step[a->summed++] = step;
            a->terms *= (uint32_t)x->dims[i];
        } else {
            a->kept_size[a->kept] = x->dims[i];
            a->kept_step[a->kept++] = step;
            a->outputs *= (uint32_t)x->dims[i];
        }
    }
    return KF_FAULT_NONE;
}

static int is_extreme(const kf_node_t *node) {
    return node->op->code == KF_BUILTIN_REDUCE_MAX || node->op->code == KF_BUILTIN_REDUCE_MIN;
}

static kf_model_fault_t check(kf_node_t *node) {
    axes_t a;
    kf_model_fault_t fault = kf_check_int8(node, &node->in[0]);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_int8(node, &node->out);
    }
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    node->blame = node->in[1].index;
    if (node->inputs != 2 || node->in[1].constant == NULL) {
        return KF_FAULT_BUFFER;
    }
    if (node->in[1].type != KF_TYPE_INT32) {
        return KF_FAULT_TYPE;
    }
    if (node->in[1].elements > 2 * KF_MODEL_RANK_MAX) {
        return KF_FAULT_SHAPE;
    }
    fault = read_axes(node, &a);
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    node->blame = KF_MODEL_NONE;
    if (a.outputs != node->out.elements || a.terms > (1u << 23)) { /* |sum - zp * terms| <= 255 * 2^23 < 2^31 */
        return KF_FAULT_SHAPE;
    }
    if (is_extreme(node)) {
        return kf_check_moved(node, &node->in[0], &node->out);
    }
    return kf_requant_scales(node->in[0].scale_f32, node->out.scale_f32).shift > 30 ? KF_FAULT_QUANTIZATION : KF_FAULT_NONE;
}

static void work(const kf_node_t *node, kf_work_t *work) {
    work->slices = node->out.elements;
    work->macs = node->in[0].elements / node->out.elements;
}

/* floor(mult * 2^shift / terms): below 2^31, because 2^shift <= terms. One bit at a time; the remainder stays below
 * 2 * terms <= 2^24. */
static int32_t divide(int32_t mult, int32_t shift, uint32_t terms) {
    uint32_t q = 0;
    uint32_t r = 0;
    for (int32_t bit = 30; bit >= -shift; bit--) {
        r = (r << 1) | (bit >= 0 ? ((uint32_t)mult >> bit) & 1u : 0u);
        q <<= 1;
        if (r >= terms) {
            r -= terms;
            q |= 1u;
        }
    }
    return (int32_t)q;
}

/* The scales' multiplier divided by the number of terms, as the reference folds it in. */
static kf_requant_t requant(const kf_node_t *node, uint32_t terms) {
    kf_requant_t by = kf_requant_scales(node->in[0].scale_f32, node->out.scale_f32);
    int32_t shift = 0;
    while ((terms >> (shift + 1)) != 0) {
        shift++;
    }
    if (shift > 31 + by.shift) {
        shift = 31 + by.shift;
    }
    by.mult = divide(by.mult, shift, terms);
    by.shift -= shift;
    return by;
}

/* Of all values at the summed positions from `x` on. */
typedef struct found {
    int32_t sum, low, high;
} found_t;

static found_t gather(const int8_t *x, const axes_t *a) {
    int32_t at[KF_MODEL_RANK_MAX] = {0, 0, 0, 0, 0};
    found_t total = {0, 127, -128};
    for (;;) {
        total.sum += *x;
        total.low = *x < total.low ? *x : total.low;
        total.high = *x > total.high ? *x : total.high;
        int32_t axis = a->summed - 1;
        while (axis >= 0 && ++at[axis] == a->sum_size[axis]) {
            x -= (a->sum_size[axis] - 1) * a->sum_step[axis];
            at[axis--] = 0;
        }
        if (axis < 0) {
            return total;
        }
        x += a->sum_step[axis];
    }
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    axes_t a;
    if (read_axes(node, &a) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    const uint8_t code = node->op->code;
    kf_requant_t by = requant(node, code == KF_BUILTIN_MEAN ? a.terms : 1);
    int32_t offset = node->in[0].zp * (int32_t)a.terms;
    for (uint32_t i = first; i < first + count; i++) {
        const int8_t *x = (const int8_t *)io->in[0];
        uint32_t rest = i;
        for (int32_t axis = a.kept - 1; axis >= 0; axis--) {
            x += (int32_t)(rest % (uint32_t)a.kept_size[axis]) * a.kept_step[axis];
            rest /= (uint32_t)a.kept_size[axis];
        }
        const found_t found = gather(x, &a);
        if (is_extreme(node)) {
            io->out[i] = (uint8_t)(code == KF_BUILTIN_REDUCE_MAX ? found.high : found.low);
        } else {
            io->out[i] = (uint8_t)kf_clamp(kf_requant(found.sum - offset, by) + node->out.zp, -128, 127);
        }
    }
}

const kf_op_t kf_op_mean = {KF_BUILTIN_MEAN, KF_OPTIONS_NONE, check, work, run};
const kf_op_t kf_op_sum = {KF_BUILTIN_SUM, KF_OPTIONS_NONE, check, work, run};
const kf_op_t kf_op_reduce_max = {KF_BUILTIN_REDUCE_MAX, KF_OPTIONS_NONE, check, work, run};
const kf_op_t kf_op_reduce_min = {KF_BUILTIN_REDUCE_MIN, KF_OPTIONS_NONE, check, work, run};
