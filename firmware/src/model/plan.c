#include "plan.h"

#include <stddef.h>
#include <string.h>

#include "../bytes.h"
#include "graph.h"

enum { METADATA_MAX = 64, NOWHERE = 0xFFFF, NOT_PLACED = 0xFFFF };

uint32_t kf_plan_table_bytes(const kf_model_t *m) {
    return (2u * kf_graph_count(m) + 3u) & ~3u;
}

/* An entry of our own format: above every limit for a tensor without a place. */
static uint32_t own_format_offset(const kf_model_t *m, uint16_t tensor) {
    const uint8_t *plan = m->data + m->at_plan;
    uint32_t index = (uint32_t)tensor - kf_get_u16(plan + 4); /* far too large when the tensor comes before the first */
    uint32_t place = tensor == m->input             ? kf_get_u16(plan + 2)
                     : index < kf_get_u16(plan + 6) ? kf_get_u16(plan + KF_PLAN_HEAD_BYTES + 2u * index)
                                                    : (uint32_t)NOWHERE;
    return place == NOWHERE ? 0xFFFFFFFFu : place << plan[1];
}

uint32_t kf_plan_offset(const kf_model_t *m, const uint16_t *own, uint16_t tensor) {
    if (m->plan_from_file == KF_PLAN_KILOFED) {
        return own_format_offset(m, tensor);
    }
    if (m->plan_from_file == KF_PLAN_STANDARD) {
        return kf_get_u32(m->data + m->at_plan + 4u * tensor);
    }
    kf_activation_t a = kf_graph_first(m);
    while (a.tensor != tensor && kf_graph_next(m, &a)) {
    }
    return 4u * own[a.number];
}

/* ---- in the file ------------------------------------------------------------------------------------------------- */

/* Position and length of the content of the first metadata entry with this name; 0: there is none, or it has no content. */
static uint32_t find_entry(const kf_model_t *m, const char *name, uint32_t name_bytes, uint32_t *bytes) {
    kf_fb_t fb = kf_model_reader(m);
    uint32_t count;
    uint32_t at = kf_fb_get_vector(&fb, kf_fb_follow(&fb, 0), KF_MODEL_METADATA, 4, &count);
    for (uint32_t i = 0; i < count && i < METADATA_MAX && !fb.bad; i++) {
        uint32_t entry = kf_fb_follow(&fb, at + 4 * i);
        uint32_t length;
        uint32_t text = kf_fb_get_vector(&fb, entry, KF_METADATA_NAME, 1, &length);
        uint32_t buffer = (uint32_t)kf_fb_get_i32(&fb, entry, KF_METADATA_BUFFER, 0);
        if (!fb.bad && length == name_bytes && memcmp(m->data + text, name, length) == 0 && buffer < m->buffers) {
            uint32_t data = kf_fb_get_vector(&fb, kf_fb_follow(&fb, m->at_buffers + 4 * buffer), KF_BUFFER_DATA, 1, bytes);
            return fb.bad ? 0 : data;
        }
    }
    return 0;
}

void kf_plan_find(kf_model_t *m) {
    static const char ours[] = "kilofed.plan", standard[] = "OfflineMemoryAllocation";
    uint32_t bytes = 0;
    uint32_t at = find_entry(m, ours, sizeof ours - 1, &bytes);
    const uint8_t *plan = m->data + at;
    m->plan_from_file = KF_PLAN_OWN;
    if (at != 0) {
        if (bytes >= KF_PLAN_HEAD_BYTES && plan[0] == KF_PLAN_VERSION && plan[1] >= KF_PLAN_SHIFT_MIN &&
            plan[1] <= KF_PLAN_SHIFT_MAX && bytes >= KF_PLAN_HEAD_BYTES + 2u * kf_get_u16(plan + 6) + 2u * m->ops &&
            (uint32_t)kf_get_u16(plan + 4) + kf_get_u16(plan + 6) <= m->tensors) {
            m->at_plan = at;
            m->plan_from_file = KF_PLAN_KILOFED;
        }
        return;
    }
    at = find_entry(m, standard, sizeof standard - 1, &bytes);
    plan = m->data + at;
    /* Version 1, subgraph 0, count, one offset a tensor. */
    if (at != 0 && bytes == 12 + 4 * (uint32_t)m->tensors && kf_get_u32(plan) == 1 && kf_get_u32(plan + 4) == 0 &&
        kf_get_u32(plan + 8) == m->tensors) {
        m->at_plan = at + 12;
        m->plan_from_file = KF_PLAN_STANDARD;
    }
}

/* ---- what lies where when ------------------------------------------------------------------------------------------ */

/* Bytes of an activation; its shape was judged when the operators were, so the read cannot fail. */
static KF_NOINLINE uint32_t tensor_bytes(const kf_model_t *m, uint16_t tensor, uint32_t ring) {
    kf_tensor_t t;
    if (kf_tensor_read(m, tensor, &t) != KF_FAULT_NONE) {
        return 0;
    }
    return ring == 0 ? t.bytes : ring * (t.bytes / (uint32_t)t.dims[1]); /* rank 4, batch 1: its group was judged */
}

/* Bytes of an activation's place: of a ring less than of the tensor. */
static uint32_t place_bytes(const kf_model_t *m, const kf_activation_t *a) {
    if (a->time < 0 || a->state) {
        return tensor_bytes(m, a->tensor, 0);
    }
    kf_group_t g = kf_group_of(m, (uint32_t)a->time);
    return tensor_bytes(m, a->tensor, g.rules == 0 ? 0 : kf_group_rule(m, &g, (uint32_t)a->time).ring);
}

/* From and to when an activation's place is taken: a group's operators share their time. */
static int32_t taken_from(const kf_model_t *m, const kf_activation_t *a) {
    int32_t from = kf_graph_from(a);
    return from < 0 ? from : (int32_t)kf_group_of(m, (uint32_t)from).first;
}

static int32_t taken_to(const kf_model_t *m, const kf_activation_t *a) {
    int32_t to = kf_graph_to(m, a);
    return to < 0 || to >= (int32_t)m->ops ? to : (int32_t)kf_group_of(m, (uint32_t)to).last;
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

/* Whether `output` may overlap `a`, with which it is alive, when it begins `below` bytes below it. */
static int may_overlap(const kf_model_t *m, const kf_activation_t *output, const kf_activation_t *a, int32_t below) {
    if (output->time < 0 || output->state || output->slot != 0) {
        return 0;
    }
    kf_group_t g = kf_group_of(m, (uint32_t)output->time);
    int32_t dies = kf_graph_to(m, a);
    if (output->time != (int32_t)g.last || kf_graph_from(a) >= (int32_t)g.first || dies < (int32_t)g.first ||
        dies > (int32_t)g.last) {
        return 0;
    }
    if (g.first == g.last && below == 0 && works_in_place(m, g.last, a->tensor)) {
        return 1;
    }
    return m->plan_from_file == KF_PLAN_KILOFED && kf_group_clears(m, &g, a->tensor, below);
}

/* An activation against all that come behind it and are alive together with it. */
static KF_NOINLINE int keeps_clear(const kf_model_t *m, const kf_activation_t *a) {
    int32_t from = taken_from(m, a);
    int32_t to = taken_to(m, a);
    uint32_t at = kf_plan_offset(m, NULL, a->tensor);
    uint32_t bytes = place_bytes(m, a);
    kf_activation_t other = *a;
    while (kf_graph_next(m, &other)) {
        if (taken_from(m, &other) > to) {
            continue;
        }
        uint32_t other_at = kf_plan_offset(m, NULL, other.tensor);
        if (overlap(at, bytes, other_at, place_bytes(m, &other)) && taken_to(m, &other) >= from &&
            !may_overlap(m, &other, a, (int32_t)at - (int32_t)other_at)) {
            return 0;
        }
    }
    return 1;
}

kf_model_fault_t kf_plan_check(const kf_model_t *m) {
    kf_activation_t a = kf_graph_first(m);
    do {
        /* No place is above the limit, and so is refused. */
        if (kf_plan_offset(m, NULL, a.tensor) > KF_MODEL_TENSOR_BYTES_MAX) {
            return KF_FAULT_PLAN;
        }
    } while (kf_graph_next(m, &a));
    if (!kf_groups_check(m)) {
        return KF_FAULT_PLAN;
    }
    a = kf_graph_first(m);
    do {
        if (!keeps_clear(m, &a)) {
            return KF_FAULT_PLAN;
        }
    } while (kf_graph_next(m, &a));
    return KF_FAULT_NONE;
}

/* ---- the device's own ----------------------------------------------------------------------------------------------- */

/* Which of the first tensors of a model operators read, from one of them on: a bit each. Looked up for every activation, where
 * kf_graph_to() would walk the operators for each. */
enum { READ_MAX = 512 };

typedef struct read {
    uint32_t bits[READ_MAX / 32];
} read_t;

static void find_read(const kf_model_t *m, int32_t from, read_t *read) {
    memset(read, 0, sizeof *read);
    for (uint32_t k = from < 0 ? 0 : (uint32_t)from; k < m->ops; k++) {
        kf_list_t inputs = kf_node_inputs(m, k);
        for (uint32_t i = 0; i < inputs.count; i++) {
            uint32_t tensor = kf_list_tensor(m, inputs, i);
            if (tensor < READ_MAX) {
                read->bits[tensor / 32] |= 1u << tensor % 32;
            }
        }
    }
}

/* taken_to(m, a) >= from, where no group begins before `from` and ends behind it. */
static int taken_still(const kf_model_t *m, const kf_activation_t *a, int32_t from, const read_t *read) {
    if (a->tensor >= READ_MAX) {
        return taken_to(m, a) >= from;
    }
    return a->state || a->tensor == m->output || a->time >= from || (read->bits[a->tensor / 32] >> a->tensor % 32 & 1u) != 0;
}

/* Lowest place from `place` on, a multiple of 4, with `bytes` free bytes, as far as activations alive in [from, to] and already
 * placed are concerned. Each pass moves the place behind one obstacle at least, or ends. */
static uint32_t lowest_gap(const kf_model_t *m, const uint16_t *own, int32_t from, int32_t to, uint32_t bytes, uint32_t place) {
    read_t read;
    int moved;
    find_read(m, from, &read);
    do {
        moved = 0;
        kf_activation_t a = kf_graph_first(m);
        do {
            if ((own != NULL && own[a.number] == NOT_PLACED) || !taken_still(m, &a, from, &read) || taken_from(m, &a) > to) {
                continue;
            }
            uint32_t at = own == NULL ? kf_plan_offset(m, own, a.tensor) : 4u * own[a.number];
            uint32_t other_bytes = place_bytes(m, &a);
            if (overlap(place, bytes, at, other_bytes)) {
                place = (at + other_bytes + 3u) & ~3u;
                moved = 1;
            }
            /* Behind `to` only a state is taken. */
        } while (kf_graph_next(m, &a) && (a.time <= to || m->states));
    } while (moved);
    return place;
}

/* The largest activation that has no place yet, the earlier one of two equals; 0 when all have one. */
static int largest(const kf_model_t *m, const uint16_t *own, kf_activation_t *found, uint32_t *bytes) {
    kf_activation_t a = kf_graph_first(m);
    *bytes = 0;
    do {
        if (own[a.number] == NOT_PLACED) {
            uint32_t own_bytes = tensor_bytes(m, a.tensor, 0);
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
        uint32_t place = lowest_gap(m, own, kf_graph_from(&a), kf_graph_to(m, &a), bytes, 0) / 4;
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
        uint32_t tensor_end = kf_plan_offset(m, own, a.tensor) + place_bytes(m, &a);
        if (tensor_end > end) {
            end = tensor_end;
        }
    } while (kf_graph_next(m, &a));
    return end;
}

static uint32_t place_in_file(const kf_model_t *m, const kf_group_t *g) {
    const uint8_t *plan = m->data + m->at_plan;
    return (uint32_t)kf_get_u16(plan + KF_PLAN_HEAD_BYTES + 2u * (kf_get_u16(plan + 6) + (uint32_t)g->first)) << plan[1];
}

uint32_t kf_plan_scratch(const kf_model_t *m, const uint16_t *own, const kf_group_t *g, uint32_t bytes) {
    return m->plan_from_file == KF_PLAN_KILOFED ? place_in_file(m, g) : lowest_gap(m, own, g->first, g->last, bytes, 0);
}

int kf_plan_scratch_holds(const kf_model_t *m, const kf_group_t *g, uint32_t bytes) {
    uint32_t place = m->plan_from_file == KF_PLAN_KILOFED ? place_in_file(m, g) : 0;
    return m->plan_from_file != KF_PLAN_KILOFED ||
           (place <= KF_MODEL_TENSOR_BYTES_MAX && lowest_gap(m, NULL, g->first, g->last, bytes, place) == place);
}
