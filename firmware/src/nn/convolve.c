#include "convolve.h"

#include <stddef.h>

kf_model_fault_t kf_conv_geometry(const kf_node_t *node, const kf_conv_fields_t *fields, kf_window_t *g) {
    kf_fb_t fb = kf_model_reader(node->model);
    if (node->inputs < 2 || node->in[1].rank != 4) {
        return KF_FAULT_SHAPE;
    }
    g->k_h = node->in[1].dims[1];
    g->k_w = node->in[1].dims[2];
    g->dilation_h = kf_fb_get_i32(&fb, node->options, fields->dilation_h, 1);
    g->dilation_w = kf_fb_get_i32(&fb, node->options, fields->dilation_w, 1);
    return kf_window_read(node, fields->activation, g);
}

void kf_conv_work(const kf_node_t *node, const kf_conv_fields_t *fields, uint32_t kernel_bytes, kf_work_t *work) {
    kf_fb_t fb = kf_model_reader(node->model);
    const int32_t *out = node->out.dims;
    kf_window_walk(node, node->in[1].dims[1], kf_fb_get_i32(&fb, node->options, fields->dilation_h, 1), &work->walk);
    work->slices = (uint32_t)(out[0] * out[1]);
    work->macs = kf_mul_saturating((uint32_t)out[2], node->in[1].elements);
    work->scratch_bytes = (uint32_t)sizeof(kf_prepared_t) + (uint32_t)sizeof(kf_channel_t) * (uint32_t)out[3] + kernel_bytes;
}

/* |sum| <= |bias| + terms * 2^15, and terms <= 2^16. What kf_patch_bias() adds to a bias the patches take away again. */
static void prepare(const kf_node_t *node, const kf_io_t *io, uint32_t terms, kf_prepared_t *to) {
    int32_t count = node->out.dims[3];
    kf_requant_t by = kf_channel_requant(node, 0);
    to->narrow = 1;
    for (int32_t c = 0; c < count; c++) {
        if (c > 0 && node->in[1].scales > 1) {
            by = kf_channel_requant(node, c);
        }
        kf_channel_t *channel = &to->channel[c];
        channel->bias = kf_channel_bias(node, io, c);
        channel->mult = by.mult;
        channel->right = by.mult == 0 ? 0 : -1 - by.shift;
        if (!kf_channel_narrow(channel, terms)) {
            to->narrow = 0;
        }
        if (node->op->code == KF_BUILTIN_CONV_2D) {
            const int8_t *w = (const int8_t *)io->in[1] + (uint32_t)c * terms;
            channel->bias = (int32_t)((uint32_t)channel->bias + (uint32_t)kf_patch_bias(w, (int32_t)terms, -node->in[0].zp));
        }
    }
}

int32_t kf_conv_input_row(const kf_conv_t *c, int32_t batch, int32_t y) {
    return y < 0 || y >= c->g.in_h ? -1 : kf_ring_row(batch * c->g.in_h + y, c->io->in_rings[0]) * c->g.in_w * c->g.in_c;
}

/* Whether all rows may be taken as one: a pointwise convolution knows no rows. Kernels take some columns at once, and what is left of a
 * row costs more apiece. */
static int joins_rows(const kf_conv_t *c) {
    const kf_window_t *g = &c->g;
    return c->node->op->code == KF_BUILTIN_CONV_2D && g->k_h * g->k_w == 1 && g->stride_h == 1 && g->stride_w == 1 &&
           c->io->in_rings[0] == 0 && c->io->out_ring == 0;
}

void kf_conv_run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count, const kf_conv_fields_t *fields,
                 uint32_t terms, kf_conv_row_t row) {
    kf_conv_t c;
    kf_prepared_t *prepared = io->scratch;
    if (kf_conv_geometry(node, fields, &c.g) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    if (first == 0) {
        prepare(node, io, terms, prepared);
    }
    c.node = node;
    c.io = io;
    c.output.zp = node->out.zp;
    c.output.low = c.g.range.low;
    c.output.high = c.g.range.high;
    c.output.narrow = prepared->narrow;
    c.channels = prepared->channel;
    c.scratch = prepared->channel + c.g.out_c;
    if (joins_rows(&c)) {
        int8_t *out = (int8_t *)io->out + (int32_t)first * c.g.out_w * c.g.out_c;
        c.g.out_w *= (int32_t)count; /* fewer than all output values */
        row(&c, kf_window_row(&c.g, first), out);
        return;
    }
    for (uint32_t slice = first; slice < first + count; slice++) {
        int8_t *out = (int8_t *)io->out + kf_ring_row((int32_t)slice, io->out_ring) * c.g.out_w * c.g.out_c;
        row(&c, kf_window_row(&c.g, slice), out);
    }
}
