/* TRANSPOSE_CONV, int8: the convolution that a CONV_2D of these options would undo. A slice is one output row.
 *
 * Letters: in [B][in_h][in_w][in_c], filter [out_c][k_h][k_w][in_c], out [B][out_h][out_w][out_c]. Inputs are the output's shape,
 * the filter, the image, and a bias that may be left out.
 * The reference scatters every input value over the outputs it touches, which takes an int32 for each output; we gather for each
 * output the inputs that touch it. Sums of integers do not mind.
 */
#include <stddef.h>

#include "layout.h"

enum { STEP_MAX = 1 << 12 };

typedef struct axis {
    int32_t in, out, k, stride, pad;
} axis_t;

/* 1 when `out` places of output become `in` with this stride: what a convolution would make of them. */
static int follow(axis_t *a, int valid) {
    if (a->stride < 1 || a->stride > STEP_MAX || a->k < 1 || a->k > STEP_MAX || (valid && a->out + a->stride < a->k)) {
        return 0;
    }
    const int32_t expected = valid ? (a->out + a->stride - a->k) / a->stride : (a->out + a->stride - 1) / a->stride;
    const int32_t total = (a->in - 1) * a->stride + a->k - a->out; /* in <= 2^24 is refused below when it is not `expected` */
    a->pad = total > 0 ? total / 2 : 0;
    return expected == a->in;
}

static kf_model_fault_t geometry(const kf_node_t *node, axis_t *h, axis_t *w) {
    const int32_t *in = node->in[2].dims;
    const int32_t *filter = node->in[1].dims;
    const int32_t *out = node->out.dims;
    kf_fb_t fb = kf_model_reader(node->model);
    const uint32_t padding = kf_fb_get_u8(&fb, node->options, KF_WINDOW_PADDING, KF_PADDING_SAME);
    const int valid = padding == KF_PADDING_VALID;
    if (padding > KF_PADDING_VALID || in[1] > 1 << 18 || in[2] > 1 << 18) { /* (in - 1) * stride below 2^30 */
        return KF_FAULT_OPTIONS;
    }
    h->in = in[1];
    h->out = out[1];
    h->k = filter[1];
    h->stride = kf_fb_get_i32(&fb, node->options, KF_WINDOW_STRIDE_H, 0);
    w->in = in[2];
    w->out = out[2];
    w->k = filter[2];
    w->stride = kf_fb_get_i32(&fb, node->options, KF_WINDOW_STRIDE_W, 0);
    return follow(h, valid) && follow(w, valid) ? KF_FAULT_NONE : KF_FAULT_SHAPE;
}

static kf_model_fault_t check_shapes(kf_node_t *node) {
    const kf_tensor_t *x = &node->in[2];
    const kf_tensor_t *filter = &node->in[1];
    axis_t h;
    axis_t w;
    if (x->rank != 4 || filter->rank != 4 || node->out.rank != 4 || filter->dims[3] != x->dims[3] ||
        filter->dims[0] != node->out.dims[3] || x->dims[0] != node->out.dims[0] || node->in[0].elements != 4 ||
        filter->elements / (uint32_t)filter->dims[0] > KF_TERMS_MAX) {
        return KF_FAULT_SHAPE;
    }
    for (uint32_t i = 0; i < 4; i++) {
        if (kf_integer(&node->in[0], i) != node->out.dims[i]) {
            return KF_FAULT_SHAPE;
        }
    }
    return geometry(node, &h, &w);
}

static kf_model_fault_t check(kf_node_t *node) {
    kf_range_t range;
    if (node->inputs < 3) {
        return KF_FAULT_COUNT;
    }
    kf_model_fault_t fault = kf_check_integers(node, &node->in[0]);
    if (fault == KF_FAULT_NONE) {
        fault = check_shapes(node);
    }
    if (fault == KF_FAULT_NONE) {
        fault = kf_read_range(node, KF_TRANSPOSE_CONV_ACTIVATION, &range);
    }
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    /* The inputs in the order that the check of all convolutions asks for: image, filter, bias. Nobody reads the node after this. */
    node->in[0] = node->in[2];
    node->inputs--;
    if (node->inputs == 3) {
        fault = kf_node_input_read(node, 3, &node->in[2]);
    }
    return fault != KF_FAULT_NONE ? fault : kf_check_weights(node, node->out.dims[3], 0);
}

static void work(const kf_node_t *node, kf_work_t *work) {
    const int32_t *out = node->out.dims;
    const uint32_t channels = (uint32_t)out[3];
    const kf_tensor_t *x = &node->in[2];
    work->slices = (uint32_t)(out[0] * out[1]);
    /* Every input value meets every place of the filter once, spread over the output's rows. */
    work->macs = kf_mul_saturating(x->elements / work->slices + 1, node->in[1].elements / (uint32_t)x->dims[3]);
    work->scratch_bytes = channels * (uint32_t)sizeof(kf_requant_t);
}

/* What one output pixel sums for one channel: the filter's places that some input lies under. */
static KF_NOINLINE int32_t sum_at(const axis_t *h, const axis_t *w, const int8_t *x, const int8_t *filter, int32_t depth, int32_t x_zp,
                      int32_t y, int32_t column) {
    int32_t sum = 0;
    for (int32_t k_y = 0; k_y < h->k; k_y++) {
        const int32_t from_y = y + h->pad - k_y;
        if (from_y < 0 || from_y % h->stride != 0 || from_y / h->stride >= h->in) {
            continue;
        }
        for (int32_t k_x = 0; k_x < w->k; k_x++) {
            const int32_t from_x = column + w->pad - k_x;
            if (from_x < 0 || from_x % w->stride != 0 || from_x / w->stride >= w->in) {
                continue;
            }
            const int8_t *a = x + (from_y / h->stride * w->in + from_x / w->stride) * depth;
            const int8_t *b = filter + (k_y * w->k + k_x) * depth;
            for (int32_t c = 0; c < depth; c++) {
                sum += (a[c] - x_zp) * b[c];
            }
        }
    }
    return sum;
}

static KF_NOINLINE void prepare(const kf_node_t *node, kf_requant_t *by) {
    const kf_tensor_t *filter = &node->in[1];
    for (uint32_t c = 0; c < (uint32_t)node->out.dims[3]; c++) {
        const uint32_t at = filter->at_scales + (filter->scales == 1 ? 0 : 4 * c);
        by[c] = kf_requant_product(node->in[2].scale_f32, (uint32_t)kf_le32(node->model->data + at), node->out.scale_f32);
    }
}

static KF_NOINLINE const uint8_t *bias_of(const kf_node_t *node, const kf_io_t *io) {
    kf_tensor_t t;
    return node->inputs < 4 ? NULL : kf_io_input(node, io, 3, &t);
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    axis_t h;
    axis_t w;
    kf_range_t range;
    kf_requant_t *by = io->scratch;
    if (first == 0) {
        prepare(node, by);
    }
    if (geometry(node, &h, &w) != KF_FAULT_NONE || kf_read_range(node, KF_TRANSPOSE_CONV_ACTIVATION, &range) != KF_FAULT_NONE) {
        return; /* judged when the model was opened */
    }
    const int32_t depth = node->in[2].dims[3];
    const int32_t channels = node->out.dims[3];
    const uint8_t *bias = bias_of(node, io);
    uint8_t *out = io->out + (size_t)first * (size_t)(w.out * channels);
    for (uint32_t i = first; i < first + count; i++) {
        const int32_t batch = (int32_t)(i / (uint32_t)h.out);
        const int32_t y = (int32_t)(i % (uint32_t)h.out);
        const int8_t *x = (const int8_t *)io->in[2] + batch * h.in * w.in * depth;
        for (int32_t column = 0; column < w.out; column++) {
            for (int32_t c = 0; c < channels; c++) {
                const int8_t *filter = (const int8_t *)io->in[1] + c * h.k * w.k * depth;
                const int32_t sum = sum_at(&h, &w, x, filter, depth, node->in[2].zp, y, column);
                const uint32_t total = (uint32_t)sum + (bias == NULL ? 0u : (uint32_t)kf_le32(bias + 4 * c));
                *out++ = (uint8_t)kf_clamp(kf_requant((int32_t)total, by[c]) + node->out.zp, range.low, range.high);
            }
        }
    }
}

const kf_op_t kf_op_transpose_conv = {KF_BUILTIN_TRANSPOSE_CONV, KF_OPTIONS_TRANSPOSE_CONV, check, work, run};
