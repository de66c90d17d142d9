/* SOFTMAX along the last axis, int8 to int8 with output scale 1/256 and zero point -128. A slice is one row. */
#include "check.h"
#include "fixed.h"

/* Differences to the largest input are scaled to Q5.26; exp() of less than -32 counts as 0. Sums are kept in Q12.19. */
enum { DIFF_BITS = 5, SUM_BITS = 12 };

typedef struct scaling {
    kf_requant_t by; /* shift in 1..31: to the left */
    int32_t diff_min;
} scaling_t;

static kf_model_fault_t prepare(const kf_node_t *node, scaling_t *s) {
    kf_fb_t fb = kf_model_reader(node->model);
    uint32_t beta = (uint32_t)kf_fb_get_i32(&fb, node->options, KF_SOFTMAX_BETA, 0);
    if (!kf_f32_is_scale(beta)) {
        return KF_FAULT_OPTIONS;
    }
    kf_f32_t x = kf_f32_split(node->in[0].scale_f32);
    kf_f32_t b = kf_f32_split(beta);
    /* beta * scale * 2^26, at most 2^31 - 1 */
    s->by = kf_requant_ratio((uint64_t)x.m * b.m, x.e + b.e + 31 - DIFF_BITS, 1u << 23, -23);
    if (s->by.shift > 31) {
        s->by.shift = 31;
        s->by.mult = 0x7FFFFFFF;
    }
    if (s->by.shift < 1 || (s->by.shift == 1 && s->by.mult == 1 << 30)) {
        return KF_FAULT_QUANTIZATION; /* the reference refuses a multiplier of 1 or less */
    }
    s->diff_min = -(int32_t)((((1u << DIFF_BITS) - 1u) << (31 - DIFF_BITS)) >> s->by.shift);
    return KF_FAULT_NONE;
}

static kf_model_fault_t check(kf_node_t *node) {
    static const uint32_t one_256th = 0x3B800000u;
    scaling_t s;
    kf_model_fault_t fault = kf_check_int8(node, &node->in[0]);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_int8(node, &node->out);
    }
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    node->blame = node->out.index;
    if (node->out.scale_f32 != one_256th || node->out.zp != -128) {
        return KF_FAULT_QUANTIZATION;
    }
    /* A row of n equal values sums to n in Q12.19, so n < 2^12. */
    if (node->inputs != 1 || node->in[0].rank < 1 || node->in[0].elements != node->out.elements ||
        node->out.rank != node->in[0].rank || node->out.dims[node->out.rank - 1] != node->in[0].dims[node->out.rank - 1] ||
        node->out.dims[node->out.rank - 1] >= 1 << SUM_BITS) {
        return KF_FAULT_SHAPE;
    }
    node->blame = KF_MODEL_NONE;
    return prepare(node, &s);
}

static void work(const kf_node_t *node, kf_work_t *work) {
    uint32_t depth = (uint32_t)node->out.dims[node->out.rank - 1];
    work->slices = node->out.elements / depth;
    work->macs = depth * 64u; /* two exponentials a value */
    work->in_place = 1;       /* a value is read for the last time just before its place is written */
}

/* exp(difference) in Q0.31, for a difference in [diff_min, 0]. */
static int32_t exponential(const scaling_t *s, int32_t diff) {
    return kf_fixed_exp(kf_mul_high((int32_t)((uint32_t)diff << s->by.shift), s->by.mult), DIFF_BITS);
}

static void row(const scaling_t *s, const int8_t *in, int8_t *out, int32_t depth) {
    int32_t max = -128;
    for (int32_t c = 0; c < depth; c++) {
        max = in[c] > max ? in[c] : max;
    }
    uint32_t sum = 0; /* Q12.19, in [1, 2^12): the largest value gives 1 by itself */
    for (int32_t c = 0; c < depth; c++) {
        if (in[c] - max >= s->diff_min) {
            sum += (uint32_t)kf_round_shift(exponential(s, in[c] - max), SUM_BITS);
        }
    }
    int32_t headroom = 0;
    while ((sum >> 31) == 0) {
        sum <<= 1;
        headroom++;
    }
    int32_t scale = kf_fixed_inverse((int32_t)(sum - 0x80000000u));
    /* From Q0.31 times 2^(SUM_BITS - headroom) to units of 1/256. Above 31 places (a sum of 512 or more) nothing is left. */
    int32_t places = SUM_BITS - headroom + 31 - 8;
    for (int32_t c = 0; c < depth; c++) {
        int32_t value = -128;
        if (in[c] - max >= s->diff_min && places <= 31) {
            value += kf_round_shift(kf_mul_high(scale, exponential(s, in[c] - max)), places);
        }
        out[c] = (int8_t)kf_clamp(value, -128, 127);
    }
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    scaling_t s;
    if (prepare(node, &s) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    int32_t depth = node->out.dims[node->out.rank - 1];
    for (uint32_t i = first; i < first + count; i++) {
        int32_t at = (int32_t)i * depth;
        row(&s, (const int8_t *)io->in[0] + at, (int8_t *)io->out + at, depth);
    }
}

const kf_op_t kf_op_softmax = {KF_BUILTIN_SOFTMAX, KF_OPTIONS_SOFTMAX, check, work, run};
