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

/* Filters up to this size see a copy of their patch: one run of values, instead of several short ones that may be cut off. */
enum { GATHER_BYTES = 64 };

/* The whole window of the first group, [k_h][k_w][in_c], as the filter lies; the zero point where the image ends. */
static void gather(const kf_conv_t *c, const kf_patch_t *p, int8_t *to) {
    const kf_window_t *g = &c->g;
    const int8_t *x = p->x;
    int32_t row_values = g->k_w * g->in_c;
    int32_t values = p->columns * g->in_c;
    if (p->rows < g->k_h || p->columns < g->k_w) {
        for (int32_t i = 0; i < g->k_h * row_values; i++) {
            to[i] = (int8_t)-c->x_offset;
        }
        to += p->position * g->in_c;
    }
    for (int32_t row = p->rows; row > 0; row--) {
        for (int32_t i = 0; i < values; i++) {
            to[i] = x[i];
        }
        to += row_values;
        x += g->dilation_h * g->in_w * g->in_c;
    }
}

/* Filters are taken by four. What is contiguous of a patch is one row of a span; where that is no more than one position
 * (dilation, groups), a span is a column of the window. */
static void pixel(const kf_conv_t *c, const kf_patch_t *p, int8_t *out) {
    const kf_window_t *g = &c->g;
    int8_t gathered[GATHER_BYTES];
    int32_t depth = c->node->in[1].dims[3];
    int32_t filter = g->k_h * g->k_w * depth;
    kf_span_t s = {p->rows, g->dilation_h * g->in_w * g->in_c, g->k_w * depth, depth, filter, c->x_offset};
    int32_t spans = p->columns;
    const int8_t *x = p->x;
    const int8_t *w = (const int8_t *)c->io->in[1] + p->position * depth;
    if (p->rows == 0) {
        spans = 0; /* a dilated window can miss the image */
    } else if (g->dilation_w == 1 && depth == g->in_c) {
        s.values = p->columns * depth;
        spans = 1;
        if (filter <= GATHER_BYTES && g->k_h > 1) {
            gather(c, p, gathered);
            x = gathered;
            w = (const int8_t *)c->io->in[1];
            s.rows = 1;
            s.values = filter;
        }
    }
    int32_t per_group = g->out_c / (g->in_c / depth);
    int32_t end = per_group;
    for (int32_t channel = 0, count; channel < g->out_c; channel += count) {
        if (channel == end) {
            end += per_group;
            x += depth;
        }
        count = channel + 4 <= end ? 4 : 1;
        int32_t sum[4];
        kf_conv_begin(c, channel, sum, count);
        for (int32_t span = 0; span < spans; span++) {
            const int8_t *x_span = x + span * g->dilation_w * g->in_c;
            if (count == 4) {
                kf_dot4(&s, x_span, w + span * depth, sum);
            } else {
                kf_dot1(&s, x_span, w + span * depth, sum);
            }
        }
        kf_finish(&c->finish, channel, sum, count, out + channel);
        w += count * filter;
    }
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    kf_conv_run(node, io, first, count, &fields, pixel);
}

const kf_op_t kf_op_conv = {KF_BUILTIN_CONV_2D, KF_OPTIONS_CONV, check, kf_conv_work, run};
