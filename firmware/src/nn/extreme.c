/* MAXIMUM and MINIMUM of two int8 tensors of one quantization, with broadcasting. A slice is one output value. */
#include "layout.h"
#include "pair.h"

static kf_model_fault_t check(kf_node_t *node) {
    kf_model_fault_t fault = kf_pair_check(node);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_moved(node, &node->in[0], &node->out);
    }
    return fault != KF_FAULT_NONE ? fault : kf_check_moved(node, &node->in[1], &node->out);
}

static void work(const kf_node_t *node, kf_work_t *work) {
    kf_pair_work(node, work, 3);
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    const int greater = node->op->code == KF_BUILTIN_MAXIMUM;
    kf_pair_t p;
    kf_pair_begin(node, first, &p);
    for (uint32_t i = first; i < first + count; i++) {
        const uint8_t a = io->in[0][p.a];
        const uint8_t b = io->in[1][p.b];
        io->out[i] = ((int8_t)a > (int8_t)b) == greater ? a : b;
        kf_pair_next(&p);
    }
}

const kf_op_t kf_op_maximum = {KF_BUILTIN_MAXIMUM, KF_OPTIONS_NONE, check, work, run};
const kf_op_t kf_op_minimum = {KF_BUILTIN_MINIMUM, KF_OPTIONS_NONE, check, work, run};
