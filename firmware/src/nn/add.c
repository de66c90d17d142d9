/* ADD and SUB, int8, with broadcasting up to rank 5 and a fused activation. A slice is one output value. */
#include "kernels.h"
#include "pair.h"
#include "ratio.h"

/* Both inputs are brought to the scale 2 * max(scale_a, scale_b), with 20 more bits: |q - zp| * 2^20 < 2^28. */
enum { LEFT_SHIFT = KF_ADD_BITS };

typedef struct sum {
    kf_requant_t a, b, out;
    kf_range_t range;
} sum_t;

static int is_sub(const kf_node_t *node) {
    return node->op->code == KF_BUILTIN_SUB;
}

/* The same three ratios, in the reference made with doubles for ADD, and with float32 for SUB. */
static void multipliers(const kf_node_t *node, sum_t *s) {
    const uint32_t a = node->in[0].scale_f32;
    const uint32_t b = node->in[1].scale_f32;
    const uint32_t out = node->out.scale_f32;
    const kf_f32_t max = kf_f32_split(a > b ? a : b); /* positive floats compare like their bits */
    if (is_sub(node)) {
        const uint32_t twice = kf_f32_pack(max.m, max.e + 1);
        const kf_f32_t z = kf_f32_split(out);
        s->a = kf_ratio_scales(a, twice);
        s->b = kf_ratio_scales(b, twice);
        s->out = kf_ratio_scales(twice, kf_f32_pack(z.m, z.e + LEFT_SHIFT));
    } else {
        const kf_f32_t x = kf_f32_split(a);
        const kf_f32_t y = kf_f32_split(b);
        const kf_f32_t z = kf_f32_split(out);
        s->a = kf_requant_ratio(x.m, x.e, max.m, max.e + 1);
        s->b = kf_requant_ratio(y.m, y.e, max.m, max.e + 1);
        s->out = kf_requant_ratio(max.m, max.e + 1, z.m, z.e + LEFT_SHIFT);
    }
}

static kf_model_fault_t prepare(const kf_node_t *node, sum_t *s) {
    multipliers(node, s);
    if (s->out.shift > 0 || s->a.shift > 0 || s->b.shift > 0) {
        return KF_FAULT_QUANTIZATION; /* the reference refuses an output scale this small */
    }
    return kf_read_range(node, KF_ADD_ACTIVATION, &s->range);
}

static kf_model_fault_t check(kf_node_t *node) {
    sum_t s;
    const kf_model_fault_t fault = kf_pair_check(node);
    return fault != KF_FAULT_NONE ? fault : prepare(node, &s);
}

static void work(const kf_node_t *node, kf_work_t *work) {
    kf_pair_work(node, work, 12); /* three requantizations */
    if (work->in_place == 3) {
        kf_values_walk(node, &work->walk);
    }
}

/* ---- inputs of one shape ----------------------------------------------------------------------------------------- */

/* Both addends are below 2^28, so their sum is narrow. */
static KF_NOINLINE void run_aligned(const kf_node_t *node, const sum_t *s, const int8_t *a, const int8_t *b, int8_t *out,
                                    uint32_t count) {
    const int32_t right = -1 - s->out.shift;
    const kf_addition_t addition = {{node->in[0].zp, s->a.mult, -1 - s->a.shift},
                                    {node->in[1].zp, s->b.mult, -1 - s->b.shift},
                                    is_sub(node) ? -1 : 1,
                                    {0, s->out.mult, right},
                                    {node->out.zp, s->range.low, s->range.high, right >= 0 && right <= KF_RIGHT_NARROW}};
    kf_add(&addition, a, b, out, count);
}

/* ---- any inputs -------------------------------------------------------------------------------------------------- */

/* Where an input is repeated. */
static KF_NOINLINE void run_repeated(const kf_node_t *node, const sum_t *s, const kf_io_t *io, uint32_t first, uint32_t count) {
    kf_pair_t p;
    kf_pair_begin(node, first, &p);
    for (uint32_t i = first; i < first + count; i++) {
        const int32_t a = kf_requant(((int8_t)io->in[0][p.a] - node->in[0].zp) * (1 << LEFT_SHIFT), s->a);
        const int32_t b = kf_requant(((int8_t)io->in[1][p.b] - node->in[1].zp) * (1 << LEFT_SHIFT), s->b);
        const int32_t value = kf_requant(is_sub(node) ? a - b : a + b, s->out) + node->out.zp;
        io->out[i] = (uint8_t)kf_clamp(value, s->range.low, s->range.high);
        kf_pair_next(&p);
    }
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    sum_t s;
    if (prepare(node, &s) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    if (node->in[0].elements == node->out.elements && node->in[1].elements == node->out.elements) {
        run_aligned(node, &s, (const int8_t *)io->in[0] + first, (const int8_t *)io->in[1] + first, (int8_t *)io->out + first, count);
    } else {
        run_repeated(node, &s, io, first, count);
    }
}

const kf_op_t kf_op_add = {KF_BUILTIN_ADD, KF_OPTIONS_ADD, check, work, run};
const kf_op_t kf_op_sub = {KF_BUILTIN_SUB, KF_OPTIONS_SUB, check, work, run};
