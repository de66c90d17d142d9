/* The interpreter: walks the operators, decodes one at a time, and hands it as many slices as the budget allows. */
#include "kilofed/nn.h"

#include <stddef.h>
#include <string.h>

#include "../model/graph.h"
#include "../model/plan.h"

/* Price of starting an operator and of preparing one channel's multiplier, in multiply-accumulates. */
enum { START_MACS = 64, CHANNEL_MACS = 32 };

static uint32_t start_macs(const kf_node_t *node, const kf_work_t *work) {
    return work->scratch_bytes == 0 ? START_MACS : START_MACS + node->in[1].scales * (uint32_t)CHANNEL_MACS;
}

size_t kf_nn_arena_bytes(const kf_model_t *m) {
    return m == NULL ? 0 : m->arena_bytes;
}

/* The own plan's table, at the end of the arena; NULL when the file has a plan. */
static uint16_t *own_plan(const kf_nn_t *nn) {
    return nn->model->plan_from_file ? NULL : (void *)(nn->arena + nn->model->tensor_bytes);
}

static uint8_t *place(const kf_nn_t *nn, uint16_t tensor) {
    return nn->arena + kf_plan_offset(nn->model, own_plan(nn), tensor);
}

/* Whatever the overlay's quantization touches is judged as if it stood in the file. */
KF_NOINLINE kf_status_t kf_nn_check_overlay(const kf_model_t *m, const kf_head_overlay_t *overlay) {
    if (m == NULL || overlay == NULL) {
        return KF_ERR_ARG;
    }
    if (m->head.op == KF_MODEL_NONE || overlay->weights == NULL || overlay->bias == NULL || overlay->out_zp < -128 ||
        overlay->out_zp > 127) {
        return KF_ERR_HEAD;
    }
    for (uint16_t op = m->head.op; op < m->ops; op++) {
        kf_node_t node;
        if (kf_node_read(m, op, overlay, &node) != KF_FAULT_NONE || node.op->check(&node) != KF_FAULT_NONE) {
            return KF_ERR_HEAD;
        }
    }
    return KF_OK;
}

/* What operators keep between inferences starts from zeros, as in the reference. */
static KF_NOINLINE void clear_states(const kf_nn_t *nn) {
    for (uint32_t op = 0; op < nn->model->ops; op++) {
        uint16_t tensor = kf_node_state(nn->model, op);
        kf_tensor_t t;
        if (tensor != KF_MODEL_NONE && kf_tensor_read(nn->model, tensor, &t) == KF_FAULT_NONE) {
            memset(place(nn, tensor), t.zp, t.bytes); /* 0 for int16 */
        }
    }
}

kf_status_t kf_nn_begin(kf_nn_t *nn, const kf_model_t *m, uint8_t *arena, size_t arena_bytes,
                        const kf_head_overlay_t *overlay) {
    if (nn == NULL || m == NULL || m->ops == 0 || arena == NULL || ((uintptr_t)arena & 3u) != 0) {
        return KF_ERR_ARG;
    }
    nn->ready = 0;
    if (arena_bytes < m->arena_bytes) {
        return KF_ERR_MEMORY;
    }
    nn->model = m;
    nn->arena = arena;
    nn->overlay = overlay;
    if (overlay != NULL) {
        kf_status_t status = kf_nn_check_overlay(m, overlay);
        if (status != KF_OK) {
            return status;
        }
    }
    if (!m->plan_from_file && kf_plan_make(m, own_plan(nn)) != KF_FAULT_NONE) {
        return KF_ERR_MODEL;
    }
    clear_states(nn);
    nn->ready = 1;
    kf_nn_restart(nn);
    return KF_OK;
}

kf_status_t kf_nn_stop_at_features(kf_nn_t *nn) {
    if (nn == NULL || !nn->ready) {
        return KF_ERR_STATE;
    }
    if (nn->model->head.op == KF_MODEL_NONE) {
        return KF_ERR_HEAD;
    }
    nn->stop = nn->model->head.op;
    return KF_OK;
}

void kf_nn_restart(kf_nn_t *nn) {
    nn->scratch = 0;
    nn->before = 0;
    nn->slice = 0;
    nn->op = 0;
    nn->stop = nn->model->ops;
}

void kf_nn_continue(kf_nn_t *nn) {
    nn->stop = nn->model->ops;
}

int8_t *kf_nn_input(kf_nn_t *nn) {
    return nn == NULL || !nn->ready ? NULL : (int8_t *)place(nn, nn->model->input);
}

static uint32_t cost(uint32_t spent, uint32_t count, uint32_t macs) {
    return count > (0xFFFFFFFFu - spent) / macs ? 0xFFFFFFFFu : spent + count * macs;
}

/* Rows [first, end) of an operator that is handed its rows one by one: io goes along. */
static void run_rows(const kf_node_t *node, kf_io_t *io, int32_t first, int32_t end) {
    int32_t bytes = node->out.dims[2] * node->out.dims[3]; /* of a row, of inputs too: they have the output's shape */
    int32_t at = 0;
    for (int32_t y = first; y < end; y++) {
        for (uint32_t i = 0; i < node->inputs; i++) {
            io->in[i] += (kf_ring_row(y, io->in_rings[i]) - kf_ring_row(at, io->in_rings[i])) * bytes;
        }
        io->out += (kf_ring_row(y, io->out_ring) - kf_ring_row(at, io->out_ring)) * bytes;
        at = y;
        node->op->run(node, io, 0, (uint32_t)bytes);
    }
}

/* The current operator's turn in its group: as many rows as the step asks for. Returns what was spent. */
static uint32_t run_turn(kf_nn_t *nn, const kf_group_t *g, const kf_node_t *node, const kf_work_t *work, kf_io_t *io) {
    const kf_model_t *m = nn->model;
    const int32_t rows = node->out.dims[1];
    kf_rule_t rule = kf_group_rule(m, g, nn->op);
    int32_t first = kf_rule_rows(&rule, (int32_t)nn->slice, rows);
    int32_t end = kf_rule_rows(&rule, (int32_t)nn->slice + 1, rows);
    uint32_t slices = (uint32_t)(end - first);
    for (uint32_t i = 0; i < KF_NODE_INPUTS; i++) {
        io->in_rings[i] = kf_walks(&work->walk, i) ? kf_group_ring(m, g, node->in[i].index) : 0;
    }
    io->out_ring = rule.ring;
    if (slices == 0) {
        /* nothing to do in this step */
    } else if (work->walk.pace == KF_PACE_VALUES) {
        slices *= (uint32_t)(node->out.dims[2] * node->out.dims[3]);
        run_rows(node, io, first, end);
    } else {
        node->op->run(node, io, (uint32_t)first, slices);
    }
    nn->before = (uint16_t)(nn->before + (work->scratch_bytes + 3u) / 4u);
    if (nn->op < g->last) {
        nn->op++;
    } else if (end == rows) {
        nn->op++;
        nn->slice = 0;
    } else {
        nn->op = g->first;
        nn->before = 0;
        nn->slice++;
    }
    return cost(1, slices, work->macs == 0 ? 1 : work->macs);
}

static uint32_t scratch_place(const kf_nn_t *nn, const kf_group_t *g, uint32_t bytes) {
    return bytes == 0 ? 0 : kf_plan_scratch(nn->model, own_plan(nn), g, (bytes + 3u) & ~3u);
}

/* Run slices of the current operator worth about `budget`; returns what was spent. */
static uint32_t run_slices(kf_nn_t *nn, uint32_t budget) {
    kf_node_t node;
    kf_work_t work;
    kf_io_t io;
    uint32_t spent = 0;
    const kf_group_t g = kf_group_of(nn->model, nn->op);
    if (kf_op_work(nn->model, nn->op, nn->overlay, &node, &work) != KF_FAULT_NONE) {
        return 0; /* cannot be: the model was judged when it was opened */
    }
    if (nn->slice == 0) {
        spent = start_macs(&node, &work);
        if (g.rules == 0) {
            nn->scratch = scratch_place(nn, &g, work.scratch_bytes);
            nn->before = 0;
        }
    }
    for (uint32_t i = 0; i < KF_NODE_INPUTS; i++) {
        const kf_tensor_t *t = &node.in[i];
        io.in[i] = i >= node.inputs ? NULL : t->constant != NULL ? t->constant : place(nn, t->index);
    }
    if (node.overlay != NULL) {
        io.in[1] = (const uint8_t *)node.overlay->weights;
    }
    io.out = place(nn, node.out.index);
    io.scratch = nn->arena + nn->scratch + 4u * nn->before;
    io.arena = nn->arena;
    io.own = own_plan(nn);
    for (uint32_t i = 0; i < KF_NODE_INPUTS; i++) {
        io.in_rings[i] = 0;
    }
    io.out_ring = 0;
    if (g.rules != 0) {
        return cost(spent, 1, run_turn(nn, &g, &node, &work, &io));
    }
    uint32_t macs = work.macs == 0 ? 1 : work.macs;
    uint32_t left = work.slices - nn->slice;
    uint32_t count = budget > spent ? (budget - spent) / macs : 0;
    count = count == 0 ? 1 : count > left ? left : count;
    node.op->run(&node, &io, nn->slice, count);
    nn->slice += count;
    if (nn->slice == work.slices) {
        nn->slice = 0;
        nn->op++;
    }
    return cost(spent, count, macs);
}

/* Where scratch lies is looked for once, when an operator or a group starts: a lone operator's where it has been decoded, a group's here, so
 * that no two nodes are on the stack at once. */
static KF_NOINLINE void start_group(kf_nn_t *nn) {
    const kf_group_t g = kf_group_of(nn->model, nn->op);
    if (g.rules != 0 && nn->op == g.first) {
        nn->scratch = scratch_place(nn, &g, kf_group_scratch(nn->model, &g));
        nn->before = 0;
    }
}

kf_status_t kf_nn_step(kf_nn_t *nn, uint32_t max_macs) {
    if (nn == NULL || !nn->ready) {
        return KF_ERR_STATE;
    }
    uint32_t budget = max_macs == 0 ? 1 : max_macs;
    while (nn->op < nn->stop && budget > 0) {
        if (nn->slice == 0) {
            start_group(nn);
        }
        uint32_t spent = run_slices(nn, budget);
        if (spent == 0) {
            nn->ready = 0;
            return KF_ERR_MODEL;
        }
        budget = spent < budget ? budget - spent : 0;
    }
    return nn->op < nn->stop ? KF_MORE : KF_OK;
}

const int8_t *kf_nn_features(const kf_nn_t *nn) {
    if (nn == NULL || !nn->ready || nn->model->head.op == KF_MODEL_NONE) {
        return NULL;
    }
    return (const int8_t *)place(nn, nn->model->head.input);
}

const int8_t *kf_nn_output(const kf_nn_t *nn) {
    return nn == NULL || !nn->ready ? NULL : (const int8_t *)place(nn, nn->model->output);
}

uint32_t kf_nn_macs(const kf_model_t *m, int to_features) {
    uint32_t total = 0;
    uint16_t stop = to_features && m->head.op != KF_MODEL_NONE ? m->head.op : m->ops;
    for (uint16_t op = 0; op < stop; op++) {
        kf_node_t node;
        kf_work_t work;
        if (kf_op_work(m, op, NULL, &node, &work) == KF_FAULT_NONE) {
            uint64_t macs = (uint64_t)work.slices * work.macs + start_macs(&node, &work);
            total = macs > 0xFFFFFFFFu - total ? 0xFFFFFFFFu : total + (uint32_t)macs;
        }
    }
    return total;
}
