/* DEPTHWISE_CONV_2D, int8. Weights [1][k_h][k_w][out_c], out_c = in_c * multiplier; bias [out_c]. A slice is one output row. */
#include "window.h"

static kf_model_fault_t geometry(const kf_node_t *node, kf_window_t *w) {
    kf_fb_t fb = kf_model_reader(node->model);
    if (node->inputs < 2 || node->in[1].rank != 4) {
        return KF_FAULT_SHAPE;
    }
    w->k_h = node->in[1].dims[1];
    w->k_w = node->in[1].dims[2];
    w->dilation_h = kf_fb_get_i32(&fb, node->options, KF_DEPTHWISE_DILATION_H, 1);
    w->dilation_w = kf_fb_get_i32(&fb, node->options, KF_DEPTHWISE_DILATION_W, 1);
    return kf_window_read(node, KF_DEPTHWISE_ACTIVATION, w);
}

static kf_model_fault_t check(kf_node_t *node) {
    kf_window_t w;
    kf_fb_t fb = kf_model_reader(node->model);
    kf_model_fault_t fault = geometry(node, &w);
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    const int32_t *dims = node->in[1].dims;
    if (dims[0] != 1 || dims[3] != w.out_c || w.out_c % w.in_c != 0 || (int64_t)w.k_h * w.k_w > KF_TERMS_MAX) {
        return KF_FAULT_SHAPE;
    }
    if (kf_fb_get_i32(&fb, node->options, KF_DEPTHWISE_MULTIPLIER, 0) != w.out_c / w.in_c) {
        return KF_FAULT_OPTIONS;
    }
    return kf_check_weights(node, w.out_c, 3);
}

static void work(const kf_node_t *node, kf_work_t *work) {
    const int32_t *out = node->out.dims;
    work->slices = (uint32_t)(out[0] * out[1]);
    work->scratch_bytes = kf_channels_bytes(node);
    work->macs = kf_mul_saturating((uint32_t)out[2], node->in[1].elements);
}

/* What one output pixel reads: window rows and columns inside the image. */
typedef struct patch {
    const int8_t *x, *w;
    int32_t rows, columns;
    int32_t x_row, w_row, x_column, w_column;
} patch_t;

static int32_t dot(const patch_t *p, const int8_t *x, const int8_t *w, int32_t x_zp) {
    int32_t sum = 0;
    for (int32_t row = 0; row < p->rows; row++) {
        const int8_t *x_at = x;
        const int8_t *w_at = w;
        for (int32_t column = 0; column < p->columns; column++) {
            sum += *w_at * (*x_at - x_zp);
            x_at += p->x_column;
            w_at += p->w_column;
        }
        x += p->x_row;
        w += p->w_row;
    }
    return sum;
}

static void pixel(const kf_node_t *node, const kf_io_t *io, const kf_window_t *g, const kf_channels_t *channels,
                  const patch_t *p, int8_t *out) {
    const kf_requant_t *by = channels->by;
    int32_t multiplier = g->out_c / g->in_c;
    const int8_t *x = p->x;
    for (int32_t c = 0, copy = 0; c < g->out_c; c++) {
        int32_t sum = kf_add_wrapping(dot(p, x, p->w + c, node->in[0].zp), kf_channel_bias(node, io, c));
        sum = kf_requant(sum, *by) + node->out.zp;
        *out++ = (int8_t)kf_clamp(sum, g->range.low, g->range.high);
        by += channels->step;
        if (++copy == multiplier) {
            copy = 0;
            x++;
        }
    }
}

static void row(const kf_node_t *node, const kf_io_t *io, const kf_window_t *g, const kf_channels_t *channels, kf_row_t at,
                int8_t *out) {
    int32_t y = at.y * g->stride_h - g->pad_h;
    kf_part_t rows = kf_window_part(y, g->k_h, g->dilation_h, g->in_h);
    patch_t p;
    p.rows = rows.end - rows.first;
    p.x_row = g->dilation_h * g->in_w * g->in_c;
    p.w_row = g->k_w * g->out_c;
    p.x_column = g->dilation_w * g->in_c;
    p.w_column = g->out_c;
    for (int32_t out_x = 0; out_x < g->out_w; out_x++) {
        int32_t x = out_x * g->stride_w - g->pad_w;
        kf_part_t columns = kf_window_part(x, g->k_w, g->dilation_w, g->in_w);
        p.columns = columns.end - columns.first;
        int32_t in_y = y + rows.first * g->dilation_h;
        int32_t in_x = x + columns.first * g->dilation_w;
        p.x = (const int8_t *)io->in[0] + ((at.b * g->in_h + in_y) * g->in_w + in_x) * g->in_c;
        p.w = (const int8_t *)io->in[1] + (rows.first * g->k_w + columns.first) * g->out_c;
        pixel(node, io, g, channels, &p, out);
        out += g->out_c;
    }
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    kf_window_t g;
    if (geometry(node, &g) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    kf_requant_t one;
    kf_channels_t channels = kf_channels_ready(node, io, first, &one);
    int32_t row_bytes = g.out_w * g.out_c;
    for (uint32_t slice = first; slice < first + count; slice++) {
        int8_t *out = (int8_t *)io->out + (int32_t)slice * row_bytes;
        row(node, io, &g, &channels, kf_window_row(&g, slice), out);
    }
}

const kf_op_t kf_op_depthwise = {KF_BUILTIN_DEPTHWISE_CONV_2D, KF_OPTIONS_DEPTHWISE, check, work, run};
