#include "graph.h"

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
        if (kf_node_reads(m, (uint32_t)k, a->tensor) != 0) {
            return k;
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
        if (kf_node_writes(m, k, tensor) != 0) {
            return (int32_t)k;
        }
    }
    return (int32_t)m->ops;
}
