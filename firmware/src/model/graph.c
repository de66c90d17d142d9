#include "graph.h"

#include <stddef.h>

#include "../nn/op.h"

kf_activation_t kf_graph_first(const kf_model_t *m) {
    kf_activation_t a = {-1, 0, 0, m->input, 0};
    return a;
}

int kf_graph_next(const kf_model_t *m, kf_activation_t *a) {
    a->number++;
    if (a->time < 0 || a->state) {
        a->time++;
        a->slot = 0;
        a->state = 0;
    } else {
        a->slot++;
    }
    for (; a->time < (int32_t)m->ops; a->time++) {
        kf_list_t outputs = kf_node_outputs(m, (uint32_t)a->time);
        if (a->slot < outputs.count) {
            a->tensor = kf_list_tensor(m, outputs, a->slot);
            return 1;
        }
        a->tensor = kf_node_state(m, (uint32_t)a->time);
        if (a->tensor != KF_MODEL_NONE) {
            a->state = 1;
            return 1;
        }
        a->slot = 0;
    }
    return 0;
}

uint32_t kf_graph_count(const kf_model_t *m) {
    kf_activation_t a = kf_graph_first(m);
    while (kf_graph_next(m, &a)) {
    }
    return a.number;
}

int32_t kf_graph_from(const kf_activation_t *a) {
    return a->state ? -1 : a->time;
}

int32_t kf_graph_to(const kf_model_t *m, const kf_activation_t *a) {
    if (a->state || a->tensor == m->output) {
        return (int32_t)m->ops;
    }
    for (int32_t k = (int32_t)m->ops - 1; k > a->time; k--) {
        kf_list_t inputs = kf_node_inputs(m, (uint32_t)k);
        for (uint32_t i = 0; i < inputs.count; i++) {
            if (kf_list_tensor(m, inputs, i) == a->tensor) {
                return k;
            }
        }
    }
    return a->time;
}

int32_t kf_graph_written(const kf_model_t *m, uint16_t tensor, uint32_t before) {
    if (tensor == m->input) {
        return -1;
    }
    /* Backwards: what an operator reads was most often written just before it. */
    for (uint32_t k = before; k-- > 0;) {
        kf_list_t outputs = kf_node_outputs(m, k);
        for (uint32_t i = 0; i < outputs.count; i++) {
            if (kf_list_tensor(m, outputs, i) == tensor) {
                return (int32_t)k;
            }
        }
    }
    return (int32_t)m->ops;
}

uint32_t kf_plan_table_bytes(const kf_model_t *m) {
    return (2u * kf_graph_count(m) + 3u) & ~3u;
}

uint32_t kf_plan_offset(const kf_model_t *m, const uint16_t *own, uint16_t tensor) {
    if (m->plan_from_file) {
        kf_fb_t fb = kf_model_reader(m);
        return kf_fb_u32(&fb, m->at_plan + 4u * tensor);
    }
    kf_activation_t a = kf_graph_first(m);
    while (a.tensor != tensor && kf_graph_next(m, &a)) {
    }
    return 4u * own[a.number];
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
    kf_list_t inputs = kf_node_inputs(m, op);
    for (uint32_t i = 0; i < inputs.count; i++) {
        if (kf_list_tensor(m, inputs, i) == tensor && (i >= 32 || (work.in_place & (1u << i)) == 0)) {
            return 0;
        }
    }
    return 1;
}

/* An activation against all that come behind it and are alive together with it. */
static int keeps_clear(const kf_model_t *m, const kf_activation_t *a) {
    int32_t last = kf_graph_to(m, a);
    uint32_t at = kf_plan_offset(m, NULL, a->tensor);
    uint32_t bytes = tensor_bytes(m, a->tensor);
    kf_activation_t other = *a;
    while (kf_graph_next(m, &other)) {
        if (kf_graph_from(&other) > last) {
            continue;
        }
        uint32_t other_at = kf_plan_offset(m, NULL, other.tensor);
        if (!overlap(at, bytes, other_at, tensor_bytes(m, other.tensor))) {
            continue;
        }
        if (other.time != last || other.time == a->time || other.state || other.slot != 0 || at != other_at ||
            !works_in_place(m, (uint16_t)other.time, a->tensor)) {
            return 0;
        }
    }
    return 1;
}

kf_model_fault_t kf_plan_check(const kf_model_t *m) {
    kf_activation_t a = kf_graph_first(m);
    do {
        /* -1 in the file (no place) is above the limit, and so is refused. */
        if (kf_plan_offset(m, NULL, a.tensor) > KF_MODEL_TENSOR_BYTES_MAX) {
            return KF_FAULT_PLAN;
        }
    } while (kf_graph_next(m, &a));
    a = kf_graph_first(m);
    do {
        if (!keeps_clear(m, &a)) {
            return KF_FAULT_PLAN;
        }
    } while (kf_graph_next(m, &a));
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
        kf_activation_t a = kf_graph_first(m);
        do {
            if (kf_graph_from(&a) > to || (!m->plan_from_file && own[a.number] == NOT_PLACED)) {
                continue;
            }
            uint32_t at = m->plan_from_file ? kf_plan_offset(m, own, a.tensor) : 4u * own[a.number];
            uint32_t other_bytes = tensor_bytes(m, a.tensor);
            if (overlap(place, bytes, at, other_bytes) && kf_graph_to(m, &a) >= from) {
                place = (at + other_bytes + 3u) & ~3u;
                moved = 1;
            }
        } while (kf_graph_next(m, &a));
    } while (moved);
    return place;
}

/* The largest activation that has no place yet, the earlier one of two equals; 0 when all have one. */
static int largest(const kf_model_t *m, const uint16_t *own, kf_activation_t *found, uint32_t *bytes) {
    kf_activation_t a = kf_graph_first(m);
    *bytes = 0;
    do {
        if (own[a.number] == NOT_PLACED) {
            uint32_t own_bytes = tensor_bytes(m, a.tensor);
            if (own_bytes > *bytes) {
                *found = a;
                *bytes = own_bytes;
            }
        }
    } while (kf_graph_next(m, &a));
    return *bytes != 0;
}

kf_model_fault_t kf_plan_make(const kf_model_t *m, uint16_t own[KF_MODEL_OWN_PLAN_MAX]) {
    kf_activation_t a = kf_graph_first(m);
    do {
        own[a.number] = NOT_PLACED;
    } while (kf_graph_next(m, &a));
    uint32_t bytes;
    while (largest(m, own, &a, &bytes)) {
        uint32_t place = lowest_gap(m, own, kf_graph_from(&a), kf_graph_to(m, &a), bytes) / 4;
        if (place >= NOT_PLACED) {
            return KF_FAULT_PLAN;
        }
        own[a.number] = (uint16_t)place;
    }
    return KF_FAULT_NONE;
}

uint32_t kf_plan_end(const kf_model_t *m, const uint16_t *own) {
    uint32_t end = 0;
    kf_activation_t a = kf_graph_first(m);
    do {
        uint32_t tensor_end = kf_plan_offset(m, own, a.tensor) + tensor_bytes(m, a.tensor);
        if (tensor_end > end) {
            end = tensor_end;
        }
    } while (kf_graph_next(m, &a));
    return end;
}

uint32_t kf_plan_gap(const kf_model_t *m, const uint16_t *own, uint16_t op, uint32_t bytes) {
    return lowest_gap(m, own, op, op, bytes);
}
