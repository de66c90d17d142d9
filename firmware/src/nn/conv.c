/* CONV_2D, int8, with groups. Weights [out_c][k_h][k_w][depth], depth = in_c / groups; bias [out_c]. */
#include "convolve.h"

#include <stddef.h>

static const kf_conv_fields_t fields = {KF_CONV_ACTIVATION, KF_CONV_DILATION_W, KF_CONV_DILATION_H};

static kf_model_fault_t check(kf_node_t *node) {
    kf_window_t g;
    kf_model_fault_t fault = kf_conv_geometry(node, &fields, &g);
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    const int32_t *dims = node->in[1].dims;
    int32_t depth = dims[3];
    if (dims[0] != g.out_c || kf_remainder(g.in_c, depth) != 0 || kf_remainder(g.out_c, kf_quotient(g.in_c, depth)) != 0 ||
        node->in[1].elements / (uint32_t)g.out_c > KF_TERMS_MAX) {
        return KF_FAULT_SHAPE;
    }
    return kf_check_weights(node, g.out_c, 0);
}

/* Products of a sum. */
static uint32_t terms_of(const kf_node_t *node) {
    return node->in[1].elements / (uint32_t)node->in[1].dims[0];
}

static void work(const kf_node_t *node, kf_work_t *work) {
    kf_fb_t fb = kf_model_reader(node->model);
    kf_walk_t *walk = &work->walk;
    kf_conv_work(node, &fields, kf_patches_bytes(terms_of(node)), work);
    /* A pixel of a pointwise convolution is in a patch before its output is written. */
    if (walk->reach == 1 && walk->stride == 1 && node->in[1].dims[2] == 1 && node->in[1].dims[3] == node->in[0].dims[3] &&
        kf_fb_get_i32(&fb, node->options, KF_WINDOW_STRIDE_W, 1) == 1) {
        walk->pace = KF_PACE_PIXELS;
    }
}

/* One window row of a patch: value `at` and what follows, `depth` values at each of k_w places of which `columns` lie inside. */
static void put_row(const kf_conv_t *c, kf_patches_t *p, int32_t index, int32_t at, const int8_t *x, kf_part_t columns) {
    const kf_window_t *g = &c->g;
    int32_t depth = c->node->in[1].dims[3];
    int32_t step = g->dilation_w * g->in_c;
    if (columns.first > 0) {
        kf_patch_put(p, index, at, NULL, columns.first * depth);
    }
    if (step == depth) {
        kf_patch_put(p, index, at + columns.first * depth, x + columns.first * step, (columns.end - columns.first) * depth);
    } else {
        for (int32_t k = columns.first; k < columns.end; k++) {
            kf_patch_put(p, index, at + k * depth, x + k * step, depth);
        }
    }
    if (columns.end < g->k_w) {
        kf_patch_put(p, index, at + columns.end * depth, NULL, (g->k_w - columns.end) * depth);
    }
}

/* The patch of output column out_x, for the group whose channels begin at `channel`; the window may reach out of the image. */
static void put(const kf_conv_t *c, kf_patches_t *p, int32_t index, kf_row_t at, int32_t out_x, int32_t channel) {
    const kf_window_t *g = &c->g;
    int32_t depth = c->node->in[1].dims[3];
    int32_t values = g->k_w * depth;
    int32_t x = out_x * g->stride_w - g->pad_w;
    int32_t y = at.y * g->stride_h - g->pad_h;
    const int8_t *start = (const int8_t *)c->io->in[0] + x * g->in_c + channel;
    kf_part_t columns = kf_window_part(x, g->k_w, g->dilation_w, g->in_w);
    /* Most windows are whole, and their rows are runs. */
    int32_t whole = columns.first == 0 && columns.end == g->k_w && g->dilation_w * g->in_c == depth;
    for (int32_t to = 0; to < p->terms; to += values, y += g->dilation_h) {
        int32_t row = kf_conv_input_row(c, at.b, y);
        if (row < 0) {
            kf_patch_put(p, index, to, NULL, values);
        } else if (whole) {
            kf_patch_put(p, index, to, start + row, values);
        } else {
            put_row(c, p, index, to, start + row, columns);
        }
    }
}

/* Where the first of the window's rows begins, relative to the input, when all of them lie inside the image, `step` values apart
 * (rows that are kept in a ring may not); else negative. */
static int32_t whole_rows(const kf_conv_t *c, kf_row_t at, int32_t step) {
    const kf_window_t *g = &c->g;
    int32_t y = at.y * g->stride_h - g->pad_h;
    int32_t first = kf_conv_input_row(c, at.b, y);
    int32_t last = kf_conv_input_row(c, at.b, y + (g->k_h - 1) * g->dilation_h);
    return last < 0 || last - first != (g->k_h - 1) * step ? -1 : first;
}

static void conv_row(const kf_conv_t *c, kf_row_t at, int8_t *out) {
    const kf_window_t *g = &c->g;
    int32_t depth = c->node->in[1].dims[3];
    int32_t step = g->dilation_h * g->in_w * g->in_c;
    int32_t rows = g->k_w == 1 || g->dilation_w * g->in_c == depth ? whole_rows(c, at, step) : -1;
    /* The last column that a whole window begins in: with one column, all are whole, and out_w may be that of several rows. */
    int32_t room = g->k_w == 1 ? INT32_MAX : g->in_w - 1 - (g->k_w - 1) * g->dilation_w;
    kf_patches_t p = {c->scratch, (int32_t)terms_of(c->node), -c->node->in[0].zp, 0, 0, 0};
    kf_filters_t f = {NULL, NULL, kf_quotient(g->out_c * depth, g->in_c), c->output}; /* out_c * depth: less than all weights */
    for (int32_t out_x = 0, some; out_x < g->out_w; out_x += some) {
        some = kf_patches_at_once(&p);
        int32_t left = g->out_w - out_x;
        if (left <= some) {
            some = left;
        } else if (left == some + 1 && some > 2) {
            some--; /* two and two rather than three and one: a lone patch costs nearly as much */
        }
        p.patches = some;
        f.w = (const int8_t *)c->io->in[1];
        f.channels = c->channels;
        for (int32_t channel = 0; channel < g->in_c; channel += depth) {
            p.filled = 0;
            for (int32_t k = 0; k < some; k++) {
                int32_t x = (out_x + k) * g->stride_w - g->pad_w;
                if (rows >= 0 && x >= 0 && x <= room) {
                    const int8_t *from = (const int8_t *)c->io->in[0] + rows + x * g->in_c + channel;
                    kf_patch_fill(&p, k, from, g->k_w * depth, g->k_h, step);
                } else {
                    put(c, &p, k, at, out_x + k, channel);
                }
            }
            kf_convolve(&f, &p, out, g->out_c);
            f.w += f.count * p.terms;
            f.channels += f.count;
            out += f.count;
        }
        out += (some - 1) * g->out_c;
    }
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    kf_conv_run(node, io, first, count, &fields, terms_of(node), conv_row);
}

const kf_op_t kf_op_conv = {KF_BUILTIN_CONV_2D, KF_OPTIONS_CONV, check, work, run};
