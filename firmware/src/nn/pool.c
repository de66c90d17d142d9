/* AVERAGE_POOL_2D and MAX_POOL_2D, int8, over [B][H][W][C]. A slice is one output row. */
#include <stddef.h>

#include "kernels.h"
#include "window.h"

static kf_model_fault_t geometry(const kf_node_t *node, kf_window_t *w) {
    kf_fb_t fb = kf_model_reader(node->model);
    w->k_h = kf_fb_get_i32(&fb, node->options, KF_POOL_FILTER_H, 0);
    w->k_w = kf_fb_get_i32(&fb, node->options, KF_POOL_FILTER_W, 0);
    w->dilation_h = 1;
    w->dilation_w = 1;
    return kf_window_read(node, KF_POOL_ACTIVATION, w);
}

static kf_model_fault_t check(kf_node_t *node) {
    kf_window_t w;
    kf_model_fault_t fault = kf_check_int8(node, &node->in[0]);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_int8(node, &node->out);
    }
    if (fault == KF_FAULT_NONE) {
        fault = geometry(node, &w);
    }
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    if (node->inputs != 1 || w.in_c != w.out_c || w.k_h * w.k_w > KF_TERMS_MAX) {
        return KF_FAULT_SHAPE;
    }
    if (node->in[0].scale_f32 != node->out.scale_f32 || node->in[0].zp != node->out.zp) {
        return KF_FAULT_QUANTIZATION; /* pooling does not rescale */
    }
    return KF_FAULT_NONE;
}

static void work(const kf_node_t *node, kf_work_t *work) {
    kf_window_t w;
    const int32_t *out = node->out.dims;
    work->slices = (uint32_t)(out[0] * out[1]);
    work->macs = 1;
    if (geometry(node, &w) == KF_FAULT_NONE) {
        /* Without padding in front, a window begins no earlier in memory than its own output (strides are >= 1, output rows
         * are not longer than input rows), and later windows begin later: the output may overwrite the input. */
        work->in_place = w.pad_h == 0 && w.pad_w == 0 ? 1u : 0u;
        kf_window_walk(node, w.k_h, 1, &work->walk);
        if (work->in_place && work->walk.reach != 0) {
            work->walk.pace = KF_PACE_WINDOWS;
        }
        work->macs = kf_mul_saturating((uint32_t)(out[2] * out[3]), (uint32_t)(w.k_h * w.k_w));
    }
}

static void row(const kf_io_t *io, const kf_window_t *g, kf_row_t at, kf_pooling_t pooling, int8_t *out) {
    int32_t y = at.y * g->stride_h - g->pad_h;
    kf_part_t rows = kf_window_part(y, g->k_h, 1, g->in_h);
    kf_pooled_t p = {NULL, at.b * g->in_h + y + rows.first, rows.end - rows.first, 0, g->in_w * g->in_c, g->in_c,
                     io->in_rings[0], g->range.low, g->range.high};
    for (int32_t out_x = 0; out_x < g->out_w; out_x++, out += g->out_c) {
        int32_t x = out_x * g->stride_w - g->pad_w;
        kf_part_t columns = kf_window_part(x, g->k_w, 1, g->in_w);
        p.columns = columns.end - columns.first;
        p.image = (const int8_t *)io->in[0] + (x + columns.first) * g->in_c;
        kf_pool(&p, pooling, out);
    }
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    const kf_pooling_t pooling = node->op->code == KF_BUILTIN_MAX_POOL_2D ? KF_POOL_MAXIMUM : KF_POOL_AVERAGE;
    kf_window_t g;
    if (geometry(node, &g) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    int32_t row_bytes = g.out_w * g.out_c;
    for (uint32_t slice = first; slice < first + count; slice++) {
        int8_t *out = (int8_t *)io->out + kf_ring_row((int32_t)slice, io->out_ring) * row_bytes;
        row(io, &g, kf_window_row(&g, slice), pooling, out);
    }
}

const kf_op_t kf_op_average_pool = {KF_BUILTIN_AVERAGE_POOL_2D, KF_OPTIONS_POOL, check, work, run};
const kf_op_t kf_op_max_pool = {KF_BUILTIN_MAX_POOL_2D, KF_OPTIONS_POOL, check, work, run};
