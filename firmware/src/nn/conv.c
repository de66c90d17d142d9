/* CONV_2D, int8, with groups. Weights [out_c][k_h][k_w][depth], depth = in_c / groups; bias [out_c]. */
#include "convolve.h"

static const kf_conv_fields_t fields = {KF_CONV_ACTIVATION, KF_CONV_DILATION_W, KF_CONV_DILATION_H};

static kf_model_fault_t check(kf_node_t *node) {
    kf_window_t g;
    kf_model_fault_t fault = kf_conv_geometry(node, &fields, &g);
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    const int32_t *dims = node->in[1].dims;
    int32_t depth = dims[3];
    if (dims[0] != g.out_c || g.in_c % depth != 0 || g.out_c % (g.in_c / depth) != 0 ||
        node->in[1].elements / (uint32_t)g.out_c > KF_TERMS_MAX) {
        return KF_FAULT_SHAPE;
    }
    return kf_check_weights(node, g.out_c, 0);
}

/* A patch as runs of values that are contiguous in the image and in a filter. */
typedef struct runs {
    int32_t rows, x_row, w_row; /* rows, and the way from one to the next */
    int32_t runs, x_run, w_run; /* runs in a row */
    int32_t values;             /* in a run */
} runs_t;

typedef struct pair {
    int32_t a, b;
} pair_t;

/* Add `values` products of each of two filters with the same image values, which halves the loads of the image. The
 * pointers are to the ends. Kept out of line: a loop of its own has the registers for itself. */
static KF_NOINLINE void run_pair(const int8_t *x, const int8_t *a, const int8_t *b, int32_t values, int32_t x_offset,
                                 pair_t *sum) {
    int32_t sum_a = sum->a;
    int32_t sum_b = sum->b;
    int32_t i = -values;
    do {
        int32_t value = x[i] + x_offset;
        sum_a += a[i] * value;
        sum_b += b[i] * value;
    } while (++i != 0);
    sum->a = sum_a;
    sum->b = sum_b;
}

/* Sums of two filters over a patch. */
static pair_t dot(const runs_t *r, const int8_t *x, const int8_t *a, const int8_t *b, int32_t x_offset) {
    pair_t sum = {0, 0};
    x += r->values;
    a += r->values;
    b += r->values;
    for (int32_t row = r->rows; row > 0; row--) {
        const int8_t *x_end = x;
        int32_t w_at = 0;
        for (int32_t run = r->runs; run > 0; run--) {
            run_pair(x_end, a + w_at, b + w_at, r->values, x_offset, &sum);
            x_end += r->x_run;
            w_at += r->w_run;
        }
        x += r->x_row;
        a += r->w_row;
        b += r->w_row;
    }
    return sum;
}

static void pixel(const kf_conv_t *c, const kf_patch_t *p, int8_t *out) {
    const kf_window_t *g = &c->g;
    int32_t depth = c->node->in[1].dims[3];
    int32_t filter = g->k_h * g->k_w * depth;
    runs_t r = {p->rows, g->dilation_h * g->in_w * g->in_c, g->k_w * depth, p->columns, g->dilation_w * g->in_c, depth, depth};
    if (g->dilation_w == 1 && depth == g->in_c) {
        r.values = p->columns * depth;
        r.runs = 1; /* of one value at least: only a dilated window can miss the image */
    }
    const int8_t *x = p->x;
    const int8_t *w = (const int8_t *)c->io->in[1] + p->position * depth;
    int32_t per_group = g->out_c / (g->in_c / depth);
    int32_t end = per_group;
    for (int32_t channel = 0; channel < g->out_c;) {
        int two = channel + 1 < end;
        pair_t sum = dot(&r, x, w, two ? w + filter : w, -c->x_zp);
        out[channel] = kf_conv_finish(c, channel, sum.a);
        if (two) {
            out[channel + 1] = kf_conv_finish(c, channel + 1, sum.b);
            channel++;
            w += filter;
        }
        channel++;
        w += filter;
        if (channel == end) {
            end += per_group;
            x += depth;
        }
    }
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    kf_conv_run(node, io, first, count, &fields, pixel);
}

const kf_op_t kf_op_conv = {KF_BUILTIN_CONV_2D, KF_OPTIONS_CONV, check, kf_conv_work, run};
