/* SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND, int8, over [B][H][W][C] or [B][H][C]: what converters put around dilated
 * convolutions. A slice is one row of the output.
 *
 * Batch (dy * block_w + dx) * B + b of the cut tensor holds every block_h-th row from dy on, and every block_w-th column from dx
 * on, of batch b of the whole one, which is thought wider by `before` and `after`.
 */
#include <stddef.h>
#include <string.h>

#include "layout.h"

typedef struct axis {
    int32_t block, before;
    int32_t whole, cut; /* size of the axis in the whole and in the cut tensor */
} axis_t;

typedef struct blocks {
    axis_t h, w;
    int32_t batches, depth; /* of the whole tensor */
} blocks_t;

static int is_cut(const kf_node_t *node) {
    return node->op->code == KF_BUILTIN_SPACE_TO_BATCH_ND;
}

static int read_axis(const kf_node_t *node, uint32_t i, int32_t whole, int32_t cut, axis_t *a) {
    const int32_t after = kf_integer(&node->in[2], 2 * i + 1);
    a->block = kf_integer(&node->in[1], i);
    a->before = kf_integer(&node->in[2], 2 * i);
    a->whole = whole;
    a->cut = cut;
    /* Each below 2^24, so that sums fit; and block * cut by division. */
    return a->block >= 1 && a->block < 1 << 24 && a->before >= 0 && a->before < 1 << 24 && after >= 0 && after < 1 << 24 &&
           (whole + a->before + after) % a->block == 0 && (whole + a->before + after) / a->block == cut;
}

static int read_blocks(const kf_node_t *node, blocks_t *b) {
    const int32_t *whole = is_cut(node) ? node->in[0].dims : node->out.dims;
    const int32_t *cut = is_cut(node) ? node->out.dims : node->in[0].dims;
    const int flat = node->out.rank == 3;
    b->batches = whole[0];
    b->depth = whole[flat ? 2 : 3];
    const axis_t one = {1, 0, 1, 1};
    b->w = one;
    if (!read_axis(node, 0, whole[1], cut[1], &b->h) || (!flat && !read_axis(node, 1, whole[2], cut[2], &b->w))) {
        return 0;
    }
    return cut[flat ? 2 : 3] == b->depth && cut[0] % b->batches == 0 && cut[0] / b->batches % b->h.block == 0 &&
           cut[0] / b->batches / b->h.block == b->w.block;
}

static kf_model_fault_t check(kf_node_t *node) {
    kf_model_fault_t fault = kf_check_int8(node, &node->out);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_moved(node, &node->in[0], &node->out);
    }
    if (fault == KF_FAULT_NONE && node->inputs != 3) {
        fault = KF_FAULT_COUNT;
    }
    for (uint32_t i = 1; i < 3 && fault == KF_FAULT_NONE; i++) {
        fault = kf_check_integers(node, &node->in[i]);
    }
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    const uint32_t rank = node->out.rank;
    blocks_t b;
    if (rank < 3 || rank > 4 || node->in[0].rank != rank || node->in[1].elements != rank - 2 ||
        node->in[2].elements != 2 * (rank - 2) || !read_blocks(node, &b)) {
        return KF_FAULT_SHAPE;
    }
    return KF_FAULT_NONE;
}

static void work(const kf_node_t *node, kf_work_t *work) {
    const int32_t *out = node->out.dims;
    work->slices = (uint32_t)(out[0] * out[1]);
    work->macs = node->out.elements / work->slices / 2 + 16;
}

/* Output row `y` of cut batch `batch`. */
static void cut_row(const kf_node_t *node, const blocks_t *s, const uint8_t *in, int32_t batch, int32_t y, uint8_t *out) {
    const int32_t shift = batch / s->batches;
    const int32_t from_y = y * s->h.block + shift / s->w.block - s->h.before;
    const int32_t shift_x = shift % s->w.block;
    const size_t depth = (size_t)s->depth;
    for (int32_t x = 0; x < s->w.cut; x++) {
        const int32_t from_x = x * s->w.block + shift_x - s->w.before;
        if (from_y < 0 || from_y >= s->h.whole || from_x < 0 || from_x >= s->w.whole) {
            memset(out, node->out.zp, depth);
        } else {
            memcpy(out, in + (size_t)((batch % s->batches * s->h.whole + from_y) * s->w.whole + from_x) * depth, depth);
        }
        out += depth;
    }
}

/* Output row `y` of whole batch `batch`. */
static void whole_row(const blocks_t *s, const uint8_t *in, int32_t batch, int32_t y, uint8_t *out) {
    const int32_t from_y = y + s->h.before;
    const size_t depth = (size_t)s->depth;
    for (int32_t x = 0; x < s->w.whole; x++) {
        const int32_t from_x = x + s->w.before;
        const int32_t shift = from_y % s->h.block * s->w.block + from_x % s->w.block;
        const int32_t row = (shift * s->batches + batch) * s->h.cut + from_y / s->h.block;
        memcpy(out, in + (size_t)(row * s->w.cut + from_x / s->w.block) * depth, depth);
        out += depth;
    }
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    const uint32_t rows = (uint32_t)node->out.dims[1];
    blocks_t s;
    if (!read_blocks(node, &s)) {
        return; /* judged when the model was opened */
    }
    const size_t row = (size_t)(is_cut(node) ? s.w.cut : s.w.whole) * (size_t)s.depth;
    for (uint32_t i = first; i < first + count; i++) {
        if (is_cut(node)) {
            cut_row(node, &s, io->in[0], (int32_t)(i / rows), (int32_t)(i % rows), io->out + i * row);
        } else {
            whole_row(&s, io->in[0], (int32_t)(i / rows), (int32_t)(i % rows), io->out + i * row);
        }
    }
}

const kf_op_t kf_op_space_to_batch = {KF_BUILTIN_SPACE_TO_BATCH_ND, KF_OPTIONS_NONE, check, work, run};
const kf_op_t kf_op_batch_to_space = {KF_BUILTIN_BATCH_TO_SPACE_ND, KF_OPTIONS_NONE, check, work, run};
