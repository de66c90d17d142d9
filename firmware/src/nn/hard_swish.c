/* HARD_SWISH: x * relu6(x + 3) / 6, int8, in the reference's 16-bit fixed point. A slice is one value. */
#include "check.h"
#include "ratio.h"

enum { INT16_HIGH = 32767, INT16_LOW = -32768 };

/* Multipliers in Q0.15 with the exponents that go with them. */
typedef struct hard_swish {
    int32_t gate_mult, gate_shift; /* from the input to x / 3, of which 1 is 32768 */
    int32_t out_mult, out_shift;   /* from the input to the output */
} hard_swish_t;

/* 31 bits to 15, rounded. */
static int32_t narrow(int32_t mult) {
    return mult >= 0x7FFFFFFF - (1 << 15) ? INT16_HIGH : (mult + (1 << 15)) >> 16;
}

static kf_model_fault_t prepare(const kf_node_t *node, hard_swish_t *h) {
    static const uint32_t three_32768ths = 0x38C00000u;
    const kf_f32_t in = kf_f32_split(node->in[0].scale_f32);
    const uint32_t fine = kf_f32_pack(in.m, in.e - 7); /* the scale of an input that was shifted to 16 bits */
    if (fine == 0) {
        return KF_FAULT_QUANTIZATION;
    }
    const kf_requant_t out = kf_ratio_scales(fine, node->out.scale_f32);
    const kf_requant_t gate = kf_ratio_scales(fine, three_32768ths);
    /* The reference refuses exponents of the output above 0; 16 bits cannot be shifted by more than 15 to the right. */
    if (out.shift > 0 || out.shift < -15 || gate.shift > 30 || gate.shift < -15) {
        return KF_FAULT_QUANTIZATION;
    }
    h->gate_mult = narrow(gate.mult);
    h->gate_shift = gate.shift;
    h->out_mult = narrow(out.mult);
    h->out_shift = out.shift;
    return KF_FAULT_NONE;
}

static kf_model_fault_t check(kf_node_t *node) {
    hard_swish_t h;
    kf_model_fault_t fault = kf_check_int8(node, &node->in[0]);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_int8(node, &node->out);
    }
    if (fault == KF_FAULT_NONE && node->in[0].elements != node->out.elements) {
        fault = KF_FAULT_SHAPE;
    }
    return fault != KF_FAULT_NONE ? fault : prepare(node, &h);
}

static void work(const kf_node_t *node, kf_work_t *work) {
    work->slices = node->out.elements;
    work->macs = 12;
    work->in_place = 1;
}

/* round(a * b / 2^15), ties away from zero, for two 16-bit values. Only -1 * -1 does not fit: it saturates. */
static int32_t mul_round(int32_t a, int32_t b) {
    const int32_t product = a * b;
    const int32_t value = (product + (product >= 0 ? 1 << 14 : 1 - (1 << 14))) / (1 << 15);
    return value > INT16_HIGH ? INT16_HIGH : value;
}

/* x * 2^places in 16 bits, saturating, places in [0, 30]. */
static int32_t shift_up(int32_t x, int32_t places) {
    if (places > 15) {
        return x == 0 ? 0 : x > 0 ? INT16_HIGH : INT16_LOW;
    }
    return kf_clamp(x * (1 << places), INT16_LOW, INT16_HIGH);
}

static int32_t hard_swish(const hard_swish_t *h, int32_t x) {
    /* |x| <= 255: with the sign, 16 bits hold x * 128 (the reference wraps there, too: 255 * 128 < 2^15). */
    const int32_t fine = x * 128;
    const int32_t linear = mul_round(fine, h->out_mult);
    int32_t gate = fine;
    if (h->gate_shift > 0) {
        gate = shift_up(gate, h->gate_shift - 1);
    }
    gate = mul_round(gate, h->gate_mult);
    if (h->gate_shift > 0) {
        gate = shift_up(gate, 1);
    } else {
        gate = kf_round_shift(gate, -h->gate_shift);
    }
    gate = (gate + (1 << 15)) >> 1; /* from [-1, 1] to [0, 1] */
    return kf_round_shift(gate * linear / (1 << 15), -h->out_shift);
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    hard_swish_t h;
    if (prepare(node, &h) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    for (uint32_t i = first; i < first + count; i++) {
        const int32_t value = hard_swish(&h, (int8_t)io->in[0][i] - node->in[0].zp);
        io->out[i] = (uint8_t)kf_clamp(value + node->out.zp, -128, 127);
    }
}

const kf_op_t kf_op_hard_swish = {KF_BUILTIN_HARD_SWISH, KF_OPTIONS_NONE, check, work, run};
