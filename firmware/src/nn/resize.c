/* RESIZE_NEAREST_NEIGHBOR, int8, [B][H][W][C]. A slice is one output row.
 *
 * Which row and column is nearest the reference works out in float32; so do we, in integers.
 */
#include <stddef.h>
#include <string.h>

#include "layout.h"

typedef struct resize {
    uint32_t scale_h, scale_w; /* float32: input places for one output place */
    uint8_t align_corners, half_pixel_centers;
} resize_t;

static uint32_t scale_of(int32_t in, int32_t out, int align) {
    const uint32_t less = align && out > 1 ? 1u : 0u;
    return kf_f32_div(kf_f32_pack((uint32_t)in - less, 0), kf_f32_pack((uint32_t)out - less, 0));
}

static void prepare(const kf_node_t *node, resize_t *r) {
    kf_fb_t fb = kf_model_reader(node->model);
    r->align_corners = kf_fb_get_u8(&fb, node->options, KF_RESIZE_ALIGN_CORNERS, 0) != 0;
    r->half_pixel_centers = kf_fb_get_u8(&fb, node->options, KF_RESIZE_HALF_PIXEL, 0) != 0;
    r->scale_h = scale_of(node->in[0].dims[1], node->out.dims[1], r->align_corners);
    r->scale_w = scale_of(node->in[0].dims[2], node->out.dims[2], r->align_corners);
}

/* The input place for output place `at`: (at + offset) * scale in float32, rounded or cut. at < 2^24: twice it is exact. */
static int32_t nearest(const resize_t *r, uint32_t scale, int32_t at, int32_t size) {
    const uint32_t where = kf_f32_pack(2u * (uint32_t)at + r->half_pixel_centers, -1);
    const kf_f32_t place = kf_f32_split(kf_f32_mul(where, scale));
    /* place = m * 2^e, below 2^25 as scale <= size: so e <= 1. */
    int32_t found = 0;
    if (place.e >= 0) {
        found = (int32_t)(place.m << place.e);
    } else if (place.e > -26) {
        const uint32_t half = r->align_corners ? 1u << (-place.e - 1) : 0u;
        found = (int32_t)((place.m + half) >> -place.e);
    }
    return found < size ? found : size - 1;
}

static kf_model_fault_t check(kf_node_t *node) {
    kf_model_fault_t fault = kf_check_int8(node, &node->out);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_moved(node, &node->in[0], &node->out);
    }
    if (fault == KF_FAULT_NONE && node->inputs != 2) {
        fault = KF_FAULT_COUNT;
    }
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_integers(node, &node->in[1]);
    }
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    const int32_t *in = node->in[0].dims;
    const int32_t *out = node->out.dims;
    if (node->in[0].rank != 4 || node->out.rank != 4 || in[0] != out[0] || in[3] != out[3] || node->in[1].elements != 2 ||
        kf_integer(&node->in[1], 0) != out[1] || kf_integer(&node->in[1], 1) != out[2] || in[1] >= 1 << 23 || in[2] >= 1 << 23 ||
        out[1] >= 1 << 23 || out[2] >= 1 << 23) {
        return KF_FAULT_SHAPE;
    }
    return KF_FAULT_NONE;
}

static void work(const kf_node_t *node, kf_work_t *work) {
    const int32_t *out = node->out.dims;
    work->slices = (uint32_t)(out[0] * out[1]);
    work->macs = (uint32_t)out[2] * (24u + (uint32_t)out[3] / 4);
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    const int32_t *in = node->in[0].dims;
    const int32_t *out = node->out.dims;
    const size_t depth = (size_t)out[3];
    resize_t r;
    prepare(node, &r);
    uint8_t *to = io->out + (size_t)first * (size_t)out[2] * depth;
    for (uint32_t i = first; i < first + count; i++) {
        const int32_t b = (int32_t)(i / (uint32_t)out[1]);
        const int32_t y = nearest(&r, r.scale_h, (int32_t)(i % (uint32_t)out[1]), in[1]);
        const uint8_t *row = io->in[0] + (size_t)((b * in[1] + y) * in[2]) * depth;
        for (int32_t x = 0; x < out[2]; x++) {
            memcpy(to, row + (size_t)nearest(&r, r.scale_w, x, in[2]) * depth, depth);
            to += depth;
        }
    }
}

const kf_op_t kf_op_resize_nearest = {KF_BUILTIN_RESIZE_NEAREST_NEIGHBOR, KF_OPTIONS_RESIZE_NEAREST, check, work, run};
