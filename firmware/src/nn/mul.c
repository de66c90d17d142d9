/* MUL with a fused activation, and PRELU, whose negative values are multiplied with a tensor of slopes: int8, with broadcasting.
 * A slice is one output value. */
#include "pair.h"

static kf_requant_t product(const kf_node_t *node) {
    return kf_requant_product(node->in[0].scale_f32, node->in[1].scale_f32, node->out.scale_f32);
}

/* MUL */

static kf_model_fault_t check_mul(kf_node_t *node) {
    kf_range_t range;
    kf_model_fault_t fault = kf_pair_check(node);
    if (fault == KF_FAULT_NONE) {
        fault = kf_read_range(node, KF_MUL_ACTIVATION, &range);
    }
    if (fault == KF_FAULT_NONE && product(node).shift > 30) {
        fault = KF_FAULT_QUANTIZATION;
    }
    return fault;
}

static void work_mul(const kf_node_t *node, kf_work_t *work) {
    kf_pair_work(node, work, 6);
}

static void run_mul(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    const kf_requant_t by = product(node);
    kf_range_t range;
    kf_pair_t p;
    if (kf_read_range(node, KF_MUL_ACTIVATION, &range) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    kf_pair_begin(node, first, &p);
    for (uint32_t i = first; i < first + count; i++) {
        const int32_t a = (int8_t)io->in[0][p.a] - node->in[0].zp;
        const int32_t b = (int8_t)io->in[1][p.b] - node->in[1].zp;
        io->out[i] = (uint8_t)kf_clamp(kf_requant(a * b, by) + node->out.zp, range.low, range.high);
        kf_pair_next(&p);
    }
}

const kf_op_t kf_op_mul = {KF_BUILTIN_MUL, KF_OPTIONS_MUL, check_mul, work_mul, run_mul};

/* PRELU */

static kf_model_fault_t check_prelu(kf_node_t *node) {
    const kf_model_fault_t fault = kf_pair_check(node);
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    if (node->in[0].elements != node->out.elements) {
        return KF_FAULT_SHAPE;
    }
    const kf_requant_t as_is = kf_requant_scales(node->in[0].scale_f32, node->out.scale_f32);
    return as_is.shift > 30 || product(node).shift > 30 ? KF_FAULT_QUANTIZATION : KF_FAULT_NONE;
}

static void run_prelu(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    const kf_requant_t as_is = kf_requant_scales(node->in[0].scale_f32, node->out.scale_f32);
    const kf_requant_t sloped = product(node);
    kf_pair_t p;
    kf_pair_begin(node, first, &p);
    for (uint32_t i = first; i < first + count; i++) {
        const int32_t x = (int8_t)io->in[0][p.a] - node->in[0].zp;
        const int32_t slope = (int8_t)io->in[1][p.b] - node->in[1].zp;
        const int32_t value = x >= 0 ? kf_requant(x, as_is) : kf_requant(x * slope, sloped);
        io->out[i] = (uint8_t)kf_clamp(value + node->out.zp, -128, 127);
        kf_pair_next(&p);
    }
}

const kf_op_t kf_op_prelu = {KF_BUILTIN_PRELU, KF_OPTIONS_NONE, check_prelu, work_mul, run_prelu};
