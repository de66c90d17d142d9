/* RELU, RELU6, RELU_N1_TO_1 and LEAKY_RELU as operators of their own, int8, requantized. A slice is one value.
 *
 * TensorFlow Lite Micro's RELU6 does not requantize, and it has no RELU_N1_TO_1; where scales differ we do as TensorFlow Lite does.
 */
#include "check.h"
#include "ratio.h"

typedef struct relu {
    kf_requant_t positive, negative;
    int32_t sign; /* of what a negative input becomes */
    kf_range_t range;
} relu_t;

/* Where the output is clamped, in its own quantization. */
static kf_range_t range_of(const kf_node_t *node) {
    static const uint32_t one = 0x3F800000u, minus_one = 0xBF800000u, six = 0x40C00000u;
    const uint32_t scale = node->out.scale_f32;
    const int32_t zp = node->out.zp;
    kf_range_t range = {-128, 127};
    switch (node->op->code) {
    case KF_BUILTIN_RELU:
        range.low = zp;
        break;
    case KF_BUILTIN_RELU6:
        range.low = zp;
        range.high = kf_clamp(zp + kf_f32_div_round(six, scale), -128, 127);
        break;
    case KF_BUILTIN_RELU_N1_TO_1:
        range.low = kf_clamp(zp + kf_f32_div_round(minus_one, scale), -128, 127);
        range.high = kf_clamp(zp + kf_f32_div_round(one, scale), -128, 127);
        break;
    default: /* LEAKY_RELU */
        break;
    }
    return range;
}

static kf_model_fault_t prepare(const kf_node_t *node, relu_t *r) {
    const uint32_t in = node->in[0].scale_f32;
    const uint32_t out = node->out.scale_f32;
    r->positive = kf_ratio_scales(in, out);
    r->negative = r->positive;
    r->sign = 1;
    r->range = range_of(node);
    if (r->positive.shift > 30) {
        return KF_FAULT_QUANTIZATION;
    }
    if (node->op->code == KF_BUILTIN_LEAKY_RELU) {
        kf_fb_t fb = kf_model_reader(node->model);
        const uint32_t alpha = (uint32_t)kf_fb_get_i32(&fb, node->options, KF_LEAKY_RELU_ALPHA, 0);
        const uint32_t size = alpha & 0x7FFFFFFFu;
        if (size != 0 && !kf_f32_is_scale(size)) {
            return KF_FAULT_OPTIONS; /* infinite, or no number */
        }
        r->negative = kf_ratio_scales(kf_f32_mul(in, size), out);
        r->sign = alpha == size ? 1 : -1;
    }
    return r->negative.shift > 30 ? KF_FAULT_QUANTIZATION : KF_FAULT_NONE;
}

static kf_model_fault_t check(kf_node_t *node) {
    relu_t r;
    kf_model_fault_t fault = kf_check_int8(node, &node->in[0]);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_int8(node, &node->out);
    }
    if (fault == KF_FAULT_NONE && node->in[0].elements != node->out.elements) {
        fault = KF_FAULT_SHAPE;
    }
    return fault != KF_FAULT_NONE ? fault : prepare(node, &r);
}

static void work(const kf_node_t *node, kf_work_t *work) {
    work->slices = node->out.elements;
    work->macs = 4;     /* about the price of one value, in multiply-accumulates */
    work->in_place = 1; /* value i of the output may lie where value i of the input lies */
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    relu_t r;
    if (prepare(node, &r) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    for (uint32_t i = first; i < first + count; i++) {
        const int32_t x = (int8_t)io->in[0][i] - node->in[0].zp;
        const int32_t value = x >= 0 ? kf_requant(x, r.positive) : r.sign * kf_requant(x, r.negative);
        io->out[i] = (uint8_t)kf_clamp(value + node->out.zp, r.range.low, r.range.high);
    }
}

const kf_op_t kf_op_relu = {KF_BUILTIN_RELU, KF_OPTIONS_NONE, check, work, run};
const kf_op_t kf_op_relu6 = {KF_BUILTIN_RELU6, KF_OPTIONS_NONE, check, work, run};
const kf_op_t kf_op_relu_n1_to_1 = {KF_BUILTIN_RELU_N1_TO_1, KF_OPTIONS_NONE, check, work, run};
const kf_op_t kf_op_leaky_relu = {KF_BUILTIN_LEAKY_RELU, KF_OPTIONS_LEAKY_RELU, check, work, run};
