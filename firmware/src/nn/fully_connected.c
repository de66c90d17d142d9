/* FULLY_CONNECTED, int8. Input [B][F] (of any rank), weights [C][F], bias [C], output [B][C]. A slice is one output value. */
#include "check.h"

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

static int32_t dot(const int8_t *x, const int8_t *w, int32_t features, int32_t x_zp) {
    int32_t sum = 0;
    for (int32_t i = 0; i < features; i++) {
        sum += w[i] * (x[i] - x_zp);
    }
    return sum;
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    kf_range_t range;
    if (kf_read_range(node, KF_FC_ACTIVATION, &range) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    int32_t classes = node->in[1].dims[0];
    int32_t features = node->in[1].dims[1];
    int per_channel = node->in[1].scales > 1;
    int32_t batch = (int32_t)(first / (uint32_t)classes);
    int32_t c = (int32_t)(first % (uint32_t)classes);
    const int8_t *x = (const int8_t *)io->in[0] + batch * features;
    const int8_t *w = (const int8_t *)io->in[1] + c * features;
    int8_t *out = (int8_t *)io->out + first;
    kf_requant_t by = kf_channel_requant(node, c);
    for (uint32_t i = 0; i < count; i++) {
        if (per_channel) {
            by = kf_channel_requant(node, c);
        }
        int32_t sum = kf_add_wrapping(dot(x, w, features, node->in[0].zp), kf_channel_bias(node, io, c));
        out[i] = (int8_t)kf_clamp(kf_requant(sum, by) + node->out.zp, range.low, range.high);
        w += features;
        if (++c == classes) {
            c = 0;
            w = (const int8_t *)io->in[1];
            x += features;
        }
    }
}

const kf_op_t kf_op_fully_connected = {KF_BUILTIN_FULLY_CONNECTED, KF_OPTIONS_FC, check, work, run};
