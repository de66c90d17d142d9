/* RESHAPE, SQUEEZE, EXPAND_DIMS: the same bytes under another shape. Where the plan gives input and output one place, nothing
 * is moved. The shape is the output tensor's own; the operator's second input repeats it and is not read. */
#include <stddef.h>
#include <string.h>

#include "op.h"

static kf_model_fault_t check(kf_node_t *node) {
    if (node->inputs > 2) {
        return KF_FAULT_COUNT;
    }
    node->blame = node->out.index;
    if (node->in[0].type != node->out.type) {
        return KF_FAULT_TYPE;
    }
    if (node->in[0].elements != node->out.elements) {
        return KF_FAULT_SHAPE;
    }
    if (node->inputs == 2 && node->in[1].constant == NULL) {
        node->blame = node->in[1].index;
        return KF_FAULT_BUFFER; /* a shape computed at run time */
    }
    node->blame = KF_MODEL_NONE;
    return KF_FAULT_NONE;
}

static void work(const kf_node_t *node, kf_work_t *work) {
    work->slices = 1;
    work->in_place = 1;
    work->macs = node->out.bytes / 4;
}

static void run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count) {
    (void)first;
    (void)count;
    if (io->out != io->in[0]) {
        memcpy(io->out, io->in[0], node->out.bytes);
    }
}

const kf_op_t kf_op_reshape = {KF_BUILTIN_RESHAPE, KF_OPTIONS_NONE, check, work, run};
const kf_op_t kf_op_squeeze = {KF_BUILTIN_SQUEEZE, KF_OPTIONS_NONE, check, work, run};
const kf_op_t kf_op_expand_dims = {KF_BUILTIN_EXPAND_DIMS, KF_OPTIONS_NONE, check, work, run};
