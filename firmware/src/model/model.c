/* kf_model_open(): the one place where a file is judged. */
#include "kilofed/model.h"

#include <stddef.h>
#include <string.h>

#include "../nn/op.h"
#include "graph.h"
#include "node.h"
#include "plan.h"

enum { IDENTIFIER = 0x334C4654 }; /* "TFL3" */
enum { HEAD_CLASSES_MIN = 2, HEAD_CLASSES_MAX = 1024, HEAD_FEATURES_MAX = 2048 };

static kf_model_fault_t read_subgraph(kf_model_t *m, kf_fb_t *fb, uint32_t model) {
    uint32_t count;
    uint32_t at = kf_fb_get_vector(fb, model, KF_MODEL_SUBGRAPHS, 4, &count);
    if (fb->bad || count != 1) {
        return KF_FAULT_COUNT;
    }
    uint32_t graph = kf_fb_follow(fb, at);
    uint32_t tensors;
    uint32_t ops;
    m->at_tensors = kf_fb_get_vector(fb, graph, KF_SUBGRAPH_TENSORS, 4, &tensors);
    m->at_ops = kf_fb_get_vector(fb, graph, KF_SUBGRAPH_OPS, 4, &ops);
    if (fb->bad || tensors == 0 || tensors > KF_MODEL_TENSORS_MAX || ops == 0 || ops > KF_MODEL_OPS_MAX) {
        return KF_FAULT_COUNT;
    }
    m->tensors = (uint16_t)tensors;
    m->ops = (uint16_t)ops;
    uint32_t inputs;
    uint32_t outputs;
    uint32_t at_inputs = kf_fb_get_vector(fb, graph, KF_SUBGRAPH_INPUTS, 4, &inputs);
    uint32_t at_outputs = kf_fb_get_vector(fb, graph, KF_SUBGRAPH_OUTPUTS, 4, &outputs);
    if (fb->bad || inputs != 1 || outputs != 1) {
        return KF_FAULT_COUNT;
    }
    uint32_t input = kf_fb_u32(fb, at_inputs);
    uint32_t output = kf_fb_u32(fb, at_outputs);
    if (input >= tensors || output >= tensors || input == output) {
        return KF_FAULT_INDEX;
    }
    m->input = (uint16_t)input;
    m->output = (uint16_t)output;
    return KF_FAULT_NONE;
}

static KF_NOINLINE kf_model_fault_t read_file(kf_model_t *m) {
    kf_fb_t fb = kf_model_reader(m);
    if (m->size < 8 || m->size > 0x7FFFFFFFu || kf_fb_u32(&fb, 4) != IDENTIFIER) {
        return KF_FAULT_FILE;
    }
    uint32_t model = kf_fb_follow(&fb, 0);
    if (kf_fb_get_i32(&fb, model, KF_MODEL_VERSION, 0) != 3) {
        return KF_FAULT_FILE;
    }
    m->at_opcodes = kf_fb_get_vector(&fb, model, KF_MODEL_OPCODES, 4, &m->opcodes);
    m->at_buffers = kf_fb_get_vector(&fb, model, KF_MODEL_BUFFERS, 4, &m->buffers);
    kf_model_fault_t fault = read_subgraph(m, &fb, model);
    return fb.bad ? KF_FAULT_OFFSET : fault;
}

/* As many tensors in all operators' lists as bound the time of every question about the graph. */
static KF_NOINLINE kf_model_fault_t check_size(kf_model_t *m) {
    uint32_t reads = 0;
    uint32_t activations = 1;
    for (uint16_t op = 0; op < m->ops; op++) {
        uint32_t inputs = kf_node_inputs(m, op).count;
        uint32_t outputs = kf_node_outputs(m, op).count;
        if (inputs > KF_MODEL_READS_MAX - reads || outputs > KF_MODEL_ACTIVATIONS_MAX - activations) {
            m->error_op = op;
            return KF_FAULT_COUNT;
        }
        reads += inputs;
        activations += outputs;
    }
    return KF_FAULT_NONE;
}

/* An input or output of the whole model: an activation of int8 or float32. */
static KF_NOINLINE kf_model_fault_t check_end(kf_model_t *m, uint16_t tensor, uint32_t *bytes, uint8_t *type) {
    kf_tensor_t t;
    m->error_tensor = tensor;
    kf_model_fault_t fault = kf_tensor_read(m, tensor, &t);
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    if (t.constant != NULL) {
        return KF_FAULT_BUFFER;
    }
    if (t.variable || (t.type != KF_TYPE_INT8 && t.type != KF_TYPE_FLOAT32)) {
        return KF_FAULT_TYPE;
    }
    *bytes = t.bytes;
    *type = t.type;
    m->error_tensor = KF_MODEL_NONE;
    return KF_FAULT_NONE;
}

/* How often any operator, or the model, reads or writes a tensor. */
static uint32_t uses(const kf_model_t *m, uint16_t tensor) {
    uint32_t count = tensor == m->input || tensor == m->output;
    for (uint32_t op = 0; op < m->ops; op++) {
        count += kf_node_reads(m, op, tensor) + kf_node_writes(m, op, tensor);
    }
    return count;
}

/* Everything an operator reads is constant or was written before; a state is its own and nobody else's. */
static KF_NOINLINE kf_model_fault_t check_inputs(const kf_model_t *m, kf_node_t *node) {
    kf_list_t inputs = kf_node_inputs(m, node->index);
    for (uint32_t i = 0; i < node->inputs; i++) {
        kf_tensor_t t;
        if (i >= KF_NODE_INPUTS && kf_le32(m->data + inputs.at + 4 * i) == -1) {
            continue; /* left out: the operator judges whether it may be */
        }
        node->blame = kf_list_tensor(m, inputs, i);
        kf_model_fault_t fault = kf_node_input_read(node, i, &t);
        if (fault != KF_FAULT_NONE) {
            return fault;
        }
        if (t.variable) {
            if (node->state == 0 || i != node->state) {
                return KF_FAULT_TYPE;
            }
            if (t.constant != NULL || uses(m, t.index) != 1) {
                return KF_FAULT_ORDER;
            }
        } else if (i == node->state && i != 0) {
            return KF_FAULT_TYPE;
        } else if (t.constant == NULL && kf_graph_written(m, t.index, node->index) >= (int32_t)node->index) {
            return KF_FAULT_ORDER;
        }
    }
    return KF_FAULT_NONE;
}

/* What an operator writes is new. */
static KF_NOINLINE kf_model_fault_t check_outputs(const kf_model_t *m, kf_node_t *node) {
    kf_list_t outputs = kf_node_outputs(m, node->index);
    for (uint32_t i = 0; i < node->outputs; i++) {
        kf_tensor_t t;
        node->blame = kf_list_tensor(m, outputs, i);
        kf_model_fault_t fault = kf_node_output_read(node, i, &t);
        if (fault != KF_FAULT_NONE) {
            return fault;
        }
        if (t.variable) {
            return KF_FAULT_TYPE;
        }
        if (t.constant != NULL || kf_graph_written(m, t.index, node->index) < (int32_t)m->ops) {
            return KF_FAULT_ORDER;
        }
        for (uint32_t k = 0; k < i; k++) {
            if (kf_list_tensor(m, outputs, k) == t.index) {
                return KF_FAULT_ORDER;
            }
        }
    }
    node->blame = KF_MODEL_NONE;
    return KF_FAULT_NONE;
}

static KF_NOINLINE kf_model_fault_t check_op(kf_model_t *m, uint16_t op) {
    kf_node_t node;
    kf_model_fault_t fault = kf_node_read(m, op, NULL, &node);
    if (fault == KF_FAULT_NONE) {
        fault = check_inputs(m, &node);
    }
    if (fault == KF_FAULT_NONE) {
        fault = check_outputs(m, &node);
    }
    if (fault == KF_FAULT_NONE) {
        m->states |= node.state != 0;
        fault = node.op->check(&node);
    }
    if (fault != KF_FAULT_NONE) {
        m->error_op = op;
        m->error_tensor = node.blame;
    }
    return fault;
}

/* Arena and plan: activations, and the scratch of operators and groups where the plan has it, else in the lowest gaps.
 * KF_FAULT_PLAN when it is not free there. */
static kf_model_fault_t set_arena(kf_model_t *m, const uint16_t *own) {
    uint32_t end = kf_plan_end(m, own);
    for (uint32_t op = 0; op < m->ops;) {
        kf_group_t g = kf_group_of(m, op);
        uint32_t bytes = kf_group_scratch(m, &g);
        if (bytes != 0) {
            if (!kf_plan_scratch_holds(m, &g, bytes)) {
                return KF_FAULT_PLAN;
            }
            bytes += kf_plan_scratch(m, own, &g, bytes);
            end = bytes > end ? bytes : end;
        }
        op = (uint32_t)g.last + 1u;
    }
    m->tensor_bytes = (end + 3u) & ~3u;
    m->arena_bytes = m->tensor_bytes + (own == NULL ? 0 : kf_plan_table_bytes(m));
    return KF_FAULT_NONE;
}

/* Without a plan in the file (or with one that contradicts the graph): the device's own. */
static KF_NOINLINE kf_model_fault_t own_plan(kf_model_t *m) {
    uint16_t own[KF_MODEL_OWN_PLAN_MAX];
    if (kf_graph_count(m) > KF_MODEL_OWN_PLAN_MAX) {
        return KF_FAULT_PLAN;
    }
    kf_model_fault_t fault = kf_plan_make(m, own);
    return fault == KF_FAULT_NONE ? set_arena(m, own) : fault;
}

static kf_model_fault_t plan_memory(kf_model_t *m) {
    kf_plan_find(m);
    if (m->plan_from_file != KF_PLAN_OWN) {
        if (kf_plan_check(m) == KF_FAULT_NONE && set_arena(m, NULL) == KF_FAULT_NONE) {
            return KF_FAULT_NONE;
        }
        m->plan_from_file = KF_PLAN_OWN;
    }
    return own_plan(m);
}

/* Last FULLY_CONNECTED of the model, or KF_MODEL_NONE. Nothing but one SOFTMAX may follow it. */
static uint16_t find_head(const kf_model_t *m, kf_node_t *node) {
    for (uint32_t left = m->ops; left > 0; left--) {
        uint16_t op = (uint16_t)(left - 1);
        if (kf_node_read(m, op, NULL, node) != KF_FAULT_NONE) {
            break;
        }
        if (node->op->code == KF_BUILTIN_FULLY_CONNECTED) {
            return op;
        }
        if (node->op->code != KF_BUILTIN_SOFTMAX || left != m->ops) {
            break;
        }
    }
    return KF_MODEL_NONE;
}

static KF_NOINLINE void read_head(kf_model_t *m) {
    kf_node_t node;
    uint16_t op = find_head(m, &node);
    if (op == KF_MODEL_NONE) {
        return;
    }
    const kf_tensor_t *x = &node.in[0];
    const kf_tensor_t *w = &node.in[1];
    const kf_tensor_t *bias = &node.in[2];
    kf_fb_t fb = kf_model_reader(m);
    if (node.inputs != 3 || w->scales != 1 || kf_fb_get_u8(&fb, node.options, KF_FC_ACTIVATION, KF_ACT_NONE) != KF_ACT_NONE ||
        x->constant != NULL || x->elements != (uint32_t)w->dims[1] || node.out.elements != (uint32_t)w->dims[0] ||
        w->dims[0] < HEAD_CLASSES_MIN || w->dims[0] > HEAD_CLASSES_MAX || w->dims[1] > HEAD_FEATURES_MAX) {
        return;
    }
    m->head.op = op;
    m->head.input = x->index;
    m->head.output = node.out.index;
    m->head.classes = (uint16_t)w->dims[0];
    m->head.features = (uint16_t)w->dims[1];
    m->head.x_zp = x->zp;
    m->head.x_scale_f32 = x->scale_f32;
    m->head.weights_at = (uint32_t)(w->constant - m->data);
    m->head.bias_at = (uint32_t)(bias->constant - m->data);
    m->head.w_scale_f32 = w->scale_f32;
    m->head.out_scale_f32 = node.out.scale_f32;
    m->head.out_zp = node.out.zp;
}

static kf_model_fault_t open_model(kf_model_t *m) {
    kf_model_fault_t fault = read_file(m);
    if (fault == KF_FAULT_NONE) {
        fault = check_size(m);
    }
    if (fault == KF_FAULT_NONE) {
        fault = check_end(m, m->input, &m->input_bytes, &m->input_type);
    }
    if (fault == KF_FAULT_NONE) {
        fault = check_end(m, m->output, &m->output_bytes, &m->output_type);
    }
    for (uint16_t op = 0; op < m->ops && fault == KF_FAULT_NONE; op++) {
        fault = check_op(m, op);
    }
    if (fault == KF_FAULT_NONE && kf_graph_written(m, m->output, m->ops) >= (int32_t)m->ops) {
        m->error_tensor = m->output;
        fault = KF_FAULT_ORDER;
    }
    if (fault == KF_FAULT_NONE) {
        fault = plan_memory(m);
    }
    if (fault == KF_FAULT_NONE) {
        read_head(m);
    }
    return fault;
}

kf_status_t kf_model_open(kf_model_t *m, const uint8_t *data, uint32_t size) {
    if (m == NULL || data == NULL) {
        return KF_ERR_ARG;
    }
    memset(m, 0, sizeof *m);
    m->data = data;
    m->size = size;
    m->head.op = KF_MODEL_NONE;
    m->error_op = KF_MODEL_NONE;
    m->error_tensor = KF_MODEL_NONE;
    kf_model_fault_t fault = open_model(m);
    m->fault = (uint8_t)fault;
    if (fault != KF_FAULT_NONE) {
        m->arena_bytes = 0;
        m->ops = 0;
    }
    return kf_fault_status(fault);
}

kf_status_t kf_model_need_head(const kf_model_t *m) {
    if (m == NULL || m->ops == 0) {
        return KF_ERR_ARG;
    }
    return m->head.op == KF_MODEL_NONE ? KF_ERR_HEAD : KF_OK;
}
