/* QUANTIZE (int8 to int8, float32 to int8), DEQUANTIZE (int8 to float32), LOGISTIC and TANH (int8): one value in, one value out.
 * A slice is one value. float32 values are little endian. */
#include <stddef.h>

#include "check.h"
#include "fixed.h"

static kf_model_fault_t check_shapes(const kf_node_t *node) {
    if (node->inputs != 1) {
        return KF_FAULT_COUNT;
    }
    return node->in[0].elements == node->out.elements ? KF_FAULT_NONE : KF_FAULT_SHAPE;
}

static void put_le32(uint8_t *p, uint32_t x) {
    p[0] = (uint8_t)x;
    p[1] = (uint8_t)(x >> 8);
    p[2] = (uint8_t)(x >> 16);
    p[3] = (uint8_t)(x >> 24);
}

/* QUANTIZE */

static kf_model_fault_t check_quantize(kf_node_t *node) {
    kf_model_fault_t fault = kf_check_int8(node, &node->out);
    if (fault == KF_FAULT_NONE && node->in[0].type != KF_TYPE_FLOAT32) {
        fault = kf_check_int8(node, &node->in[0]);
        if (fault == KF_FAULT_NONE && kf_requant_scales(node->in[0].scale_f32, node->out.scale_f32).shift > 30) {
            fault = KF_FAULT_QUANTIZATION;
        }
    }
    return fault != KF_FAULT_NONE ? fault : check_shapes(node);
}

static void work_quantize(const kf_node_t *node, kf_work_t *work) {
    work->slices = node->out.elements;
    work->macs = node->in[0].type == KF_TYPE_FLOAT32 ? 40 : 4;
    work->in_place = 1; /* output value i lies at or before input value i */
}

static void run_quantize(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    int from_float = node->in[0].type == KF_TYPE_FLOAT32;
    kf_requant_t by = {0, 0};
    if (!from_float) {
        by = kf_requant_scales(node->in[0].scale_f32, node->out.scale_f32);
    }
    for (uint32_t i = first; i < first + count; i++) {
        int32_t value = from_float ? kf_f32_div_round((uint32_t)kf_le32(io->in[0] + 4 * i), node->out.scale_f32)
                                   : kf_requant((int8_t)io->in[0][i] - node->in[0].zp, by);
        io->out[i] = (uint8_t)kf_clamp(value + node->out.zp, -128, 127);
    }
}

const kf_op_t kf_op_quantize = {KF_BUILTIN_QUANTIZE, KF_OPTIONS_NONE, check_quantize, work_quantize, run_quantize};

/* DEQUANTIZE */

static kf_model_fault_t check_dequantize(kf_node_t *node) {
    kf_model_fault_t fault = kf_check_int8(node, &node->in[0]);
    if (fault == KF_FAULT_NONE && node->out.type != KF_TYPE_FLOAT32) {
        fault = KF_FAULT_TYPE;
    }
    return fault != KF_FAULT_NONE ? fault : check_shapes(node);
}

static void work_dequantize(const kf_node_t *node, kf_work_t *work) {
    work->slices = node->out.elements;
    work->macs = 16;
}

static void run_dequantize(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    kf_f32_t scale = kf_f32_split(node->in[0].scale_f32);
    for (uint32_t i = first; i < first + count; i++) {
        int32_t x = (int8_t)io->in[0][i] - node->in[0].zp;
        uint32_t sign = x < 0 ? 0x80000000u : 0u;
        /* |x| <= 255, so the exact product has 32 bits at most. */
        put_le32(io->out + 4 * i, sign | kf_f32_pack((uint64_t)scale.m * (uint32_t)(x < 0 ? -x : x), scale.e));
    }
}

const kf_op_t kf_op_dequantize = {KF_BUILTIN_DEQUANTIZE, KF_OPTIONS_NONE, check_dequantize, work_dequantize, run_dequantize};

/* LOGISTIC and TANH */

/* Inputs are scaled to Q4.27; what lies outside gives the ends of the range. */
enum { LOGISTIC_BITS = 4 };

typedef struct logistic {
    kf_requant_t by;
    int32_t radius;
} logistic_t;

static kf_model_fault_t prepare_logistic(const kf_node_t *node, logistic_t *l) {
    kf_f32_t x = kf_f32_split(node->in[0].scale_f32);
    l->by.mult = (int32_t)(x.m << 7);
    l->by.shift = x.e + 24 + 31 - LOGISTIC_BITS; /* scale * 2^27 = mult * 2^(shift - 31) */
    if (l->by.shift < 0) {
        return KF_FAULT_QUANTIZATION;
    }
    l->radius = l->by.shift > 31 ? 0 : (int32_t)((((1u << LOGISTIC_BITS) - 1u) << (31 - LOGISTIC_BITS)) >> l->by.shift);
    return KF_FAULT_NONE;
}

static kf_model_fault_t check_logistic(kf_node_t *node) {
    logistic_t l;
    kf_model_fault_t fault = kf_check_int8(node, &node->in[0]);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_int8(node, &node->out);
    }
    if (fault == KF_FAULT_NONE && node->out.zp != (node->op->code == KF_BUILTIN_TANH ? 0 : -128)) {
        fault = KF_FAULT_QUANTIZATION;
    }
    if (fault == KF_FAULT_NONE) {
        fault = prepare_logistic(node, &l);
    }
    return fault != KF_FAULT_NONE ? fault : check_shapes(node);
}

static void work_logistic(const kf_node_t *node, kf_work_t *work) {
    work->slices = node->out.elements;
    work->macs = 64;
    work->in_place = 1;
}

static int32_t logistic(int32_t x) {
    if (x == 0) {
        return 1 << 30;
    }
    int32_t of_positive = kf_fixed_inverse(kf_fixed_exp(x > 0 ? -x : x, LOGISTIC_BITS));
    return x > 0 ? of_positive : 0x7FFFFFFF - of_positive;
}

/* tanh(x) = (1 - e^-2x) / (1 + e^-2x). Twice x in Q4.27 is x in Q5.26. */
static int32_t hyperbolic(int32_t x) {
    if (x == 0) {
        return 0;
    }
    int32_t of_positive = kf_fixed_complement(kf_fixed_exp(x > 0 ? -x : x, LOGISTIC_BITS + 1));
    return x > 0 ? of_positive : -of_positive;
}

static void run_logistic(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    const int tanh = node->op->code == KF_BUILTIN_TANH;
    logistic_t l;
    if (prepare_logistic(node, &l) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    for (uint32_t i = first; i < first + count; i++) {
        int32_t x = (int8_t)io->in[0][i] - node->in[0].zp;
        int32_t value;
        if (x <= -l.radius) {
            value = -128;
        } else if (x >= l.radius) {
            value = 127;
        } else {
            x = kf_requant(x, l.by);
            value = tanh ? kf_round_shift(hyperbolic(x), 31 - 7) : kf_round_shift(logistic(x), 31 - 8) - 128;
        }
        io->out[i] = (uint8_t)kf_clamp(value, -128, 127);
    }
}

const kf_op_t kf_op_logistic = {KF_BUILTIN_LOGISTIC, KF_OPTIONS_NONE, check_logistic, work_logistic, run_logistic};
const kf_op_t kf_op_tanh = {KF_BUILTIN_TANH, KF_OPTIONS_NONE, check_logistic, work_logistic, run_logistic};
