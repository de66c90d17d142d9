#include "graph.h"

#include <stddef.h>

#include "../nn/op.h"

int32_t kf_graph_written(const kf_model_t *m, uint16_t tensor, uint32_t before) {
    if (tensor == m->input) {
        return -1;
    }
    /* Backwards: what an operator reads was most often written just before it. */
    for (uint32_t k = before; k-- > 0;) {
        if (kf_node_output(m, k) == tensor) {
            return (int32_t)k;
        }
    }
    return (int32_t)m->ops;
}

int32_t kf_graph_last_read(const kf_model_t *m, uint16_t tensor, int32_t written) {
    if (tensor == m->output) {
        return (int32_t)m->ops;
    }
    for (int32_t k = (int32_t)m->ops - 1; k > written; k--) {
        for (uint32_t i = 0; i < KF_NODE_INPUTS; i++) {
            if (kf_node_input(m, (uint32_t)k, i) == tensor) {
                return k;
            }
        }
    }
    return written;
}

uint16_t kf_graph_tensor_at(const kf_model_t *m, int32_t time) {
    return time < 0 ? m->input : kf_node_output(m, (uint32_t)time);
}

uint32_t kf_plan_offset(const kf_model_t *m, const uint16_t *own, uint16_t tensor) {
    if (m->plan_from_file) {
        kf_fb_t fb = kf_model_reader(m);
        return kf_fb_u32(&fb, m->at_plan + 4u * tensor);
    }
    return 4u * own[kf_graph_written(m, tensor, m->ops) + 1];
}

/* Bytes of an activation; its shape was judged when the operators were, so the read cannot fail. */
static KF_NOINLINE uint32_t tensor_bytes(const kf_model_t *m, uint16_t tensor) {
    kf_tensor_t t;
    return kf_tensor_read(m, tensor, &t) == KF_FAULT_NONE ? t.bytes : 0;
}

static int overlap(uint32_t a, uint32_t a_bytes, uint32_t b, uint32_t b_bytes) {
    return a < b + b_bytes && b < a + a_bytes;
}

/* 1 when operator `op` may write its output over `tensor`, one of its inputs. */
static KF_NOINLINE int works_in_place(const kf_model_t *m, uint16_t op, uint16_t tensor) {
    kf_node_t node;
    kf_work_t work;
    if (kf_op_work(m, op, NULL, &node, &work) != KF_FAULT_NONE) {
        return 0;
    }
    for (uint32_t i = 0; i < node.inputs; i++) {
        if (node.in[i].index == tensor && (work.in_place & (1u << i)) == 0) {
            return 0;
        }
    }
    return 1;
}

/* The activation written at `time` against everything written while it is alive. */
static int keeps_clear(const kf_model_t *m, int32_t time) {
    uint16_t tensor = kf_graph_tensor_at(m, time);
    int32_t last = kf_graph_last_read(m, tensor, time);
    uint32_t at = kf_plan_offset(m, NULL, tensor);
    uint32_t bytes = tensor_bytes(m, tensor);
    for (int32_t k = time + 1; k <= last && k < (int32_t)m->ops; k++) {
        uint16_t other = kf_node_output(m, (uint32_t)k);
        uint32_t other_at = kf_plan_offset(m, NULL, other);
        if (!overlap(at, bytes, other_at, tensor_bytes(m, other))) {
            continue;
        }
        if (k != last || at != other_at || !works_in_place(m, (uint16_t)k, tensor)) {
            return 0;
        }
    }
    return 1;
}

kf_model_fault_t kf_plan_check(const kf_model_t *m) {
    for (int32_t time = -1; time < (int32_t)m->ops; time++) {
        /* -1 in the file (no place) is above the limit, and so is refused. */
        if (kf_plan_offset(m, NULL, kf_graph_tensor_at(m, time)) > KF_MODEL_TENSOR_BYTES_MAX) {
            return KF_FAULT_PLAN;
        }
    }
    for (int32_t time = -1; time < (int32_t)m->ops; time++) {
        if (!keeps_clear(m, time)) {
            return KF_FAULT_PLAN;
        }
    }
    return KF_FAULT_NONE;
}

enum { NOT_PLACED = 0xFFFF };

/* Lowest multiple of 4 with `bytes` free bytes, as far as activations alive in [from, to] and already placed are
 * concerned. Each pass moves the place behind one obstacle at least, or ends. */
static uint32_t lowest_gap(const kf_model_t *m, const uint16_t *own, int32_t from, int32_t to, uint32_t bytes) {
    uint32_t place = 0;
    int moved;
    do {
        moved = 0;
        for (int32_t time = -1; time <= to && time < (int32_t)m->ops; time++) {
            if (!m->plan_from_file && own[time + 1] == NOT_PLACED) {
                continue;
            }
            uint16_t tensor = kf_graph_tensor_at(m, time);
            uint32_t at = m->plan_from_file ? kf_plan_offset(m, own, tensor) : 4u * own[time + 1];
            uint32_t other_bytes = tensor_bytes(m, tensor);
            if (overlap(place, bytes, at, other_bytes) && kf_graph_last_read(m, tensor, time) >= from) {
                place = (at + other_bytes + 3u) & ~3u;
                moved = 1;
            }
        }
    } while (moved);
    return place;
}

kf_model_fault_t kf_plan_make(const kf_model_t *m, uint16_t own[KF_MODEL_OWN_PLAN_MAX]) {
    uint32_t count = (uint32_t)m->ops + 1;
    for (uint32_t i = 0; i < count; i++) {
        own[i] = NOT_PLACED;
    }
    for (uint32_t placed = 0; placed < count; placed++) {
        int32_t largest = -2;
        uint32_t largest_bytes = 0;
        for (int32_t time = -1; time < (int32_t)m->ops; time++) {
            if (own[time + 1] == NOT_PLACED) {
                uint32_t bytes = tensor_bytes(m, kf_graph_tensor_at(m, time));
                if (bytes > largest_bytes) {
                    largest = time;
                    largest_bytes = bytes;
                }
            }
        }
        int32_t last = kf_graph_last_read(m, kf_graph_tensor_at(m, largest), largest);
        uint32_t place = lowest_gap(m, own, largest, last, largest_bytes) / 4;
        if (place >= NOT_PLACED) {
            return KF_FAULT_PLAN;
        }
        own[largest + 1] = (uint16_t)place;
    }
    return KF_FAULT_NONE;
}

uint32_t kf_plan_end(const kf_model_t *m, const uint16_t *own) {
    uint32_t end = 0;
    for (int32_t time = -1; time < (int32_t)m->ops; time++) {
        uint16_t tensor = kf_graph_tensor_at(m, time);
        uint32_t tensor_end = kf_plan_offset(m, own, tensor) + tensor_bytes(m, tensor);
        if (tensor_end > end) {
            end = tensor_end;
        }
    }
    return end;
}

uint32_t kf_plan_gap(const kf_model_t *m, const uint16_t *own, uint16_t op, uint32_t bytes) {
    return lowest_gap(m, own, op, op, bytes);
}
