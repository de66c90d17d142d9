/* SVDF, int8 with a state of int8 or int16: a dense layer over a window of past inputs, as a sum of `rank` separable filters.
 *
 * Letters: in [B][N], feature filters [F][N], time filters [F][M], bias [U] or left out, state [B][F * M], out [B][U], F = U * rank.
 * Each filter has a row of the last M feature values in the state, the newest last. A slice is one output value: its filters'
 * rows move on by one, and are summed against the time filters.
 * The fused activation does not show: the output's range has it, and the reference does not look at it either.
 */
#include <stddef.h>

#include "layout.h"
#include "ratio.h"

enum { STATE = 4 };

typedef struct svdf {
    kf_requant_t feature, out;
    int32_t rank, inputs, memory, units;
    int32_t state_zp;
    int wide; /* state and time filters are int16, little endian at any alignment */
} svdf_t;

static KF_NOINLINE kf_model_fault_t prepare(const kf_node_t *node, svdf_t *s) {
    kf_fb_t fb = kf_model_reader(node->model);
    const kf_tensor_t *feature = &node->in[1];
    const kf_tensor_t *time = &node->in[2];
    kf_tensor_t state;
    if (kf_node_input_read(node, STATE, &state) != KF_FAULT_NONE) {
        return KF_FAULT_INDEX;
    }
    s->rank = kf_fb_get_i32(&fb, node->options, KF_SVDF_RANK, 0);
    if (s->rank < 1 || s->rank > feature->dims[0] || feature->dims[0] % s->rank != 0) {
        return KF_FAULT_OPTIONS;
    }
    s->units = feature->dims[0] / s->rank;
    s->inputs = feature->dims[1];
    s->memory = time->dims[1];
    s->state_zp = state.zp;
    s->wide = state.type == KF_TYPE_INT16;
    s->feature = kf_ratio_scales(kf_f32_mul(node->in[0].scale_f32, feature->scale_f32), state.scale_f32);
    s->out = kf_ratio_scales(kf_f32_mul(state.scale_f32, time->scale_f32), node->out.scale_f32);
    return s->feature.shift > 30 || s->out.shift > 30 ? KF_FAULT_QUANTIZATION : KF_FAULT_NONE;
}

/* Constant weights [F][..] of one scale and zero point 0. */
static kf_model_fault_t check_filter(kf_node_t *node, const kf_tensor_t *t, uint8_t type) {
    node->blame = t->index;
    if (t->type != type) {
        return KF_FAULT_TYPE;
    }
    if (t->constant == NULL) {
        return KF_FAULT_BUFFER;
    }
    if (t->scales != 1 || !kf_f32_is_scale(t->scale_f32) || t->zp != 0) {
        return KF_FAULT_QUANTIZATION;
    }
    if (t->rank != 2) {
        return KF_FAULT_SHAPE;
    }
    node->blame = KF_MODEL_NONE;
    return KF_FAULT_NONE;
}

static kf_model_fault_t check_bias(kf_node_t *node, uint32_t units) {
    kf_tensor_t bias;
    if (kf_node_input_read(node, 3, &bias) != KF_FAULT_NONE) {
        return KF_FAULT_NONE; /* left out: it was decoded before, so nothing else can be */
    }
    const kf_model_fault_t fault = kf_check_integers(node, &bias);
    return fault != KF_FAULT_NONE ? fault : bias.elements == units ? KF_FAULT_NONE : KF_FAULT_SHAPE;
}

static kf_model_fault_t check_shapes(kf_node_t *node, const kf_tensor_t *state, const svdf_t *s) {
    const int32_t *in = node->in[0].dims;
    const int32_t *time = node->in[2].dims;
    const int32_t filters = node->in[1].dims[0];
    if (node->in[0].rank != 2 || node->out.rank != 2 || state->rank != 2 || in[1] != s->inputs || time[0] != filters ||
        state->dims[0] != in[0] || (uint32_t)state->dims[1] != (uint32_t)filters * (uint32_t)s->memory ||
        node->out.dims[0] != in[0] || node->out.dims[1] != s->units || s->inputs > KF_TERMS_MAX) {
        return KF_FAULT_SHAPE;
    }
    return KF_FAULT_NONE;
}

static kf_model_fault_t check(kf_node_t *node) {
    svdf_t s;
    kf_tensor_t state;
    if (node->inputs != STATE + 1) {
        return KF_FAULT_COUNT;
    }
    kf_model_fault_t fault = kf_check_int8(node, &node->in[0]);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_int8(node, &node->out);
    }
    if (fault == KF_FAULT_NONE) {
        fault = check_filter(node, &node->in[1], KF_TYPE_INT8);
    }
    if (fault == KF_FAULT_NONE) {
        fault = kf_node_input_read(node, STATE, &state);
    }
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    if ((state.type != KF_TYPE_INT8 && state.type != KF_TYPE_INT16) || state.scales != 1 || !kf_f32_is_scale(state.scale_f32)) {
        node->blame = state.index;
        return KF_FAULT_TYPE;
    }
    fault = check_filter(node, &node->in[2], state.type);
    if (fault == KF_FAULT_NONE) {
        fault = prepare(node, &s);
    }
    if (fault == KF_FAULT_NONE) {
        fault = check_shapes(node, &state, &s);
    }
    return fault != KF_FAULT_NONE ? fault : check_bias(node, (uint32_t)s.units);
}

static void work(const kf_node_t *node, kf_work_t *work) {
    svdf_t s;
    work->slices = node->out.elements;
    if (prepare(node, &s) == KF_FAULT_NONE) {
        work->macs = kf_mul_saturating((uint32_t)s.rank, (uint32_t)s.inputs + 2u * (uint32_t)s.memory + 4u);
    }
}

static int32_t read_value(const uint8_t *p, int wide) {
    return wide ? (int16_t)(p[0] | (p[1] << 8)) : (int8_t)p[0];
}

/* The newest value of filter `f`, of one batch. */
static KF_NOINLINE int32_t feature_of(const kf_node_t *node, const kf_io_t *io, const svdf_t *s, int32_t batch, int32_t f) {
    const int8_t *x = (const int8_t *)io->in[0] + batch * s->inputs;
    const int8_t *w = (const int8_t *)io->in[1] + f * s->inputs;
    int32_t sum = 0;
    for (int32_t i = 0; i < s->inputs; i++) {
        sum += w[i] * (x[i] - node->in[0].zp);
    }
    return kf_clamp(kf_requant(sum, s->feature), s->wide ? -32768 : -128, s->wide ? 32767 : 127) + s->state_zp;
}

/* Move a filter's row on by one value, and multiply it with the filter in time. */
static KF_NOINLINE int32_t step(const svdf_t *s, uint8_t *row, const uint8_t *time, int32_t newest) {
    const int32_t bytes = s->wide ? 2 : 1;
    uint32_t sum = 0; /* modulo 2^32, as the reference's sum may be when it is wide */
    for (int32_t i = 0; i < s->memory; i++) {
        uint8_t *at = row + i * bytes;
        for (int32_t k = 0; k < bytes; k++) {
            at[k] = (uint8_t)(i + 1 < s->memory ? at[k + bytes] : newest >> (8 * k));
        }
        sum += (uint32_t)(read_value(time + i * bytes, s->wide) * (read_value(at, s->wide) - s->state_zp));
    }
    return (int32_t)sum;
}

static KF_NOINLINE const uint8_t *bias_of(const kf_node_t *node, const kf_io_t *io) {
    kf_tensor_t t;
    return kf_io_input(node, io, 3, &t);
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    svdf_t s;
    if (prepare(node, &s) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    const uint8_t *bias = bias_of(node, io);
    uint8_t *state = kf_io_state(node, io);
    const int32_t bytes = s.memory * (s.wide ? 2 : 1);
    for (uint32_t i = first; i < first + count; i++) {
        const int32_t batch = (int32_t)(i / (uint32_t)s.units);
        const int32_t unit = (int32_t)(i % (uint32_t)s.units);
        uint32_t sum = bias == NULL ? 0u : (uint32_t)kf_le32(bias + 4 * unit);
        for (int32_t f = unit * s.rank; f < (unit + 1) * s.rank; f++) {
            const int32_t newest = feature_of(node, io, &s, batch, f);
            uint8_t *row = state + (batch * s.units * s.rank + f) * bytes;
            sum += (uint32_t)step(&s, row, io->in[2] + f * bytes, newest);
        }
        io->out[i] = (uint8_t)kf_clamp(kf_requant((int32_t)sum, s.out) + node->out.zp, -128, 127);
    }
}

const kf_op_t kf_op_svdf = {KF_BUILTIN_SVDF, KF_OPTIONS_SVDF, check, work, run};
