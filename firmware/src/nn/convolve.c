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

void kf_conv_work(const kf_node_t *node, kf_work_t *work) {
    const int32_t *out = node->out.dims;
    work->slices = (uint32_t)(out[0] * out[1]);
    work->macs = kf_mul_saturating((uint32_t)out[2], node->in[1].elements);
    work->scratch_bytes = kf_channels_bytes(node);
}

void kf_conv_begin(const kf_conv_t *c, int32_t channel, int32_t *sum, int32_t count) {
    const uint8_t *bias = c->io->in[2];
    for (int32_t k = 0; k < count; k++) {
        sum[k] = bias == NULL ? 0 : kf_le32(bias + 4 * (channel + k));
    }
}

static void row(const kf_conv_t *c, kf_row_t at, kf_conv_pixel_t pixel, int8_t *out) {
    const kf_window_t *g = &c->g;
    kf_patch_t p;
    int32_t y = at.y * g->stride_h - g->pad_h;
    kf_part_t rows = kf_window_part(y, g->k_h, g->dilation_h, g->in_h);
    p.rows = rows.end - rows.first;
    y = at.b * g->in_h + y + rows.first * g->dilation_h;
    for (int32_t out_x = 0; out_x < g->out_w; out_x++) {
        int32_t x = out_x * g->stride_w - g->pad_w;
        kf_part_t columns = kf_window_part(x, g->k_w, g->dilation_w, g->in_w);
        p.columns = columns.end - columns.first;
        p.position = rows.first * g->k_w + columns.first;
        p.x = (const int8_t *)c->io->in[0] + (y * g->in_w + x + columns.first * g->dilation_w) * g->in_c;
        pixel(c, &p, out);
        out += g->out_c;
    }
}

void kf_conv_run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count, const kf_conv_fields_t *fields,
                 kf_conv_pixel_t pixel) {
    kf_conv_t c;
    kf_requant_t one;
    if (kf_conv_geometry(node, fields, &c.g) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    c.node = node;
    c.io = io;
    kf_channels_t channels = kf_channels_ready(node, io, first, &one);
    c.finish.by = channels.by;
    c.finish.step = channels.step;
    c.finish.out_zp = node->out.zp;
    c.finish.low = c.g.range.low;
    c.finish.high = c.g.range.high;
    c.x_offset = -node->in[0].zp;
    for (uint32_t slice = first; slice < first + count; slice++) {
        row(&c, kf_window_row(&c.g, slice), pixel, (int8_t *)io->out + (int32_t)slice * c.g.out_w * c.g.out_c);
    }
}
