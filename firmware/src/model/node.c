#include "node.h"

#include <stddef.h>

#include "../nn/op.h"

kf_status_t kf_fault_status(kf_model_fault_t fault) {
    const uint32_t unsupported = 1u << KF_FAULT_COUNT | 1u << KF_FAULT_OPERATOR | 1u << KF_FAULT_TYPE |
                                 1u << KF_FAULT_OPTIONS | 1u << KF_FAULT_PLAN;
    if (fault == KF_FAULT_NONE) {
        return KF_OK;
    }
    return (unsupported >> fault & 1u) != 0 ? KF_ERR_UNSUPPORTED : KF_ERR_MODEL;
}

static uint32_t op_table(kf_fb_t *fb, const kf_model_t *m, uint32_t op) {
    return kf_fb_follow(fb, m->at_ops + 4 * op);
}

static kf_list_t read_list(const kf_model_t *m, uint32_t op, uint32_t field) {
    kf_fb_t fb = kf_model_reader(m);
    kf_list_t list;
    list.at = kf_fb_get_vector(&fb, op_table(&fb, m, op), field, 4, &list.count);
    if (fb.bad) {
        list.at = 0;
        list.count = 0;
    }
    return list;
}

kf_list_t kf_node_inputs(const kf_model_t *m, uint32_t op) {
    kf_list_t list = read_list(m, op, KF_OPERATOR_INPUTS);
    while (list.count > 0 && kf_le32(m->data + list.at + 4 * (list.count - 1)) == -1) {
        list.count--; /* trailing inputs that are left out */
    }
    return list;
}

kf_list_t kf_node_outputs(const kf_model_t *m, uint32_t op) {
    return read_list(m, op, KF_OPERATOR_OUTPUTS);
}

uint16_t kf_list_tensor(const kf_model_t *m, kf_list_t list, uint32_t i) {
    uint32_t tensor = i < list.count ? (uint32_t)kf_le32(m->data + list.at + 4 * i) : KF_MODEL_NONE;
    return (uint16_t)(tensor >= m->tensors ? KF_MODEL_NONE : tensor);
}

/* How often `tensor`, which exists, is in a list. */
static KF_NOINLINE uint32_t count_in(const kf_model_t *m, uint32_t op, uint32_t field, uint16_t tensor) {
    kf_list_t list = read_list(m, op, field);
    uint32_t count = 0;
    for (uint32_t i = 0; i < list.count; i++) {
        count += kf_list_tensor(m, list, i) == tensor ? 1u : 0u;
    }
    return count;
}

uint32_t kf_node_reads(const kf_model_t *m, uint32_t op, uint16_t tensor) {
    return count_in(m, op, KF_OPERATOR_INPUTS, tensor);
}

uint32_t kf_node_writes(const kf_model_t *m, uint32_t op, uint16_t tensor) {
    return count_in(m, op, KF_OPERATOR_OUTPUTS, tensor);
}

static uint32_t type_bytes(uint32_t type) {
    switch (type) {
    case KF_TYPE_INT8:
        return 1;
    case KF_TYPE_INT16:
        return 2;
    case KF_TYPE_FLOAT32:
    case KF_TYPE_INT32:
        return 4;
    default:
        return 0;
    }
}

/* rank, dims, elements, bytes. Every product is checked before it is formed: elements <= 2^24, so bytes <= 2^26. */
static kf_model_fault_t read_shape(kf_fb_t *fb, uint32_t table, kf_tensor_t *t) {
    uint32_t rank;
    uint32_t at = kf_fb_get_vector(fb, table, KF_TENSOR_SHAPE, 4, &rank);
    if (fb->bad) {
        return KF_FAULT_OFFSET;
    }
    if (rank > KF_MODEL_RANK_MAX) {
        return KF_FAULT_SHAPE;
    }
    t->rank = (uint8_t)rank;
    t->elements = 1;
    for (uint32_t i = 0; i < rank; i++) {
        int32_t dim = kf_fb_i32(fb, at + 4 * i);
        if (dim < 1 || (uint32_t)dim > KF_MODEL_TENSOR_BYTES_MAX / t->elements) {
            return KF_FAULT_SHAPE;
        }
        t->dims[i] = dim;
        t->elements *= (uint32_t)dim;
    }
    uint32_t bytes = type_bytes(t->type);
    if (bytes == 0) {
        return KF_FAULT_TYPE;
    }
    t->bytes = t->elements * bytes;
    return KF_FAULT_NONE;
}

static kf_model_fault_t read_constant(const kf_model_t *m, kf_fb_t *fb, uint32_t table, kf_tensor_t *t) {
    uint32_t buffer = (uint32_t)kf_fb_get_i32(fb, table, KF_TENSOR_BUFFER, 0);
    if (buffer == 0) {
        return KF_FAULT_NONE; /* buffer 0 is empty by the schema's rule */
    }
    if (buffer >= m->buffers) {
        return KF_FAULT_INDEX;
    }
    uint32_t at_buffer = kf_fb_follow(fb, m->at_buffers + 4 * buffer);
    uint32_t bytes;
    uint32_t at = kf_fb_get_vector(fb, at_buffer, KF_BUFFER_DATA, 1, &bytes);
    if (kf_fb_field(fb, at_buffer, KF_BUFFER_OFFSET) != 0) {
        return KF_FAULT_BUFFER; /* data behind the flatbuffer, for files above 2 GiB */
    }
    if (fb->bad) {
        return KF_FAULT_OFFSET;
    }
    if (bytes != 0) {
        if (bytes != t->bytes) {
            return KF_FAULT_BUFFER;
        }
        t->constant = m->data + at;
    }
    return KF_FAULT_NONE;
}

/* Zero points are int64 in the file; what is needed of them fits in one byte. */
static kf_model_fault_t read_zero_points(kf_fb_t *fb, uint32_t quantization, kf_tensor_t *t) {
    uint32_t count;
    t->at_zero_points = kf_fb_get_vector(fb, quantization, KF_QUANT_ZERO_POINT, 8, &count);
    if (t->type != KF_TYPE_INT8 || t->scales == 0) {
        return KF_FAULT_NONE;
    }
    if (count != t->scales && count != 1) {
        return KF_FAULT_QUANTIZATION;
    }
    t->one_zero_point = count == 1;
    int32_t low = kf_fb_i32(fb, t->at_zero_points);
    if (low < -128 || low > 127 || kf_fb_i32(fb, t->at_zero_points + 4) != (low < 0 ? -1 : 0)) {
        return KF_FAULT_QUANTIZATION;
    }
    t->zp = (int16_t)low;
    return KF_FAULT_NONE;
}

static kf_model_fault_t read_quantization(kf_fb_t *fb, uint32_t table, kf_tensor_t *t) {
    uint32_t quantization = kf_fb_get_table(fb, table, KF_TENSOR_QUANTIZATION);
    if (quantization == 0) {
        return KF_FAULT_NONE;
    }
    uint32_t count;
    t->at_scales = kf_fb_get_vector(fb, quantization, KF_QUANT_SCALE, 4, &count);
    if (kf_fb_get_u8(fb, quantization, KF_QUANT_DETAILS_TYPE, 0) != 0) {
        return KF_FAULT_QUANTIZATION;
    }
    int32_t dimension = kf_fb_get_i32(fb, quantization, KF_QUANT_DIMENSION, 0);
    if (count > 0xFFFFu || dimension < 0 || dimension >= KF_MODEL_RANK_MAX) {
        return KF_FAULT_QUANTIZATION;
    }
    t->quantized_dimension = (uint8_t)dimension;
    t->scales = (uint16_t)count;
    if (count != 0) {
        t->scale_f32 = kf_fb_u32(fb, t->at_scales);
    }
    return read_zero_points(fb, quantization, t);
}

kf_model_fault_t kf_tensor_read(const kf_model_t *m, uint32_t index, kf_tensor_t *t) {
    static const kf_tensor_t empty = {.dims = {1, 1, 1, 1, 1}, .index = KF_MODEL_NONE};
    *t = empty;
    if (index >= m->tensors) {
        return KF_FAULT_INDEX;
    }
    t->index = (uint16_t)index;
    kf_fb_t fb = kf_model_reader(m);
    uint32_t table = kf_fb_follow(&fb, m->at_tensors + 4 * index);
    t->type = (uint8_t)kf_fb_get_u8(&fb, table, KF_TENSOR_TYPE, 0);
    t->variable = kf_fb_get_u8(&fb, table, KF_TENSOR_VARIABLE, 0) != 0;
    if (kf_fb_field(&fb, table, KF_TENSOR_SPARSITY) != 0) {
        return KF_FAULT_TYPE;
    }
    kf_model_fault_t fault = read_shape(&fb, table, t);
    if (fault == KF_FAULT_NONE) {
        fault = read_constant(m, &fb, table, t);
    }
    if (fault == KF_FAULT_NONE) {
        fault = read_quantization(&fb, table, t);
    }
    return fb.bad ? KF_FAULT_OFFSET : fault;
}

static kf_model_fault_t read_code(const kf_model_t *m, kf_fb_t *fb, uint32_t table, uint32_t *code) {
    uint32_t index = (uint32_t)kf_fb_get_i32(fb, table, KF_OPERATOR_CODE, 0);
    if (index >= m->opcodes) {
        return KF_FAULT_INDEX;
    }
    uint32_t at = kf_fb_follow(fb, m->at_opcodes + 4 * index);
    uint32_t old_code = kf_fb_get_u8(fb, at, KF_OPCODE_OLD, 0);
    uint32_t new_code = (uint32_t)kf_fb_get_i32(fb, at, KF_OPCODE_NEW, 0);
    *code = new_code > old_code ? new_code : old_code; /* the schema's rule: the larger of the two */
    return fb->bad ? KF_FAULT_OFFSET : KF_FAULT_NONE;
}

uint16_t kf_node_state(const kf_model_t *m, uint32_t op) {
    if (!m->states) {
        return KF_MODEL_NONE; /* most questions end here */
    }
    kf_list_t inputs = kf_node_inputs(m, op);
    kf_fb_t fb = kf_model_reader(m);
    uint32_t code;
    if (read_code(m, &fb, op_table(&fb, m, op), &code) != KF_FAULT_NONE) {
        return KF_MODEL_NONE;
    }
    const kf_op_line_t *line = kf_op_find(code);
    return line == NULL || line->state == 0 ? KF_MODEL_NONE : kf_list_tensor(m, inputs, line->state);
}

kf_model_fault_t kf_node_input_read(const kf_node_t *node, uint32_t i, kf_tensor_t *t) {
    if (i < KF_NODE_INPUTS) {
        *t = node->in[i];
        return KF_FAULT_NONE;
    }
    return kf_tensor_read(node->model, kf_list_tensor(node->model, kf_node_inputs(node->model, node->index), i), t);
}

kf_model_fault_t kf_node_output_read(const kf_node_t *node, uint32_t i, kf_tensor_t *t) {
    if (i == 0) {
        *t = node->out;
        return KF_FAULT_NONE;
    }
    return kf_tensor_read(node->model, kf_list_tensor(node->model, kf_node_outputs(node->model, node->index), i), t);
}

static kf_model_fault_t read_ends(const kf_model_t *m, const kf_op_line_t *line, kf_node_t *node) {
    kf_list_t inputs = kf_node_inputs(m, node->index);
    kf_list_t outputs = kf_node_outputs(m, node->index);
    if (inputs.count < 1 || inputs.count > line->inputs || outputs.count < 1 || outputs.count > line->outputs) {
        return KF_FAULT_COUNT;
    }
    node->inputs = (uint8_t)inputs.count;
    node->outputs = (uint8_t)outputs.count;
    node->state = line->state;
    for (uint32_t i = 0; i < KF_NODE_INPUTS; i++) {
        node->in[i].index = KF_MODEL_NONE;
        node->in[i].constant = NULL;
        if (i < inputs.count) {
            node->blame = kf_list_tensor(m, inputs, i);
            kf_model_fault_t fault = kf_tensor_read(m, node->blame, &node->in[i]);
            if (fault != KF_FAULT_NONE) {
                return fault;
            }
        }
    }
    node->blame = kf_list_tensor(m, outputs, 0);
    return kf_tensor_read(m, node->blame, &node->out);
}

/* The overlay moves the quantization of the logits: at the head's output, and at the input of what reads them. */
static void apply_overlay(const kf_model_t *m, const kf_head_overlay_t *overlay, kf_node_t *node) {
    if (overlay == NULL || m->head.op == KF_MODEL_NONE || node->index < m->head.op) {
        return;
    }
    kf_tensor_t *logits = &node->in[0];
    if (node->index == m->head.op) {
        node->overlay = overlay;
        node->in[1].scale_f32 = overlay->w_scale_f32;
        logits = &node->out;
    }
    if (logits->index == m->head.output) {
        logits->scale_f32 = overlay->out_scale_f32;
        logits->zp = (int16_t)overlay->out_zp;
    }
}

kf_model_fault_t kf_node_read(const kf_model_t *m, uint16_t index, const kf_head_overlay_t *overlay, kf_node_t *node) {
    kf_fb_t fb = kf_model_reader(m);
    uint32_t table = op_table(&fb, m, index);
    node->model = m;
    node->overlay = NULL;
    node->index = index;
    node->blame = KF_MODEL_NONE;
    uint32_t code = 0;
    kf_model_fault_t fault = read_code(m, &fb, table, &code);
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    const kf_op_line_t *line = kf_op_find(code);
    if (line == NULL) {
        return KF_FAULT_OPERATOR;
    }
    node->op = line->op;
    uint32_t options_type = kf_fb_get_u8(&fb, table, KF_OPERATOR_OPTIONS_TYPE, KF_OPTIONS_NONE);
    node->options = 0;
    if (node->op->options_type != KF_OPTIONS_NONE && options_type != KF_OPTIONS_NONE) {
        if (options_type != node->op->options_type) {
            return KF_FAULT_OPTIONS;
        }
        node->options = kf_fb_get_table(&fb, table, KF_OPERATOR_OPTIONS);
    }
    fault = read_ends(m, line, node);
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    if (fb.bad) {
        return KF_FAULT_OFFSET;
    }
    node->blame = KF_MODEL_NONE;
    apply_overlay(m, overlay, node);
    return KF_FAULT_NONE;
}
