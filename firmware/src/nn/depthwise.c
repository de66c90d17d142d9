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
    if (dims[0] != 1 || dims[3] != g.out_c || g.out_c % g.in_c != 0 || g.k_h * g.k_w > KF_TERMS_MAX) {
        return KF_FAULT_SHAPE;
    }
    if (kf_fb_get_i32(&fb, node->options, KF_DEPTHWISE_MULTIPLIER, 0) != g.out_c / g.in_c) {
        return KF_FAULT_OPTIONS;
    }
    return kf_check_weights(node, g.out_c, 3);
}

/* Channels with a filter each are taken by four. */
static void pixel(const kf_conv_t *c, const kf_patch_t *p, int8_t *out) {
    const kf_window_t *g = &c->g;
    kf_places_t s = {p->rows, p->columns, g->dilation_w * g->in_c, g->out_c, 0, 0, c->x_offset};
    s.x_row = g->dilation_h * g->in_w * g->in_c - p->columns * s.x_column;
    s.w_row = (g->k_w - p->columns) * s.w_column;
    int inside = p->rows > 0 && p->columns > 0; /* a dilated window can miss the image */
    int32_t multiplier = g->out_c / g->in_c;
    const int8_t *x = p->x;
    const int8_t *w = (const int8_t *)c->io->in[1] + p->position * g->out_c;
    for (int32_t channel = 0, copy = 0, count; channel < g->out_c; channel += count) {
        count = multiplier == 1 && channel + 4 <= g->out_c ? 4 : 1;
        int32_t sum[4];
        kf_conv_begin(c, channel, sum, count);
        if (inside && count == 4) {
            kf_depthwise4(&s, x, w + channel, sum);
        } else if (inside) {
            kf_depthwise1(&s, x, w + channel, sum);
        }
        kf_finish(&c->finish, channel, sum, count, out + channel);
        copy += count;
        if (copy >= multiplier) {
            copy = 0;
            x += count;
        }
    }
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    kf_conv_run(node, io, first, count, &fields, pixel);
}

const kf_op_t kf_op_depthwise = {KF_BUILTIN_DEPTHWISE_CONV_2D, KF_OPTIONS_DEPTHWISE, check, kf_conv_work, run};
