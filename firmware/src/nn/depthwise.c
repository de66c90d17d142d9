/* DEPTHWISE_CONV_2D, int8. Weights [1][k_h][k_w][out_c], out_c = in_c * multiplier; bias [out_c]. */
#include "convolve.h"

static const kf_conv_fields_t fields = {KF_DEPTHWISE_ACTIVATION, KF_DEPTHWISE_DILATION_W, KF_DEPTHWISE_DILATION_H};

static kf_model_fault_t check(kf_node_t *node) {
    kf_window_t g;
    kf_fb_t fb = kf_model_reader(node->model);
    kf_model_fault_t fault = kf_conv_geometry(node, &fields, &g);
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    const int32_t *dims = node->in[1].dims;
    if (dims[0] != 1 || dims[3] != g.out_c || kf_remainder(g.out_c, g.in_c) != 0 || g.k_h * g.k_w > KF_TERMS_MAX) {
        return KF_FAULT_SHAPE;
    }
    if (kf_fb_get_i32(&fb, node->options, KF_DEPTHWISE_MULTIPLIER, 0) != kf_quotient(g.out_c, g.in_c)) {
        return KF_FAULT_OPTIONS;
    }
    return kf_check_weights(node, g.out_c, 3);
}

/* Scratch: where each row of the window begins, int32[k_h], then the kernel's. The reach is how many input columns a row of
 * windows spans; strides, dilations and windows are at most 2^12, so it is far too long long before it overflows. Read from the
 * options once more: a kf_window_t would be the deepest of the stack while a model is opened. */
static void work(const kf_node_t *node, kf_work_t *work) {
    kf_fb_t fb = kf_model_reader(node->model);
    uint32_t k_h = (uint32_t)node->in[1].dims[1], k_w = (uint32_t)node->in[1].dims[2];
    uint32_t stride = (uint32_t)kf_fb_get_i32(&fb, node->options, KF_WINDOW_STRIDE_W, 1);
    uint32_t dilation = (uint32_t)kf_fb_get_i32(&fb, node->options, KF_DEPTHWISE_DILATION_W, 1);
    uint32_t steps = kf_mul_saturating((uint32_t)node->out.dims[2] - 1u, stride);
    uint32_t reach = steps >= 1u << 24 ? steps : steps + (k_w - 1u) * dilation + 1u;
    uint32_t multiplier = (uint32_t)kf_quotient(node->out.dims[3], node->in[0].dims[3]);
    kf_conv_work(node, &fields, 4u * k_h + kf_depthwise_bytes(k_h, k_w, reach, multiplier), work);
}

static void depthwise_row(const kf_conv_t *c, kf_row_t at, int8_t *out) {
    const kf_window_t *g = &c->g;
    int32_t *rows = c->scratch;
    int32_t y = at.y * g->stride_h - g->pad_h;
    kf_depthwise_t d = {(const int8_t *)c->io->in[1], c->channels, g->k_h, g->k_w, g->in_w, g->in_c, g->out_w, g->out_c,
                        kf_quotient(g->out_c, g->in_c), g->stride_w, g->dilation_w, g->pad_w, -c->node->in[0].zp, c->output,
                        rows + g->k_h};
    for (int32_t k = 0; k < g->k_h; k++, y += g->dilation_h) {
        rows[k] = kf_conv_input_row(c, at.b, y);
    }
    kf_depthwise_row(&d, (const int8_t *)c->io->in[0], rows, out);
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    kf_conv_run(node, io, first, count, &fields, (uint32_t)(node->in[1].dims[1] * node->in[1].dims[2]), depthwise_row);
}

const kf_op_t kf_op_depthwise = {KF_BUILTIN_DEPTHWISE_CONV_2D, KF_OPTIONS_DEPTHWISE, check, work, run};
