#include "window.h"

enum { STEP_MAX = 1 << 12 }; /* strides, dilations and windows: products of two stay far inside int32 */

static int in_range(int32_t x) {
    return x >= 1 && x <= STEP_MAX;
}

/* One axis: 1 when `out` is the size that follows; and the padding before the first element. With the right size,
 * (out - 1) * stride < in, so nothing overflows. */
static int follow(int32_t in, int32_t out, int32_t k, int32_t stride, int32_t dilation, int valid, int32_t *pad) {
    int32_t reach = (k - 1) * dilation + 1;
    int32_t expected = valid ? (in < reach ? 0 : kf_quotient(in - reach, stride) + 1) : kf_quotient(in + stride - 1, stride);
    if (expected != out) {
        return 0;
    }
    int32_t total = (out - 1) * stride + reach - in;
    *pad = total > 0 ? total / 2 : 0;
    return 1;
}

kf_model_fault_t kf_window_read(const kf_node_t *node, uint32_t activation_field, kf_window_t *w) {
    kf_fb_t fb = kf_model_reader(node->model);
    uint32_t padding = kf_fb_get_u8(&fb, node->options, KF_WINDOW_PADDING, KF_PADDING_SAME);
    w->stride_h = kf_fb_get_i32(&fb, node->options, KF_WINDOW_STRIDE_H, 0);
    w->stride_w = kf_fb_get_i32(&fb, node->options, KF_WINDOW_STRIDE_W, 0);
    if (fb.bad || node->options == 0 || padding > KF_PADDING_VALID || !in_range(w->stride_h) || !in_range(w->stride_w) ||
        !in_range(w->dilation_h) || !in_range(w->dilation_w) || !in_range(w->k_h) || !in_range(w->k_w)) {
        return KF_FAULT_OPTIONS;
    }
    const int32_t *in = node->in[0].dims;
    const int32_t *out = node->out.dims;
    if (node->in[0].rank != 4 || node->out.rank != 4 || in[0] != out[0]) {
        return KF_FAULT_SHAPE;
    }
    w->in_h = in[1];
    w->in_w = in[2];
    w->in_c = in[3];
    w->out_h = out[1];
    w->out_w = out[2];
    w->out_c = out[3];
    int valid = padding == KF_PADDING_VALID;
    if (!follow(w->in_h, w->out_h, w->k_h, w->stride_h, w->dilation_h, valid, &w->pad_h) ||
        !follow(w->in_w, w->out_w, w->k_w, w->stride_w, w->dilation_w, valid, &w->pad_w)) {
        return KF_FAULT_SHAPE;
    }
    return kf_read_range(node, activation_field, &w->range);
}

void kf_window_walk(const kf_node_t *node, int32_t k, int32_t dilation, kf_walk_t *walk) {
    kf_fb_t fb = kf_model_reader(node->model);
    if (node->out.dims[0] != 1) {
        return;
    }
    walk->inputs = 1;
    walk->pace = KF_PACE_ROWS;
    walk->stride = (uint16_t)kf_fb_get_i32(&fb, node->options, KF_WINDOW_STRIDE_H, 1); /* at most 2^12 */
    walk->reach = (k - 1) * dilation + 1;
    int32_t total = (node->out.dims[1] - 1) * walk->stride + walk->reach - node->in[0].dims[1];
    walk->pad = total > 0 ? total / 2 : 0;
}
