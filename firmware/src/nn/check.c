#include "check.h"

#include <stddef.h>

kf_model_fault_t kf_check_int8(kf_node_t *node, const kf_tensor_t *t) {
    node->blame = t->index;
    if (t->type != KF_TYPE_INT8) {
        return KF_FAULT_TYPE;
    }
    if (t->scales != 1 || !kf_f32_is_scale(t->scale_f32)) {
        return KF_FAULT_QUANTIZATION;
    }
    node->blame = KF_MODEL_NONE;
    return KF_FAULT_NONE;
}

static uint32_t channel_scale(const kf_node_t *node, int32_t channel) {
    const kf_tensor_t *w = &node->in[1];
    if (w->scales == 1) {
        return w->scale_f32;
    }
    return (uint32_t)kf_le32(node->model->data + w->at_scales + 4u * (uint32_t)channel);
}

kf_requant_t kf_channel_requant(const kf_node_t *node, int32_t channel) {
    uint32_t x = node->in[0].scale_f32;
    uint32_t w = channel_scale(node, channel);
    uint32_t out = node->out.scale_f32;
    if (node->op->code == KF_BUILTIN_FULLY_CONNECTED && node->in[1].scales == 1) {
        return kf_requant_product_f32(x, w, out);
    }
    return kf_requant_product(x, w, out);
}

int32_t kf_channel_bias(const kf_node_t *node, const kf_io_t *io, int32_t channel) {
    if (node->overlay != NULL) {
        return node->overlay->bias[channel];
    }
    return io->in[2] == NULL ? 0 : kf_le32(io->in[2] + 4u * (uint32_t)channel);
}

uint32_t kf_mul_saturating(uint32_t a, uint32_t b) {
    return b != 0 && a > 0xFFFFFFFFu / b ? 0xFFFFFFFFu : a * b;
}

static kf_model_fault_t check_scales(kf_node_t *node) {
    const kf_tensor_t *w = &node->in[1];
    kf_fb_t fb = kf_model_reader(node->model);
    for (uint32_t i = 0; i < w->scales; i++) {
        uint32_t scale = channel_scale(node, (int32_t)i);
        /* A scale of 0 is what some converters give a channel of zeros: its multiplier is 0. */
        if (scale != 0 && !kf_f32_is_scale(scale)) {
            return KF_FAULT_QUANTIZATION;
        }
        if (kf_channel_requant(node, (int32_t)i).shift > 30) {
            return KF_FAULT_QUANTIZATION;
        }
        if (i == 0 || !w->one_zero_point) {
            uint32_t at = w->at_zero_points + 8 * i;
            if (kf_fb_u32(&fb, at) != 0 || kf_fb_u32(&fb, at + 4) != 0) {
                return KF_FAULT_QUANTIZATION;
            }
        }
    }
    return KF_FAULT_NONE;
}

kf_model_fault_t kf_check_weights(kf_node_t *node, int32_t channels, uint8_t dimension) {
    const kf_tensor_t *w = &node->in[1];
    const kf_tensor_t *bias = &node->in[2];
    kf_model_fault_t fault = kf_check_int8(node, &node->in[0]);
    if (fault == KF_FAULT_NONE) {
        fault = kf_check_int8(node, &node->out);
    }
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    node->blame = w->index;
    if (w->type != KF_TYPE_INT8) {
        return KF_FAULT_TYPE;
    }
    if (w->constant == NULL) {
        return KF_FAULT_BUFFER;
    }
    if (w->scales != 1 && (w->scales != channels || w->quantized_dimension != dimension)) {
        return KF_FAULT_QUANTIZATION;
    }
    fault = check_scales(node);
    if (fault != KF_FAULT_NONE) {
        return fault;
    }
    if (node->inputs == 3) {
        node->blame = bias->index;
        if (bias->type != KF_TYPE_INT32) {
            return KF_FAULT_TYPE;
        }
        if (bias->constant == NULL) {
            return KF_FAULT_BUFFER;
        }
        if (bias->elements != (uint32_t)channels) {
            return KF_FAULT_SHAPE;
        }
    }
    node->blame = KF_MODEL_NONE;
    return KF_FAULT_NONE;
}

kf_model_fault_t kf_read_range(const kf_node_t *node, uint32_t activation_field, kf_range_t *range) {
    static const uint32_t one = 0x3F800000u, minus_one = 0xBF800000u, six = 0x40C00000u;
    kf_fb_t fb = kf_model_reader(node->model);
    uint32_t activation = kf_fb_get_u8(&fb, node->options, activation_field, KF_ACT_NONE);
    uint32_t scale = node->out.scale_f32;
    int32_t zp = node->out.zp;
    range->low = -128;
    range->high = 127;
    switch (activation) {
    case KF_ACT_NONE:
        return KF_FAULT_NONE;
    case KF_ACT_RELU:
        range->low = zp;
        return KF_FAULT_NONE;
    case KF_ACT_RELU6:
        range->low = zp;
        range->high = kf_clamp(zp + kf_f32_div_round(six, scale), -128, 127);
        return KF_FAULT_NONE;
    case KF_ACT_RELU_N1_TO_1:
        range->low = kf_clamp(zp + kf_f32_div_round(minus_one, scale), -128, 127);
        range->high = kf_clamp(zp + kf_f32_div_round(one, scale), -128, 127);
        return KF_FAULT_NONE;
    default:
        return KF_FAULT_OPTIONS;
    }
}

void kf_values_walk(const kf_node_t *node, kf_walk_t *walk) {
    int image = node->out.rank == 4 && node->out.dims[0] == 1;
    for (uint32_t i = 0; i < node->inputs; i++) {
        walk->inputs = (uint8_t)(walk->inputs | 1u << i);
        image = image && node->in[i].rank == 4;
    }
    walk->pace = KF_PACE_VALUES;
    walk->reach = image;
    walk->stride = 1;
}
