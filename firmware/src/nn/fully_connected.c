/* FULLY_CONNECTED, int8. Input [B][F] (of any rank), weights [C][F], bias [C], output [B][C]. A slice is one output value. */
#include <stddef.h>

#include "../bytes.h"
#include "check.h"
#include "kernels.h"

static kf_model_fault_t check(kf_node_t *node) {
    kf_fb_t fb = kf_model_reader(node->model);
    kf_range_t range;
    if (node->inputs < 2 || node->in[1].rank != 2 || node->out.rank < 1) {
        return KF_FAULT_SHAPE;
    }
    uint32_t classes = (uint32_t)node->in[1].dims[0];
    uint32_t features = (uint32_t)node->in[1].dims[1];
    if (node->out.dims[node->out.rank - 1] != node->in[1].dims[0] || node->in[0].elements % features != 0 ||
        node->in[0].elements / features != node->out.elements / classes || features > KF_TERMS_MAX) {
        return KF_FAULT_SHAPE;
    }
    if (kf_fb_get_u8(&fb, node->options, KF_FC_WEIGHTS_FORMAT, 0) != 0) {
        return KF_FAULT_OPTIONS;
    }
    kf_model_fault_t fault = kf_check_weights(node, node->in[1].dims[0], 0);
    return fault != KF_FAULT_NONE ? fault : kf_read_range(node, KF_FC_ACTIVATION, &range);
}

static void work(const kf_node_t *node, kf_work_t *work) {
    work->slices = node->out.elements;
    work->macs = (uint32_t)node->in[1].dims[1];
}

/* Biases of output channels [c, c + count), 0 without. Returns a number that no bias is larger than, by more than 1: products are
 * below 2^15 by 128 at least, so that suits kf_channel_narrow(). */
static int32_t biases(const kf_node_t *node, const kf_io_t *io, int32_t c, int32_t count, int32_t *to) {
    const int32_t *overlay = node->overlay == NULL ? NULL : node->overlay->bias + c;
    const uint8_t *from = io->in[2] == NULL ? NULL : io->in[2] + 4 * c;
    int32_t bits = 0;
    for (int32_t k = 0; k < count; k++) {
        int32_t bias = overlay != NULL ? overlay[k] : from == NULL ? 0 : kf_le32(from + 4 * k);
        to[k] = bias;
        bits |= bias ^ (bias >> 31);
    }
    return bits;
}

/* Multipliers of output channels [c, c + count), or of as many that share one. */
static void prepare(const kf_node_t *node, int32_t c, int32_t count, kf_channel_t *to) {
    kf_requant_t by = {0, 0};
    for (int32_t k = 0; k < count; k++) {
        if (k == 0 || node->in[1].scales > 1) {
            by = kf_channel_requant(node, c + k);
        }
        to[k].mult = by.mult;
        to[k].right = by.mult == 0 ? 0 : -1 - by.shift;
    }
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    kf_range_t range;
    if (kf_read_range(node, KF_FC_ACTIVATION, &range) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    int32_t classes = node->in[1].dims[0];
    int32_t features = node->in[1].dims[1];
    int32_t c = (int32_t)(first % (uint32_t)classes);
    const int8_t *x = (const int8_t *)io->in[0] + (int32_t)(first / (uint32_t)classes) * features;
    int8_t *out = (int8_t *)io->out + first;
    int8_t *end = out + count;
    int32_t several = node->in[1].scales > 1;
    kf_channel_t channel[KF_DOTS_MAX];
    kf_output_t output = {node->out.zp, range.low, range.high, 0};
    prepare(node, 0, several ? 1 : KF_DOTS_MAX, channel);
    while (out != end) {
        int32_t some = classes - c < KF_DOTS_MAX ? classes - c : KF_DOTS_MAX;
        some = end - out < some ? (int32_t)(end - out) : some;
        int32_t sum[KF_DOTS_MAX];
        int32_t largest = biases(node, io, c, some, sum);
        if (several) {
            prepare(node, c, some, channel);
        }
        output.narrow = 1;
        for (int32_t k = 0; k < (several ? some : 1); k++) {
            channel[k].bias = largest;
            output.narrow &= kf_channel_narrow(&channel[k], (uint32_t)features);
        }
        kf_dots(x, -node->in[0].zp, (const int8_t *)io->in[1] + c * features, features, some, sum);
        kf_finish(&output, channel, sum, some, out);
        out += some;
        c += some;
        if (c == classes) {
            c = 0;
            x += features;
        }
    }
}

const kf_op_t kf_op_fully_connected = {KF_BUILTIN_FULLY_CONNECTED, KF_OPTIONS_FC, check, work, run};
