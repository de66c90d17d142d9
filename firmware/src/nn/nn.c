/* The interpreter: walks the operators, decodes one at a time, and hands it as many slices as the budget allows. */
#include "kilofed/nn.h"

#include <stddef.h>
#include <string.h>

#include "../model/graph.h"
#include "op.h"

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

/* Run slices of the current operator worth about `budget`; returns what was spent. */
static uint32_t run_slices(kf_nn_t *nn, uint32_t budget) {
    kf_node_t node;
    kf_work_t work;
    kf_io_t io;
    uint32_t spent = 0;
    if (kf_op_work(nn->model, nn->op, nn->overlay, &node, &work) != KF_FAULT_NONE) {
        return 0; /* cannot be: the model was judged when it was opened */
    }
    if (nn->slice == 0) {
        nn->scratch = work.scratch_bytes == 0 ? 0 : kf_plan_gap(nn->model, own_plan(nn), nn->op, work.scratch_bytes);
        spent = start_macs(&node, &work);
    }
    for (uint32_t i = 0; i < KF_NODE_INPUTS; i++) {
        const kf_tensor_t *t = &node.in[i];
        io.in[i] = i >= node.inputs ? NULL : t->constant != NULL ? t->constant : place(nn, t->index);
    }
    if (node.overlay != NULL) {
        io.in[1] = (const uint8_t *)node.overlay->weights;
    }
    io.out = place(nn, node.out.index);
    io.scratch = nn->arena + nn->scratch;
    io.arena = nn->arena;
    io.own = own_plan(nn);
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
    return count > (0xFFFFFFFFu - spent) / macs ? 0xFFFFFFFFu : spent + count * macs;
}

kf_status_t kf_nn_step(kf_nn_t *nn, uint32_t max_macs) {
    if (nn == NULL || !nn->ready) {
        return KF_ERR_STATE;
    }
    uint32_t budget = max_macs == 0 ? 1 : max_macs;
    while (nn->op < nn->stop && budget > 0) {
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
