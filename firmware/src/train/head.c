/* Shapes: weights (C, F), bias (C). */
#include <string.h>

#include "../bytes.h"
#include "codec.h"
#include "fixed.h"
#include "kilofed/params.h"
#include "logit.h"

enum { KIND_HEAD = 1 };

/* ---- the master ------------------------------------------------------------------------------------------------ */

size_t kf_params_bytes(uint16_t classes, uint16_t features) {
    return counts_are_valid(classes, features) ? 4u * ((size_t)weight_count(classes, features) + classes) : 0;
}

kf_status_t kf_params_init(kf_params_t *params, uint16_t classes, uint16_t features, void *mem, size_t mem_bytes) {
    if (params == NULL) {
        return KF_ERR_ARG;
    }
    memset(params, 0, sizeof *params);
    const size_t need = kf_params_bytes(classes, features);
    if (mem == NULL || (uintptr_t)mem % 4u != 0 || need == 0) {
        return KF_ERR_ARG;
    }
    if (mem_bytes < need) {
        return KF_ERR_MEMORY;
    }
    memset(mem, 0, need);
    params->weights = mem;
    params->bias = params->weights + weight_count(classes, features);
    params->classes = classes;
    params->features = features;
    return KF_OK;
}

/* ---- reading --------------------------------------------------------------------------------------------------- */

static size_t bias_offset(uint8_t codec, uint16_t classes, uint16_t features) {
    const size_t weights = kf_codec_bytes(codec, weight_count(classes, features));
    return KF_BLOB_HEADER_BYTES + ((weights + 3u) & ~(size_t)3u);
}

size_t kf_head_bytes(kf_codec_t codec, uint16_t classes, uint16_t features) {
    if (!counts_are_valid(classes, features) || (unsigned)codec > (unsigned)KF_CODEC_INT4) {
        return 0;
    }
    return bias_offset((uint8_t)codec, classes, features) + 4u * (size_t)classes;
}

static int is_positive_normal(uint32_t float_bits) {
    const uint32_t exponent = float_bits >> 23; /* with the sign on top */
    return exponent >= 1 && exponent <= 254;
}

kf_status_t kf_head_parse(kf_head_view_t *view, const uint8_t *blob, size_t blob_bytes) {
    if (view == NULL) {
        return KF_ERR_ARG;
    }
    memset(view, 0, sizeof *view);
    if (blob == NULL || blob_bytes < KF_BLOB_HEADER_BYTES) {
        return KF_ERR_BLOB;
    }
    const uint8_t codec = blob[2];
    const uint16_t classes = kf_get_u16(blob + 4), features = kf_get_u16(blob + 6);
    const uint32_t step = kf_get_u32(blob + 8), out_scale_bits = kf_get_u32(blob + 12);
    if (blob[0] != KF_BLOB_VERSION || blob[1] != KIND_HEAD || codec > KF_CODEC_INT4 || !counts_are_valid(classes, features)
        || blob_bytes != kf_head_bytes((kf_codec_t)codec, classes, features)) {
        return KF_ERR_BLOB;
    }
    if (step == 0 || step > KF_HEAD_STEP_MAX || !is_positive_normal(out_scale_bits)) {
        return KF_ERR_BLOB;
    }

    const uint8_t *weights = blob + KF_BLOB_HEADER_BYTES, *bias = blob + bias_offset(codec, classes, features);
    const uint32_t n = weight_count(classes, features);
    if (!kf_codec_is_canonical(codec, weights, n)) {
        return KF_ERR_BLOB;
    }
    for (const uint8_t *pad = weights + kf_codec_bytes(codec, n); pad < bias; pad++) {
        if (*pad != 0) {
            return KF_ERR_BLOB;
        }
    }
    view->weights = weights;
    view->bias = bias;
    view->step = step;
    view->out_scale_bits = out_scale_bits;
    view->classes = classes;
    view->features = features;
    view->codec = codec;
    view->out_zp = (int8_t)((int32_t)(blob[3] ^ 0x80u) - 128);
    return KF_OK;
}

int32_t kf_head_weight(const kf_head_view_t *view, uint32_t c, uint32_t f) {
    const int32_t q = kf_codec_get(view->codec, view->weights, c * view->features + f);
    if (view->codec == KF_CODEC_INT32) {
        return clamp64((int64_t)q * view->step, KF_WEIGHT_MAX);
    }
    return clamp32(q * (int32_t)view->step, KF_WEIGHT_MAX); /* 128 * 2^23 = 2^30 */
}

int32_t kf_head_bias(const kf_head_view_t *view, uint32_t c) {
    return clamp64((int64_t)kf_get_i32(view->bias + 4u * (size_t)c) * view->step, KF_BIAS_MAX);
}

kf_status_t kf_head_load(const kf_head_view_t *view, kf_params_t *params) {
    if (view == NULL || view->weights == NULL || params == NULL || params->weights == NULL) {
        return KF_ERR_ARG;
    }
    if (view->classes != params->classes || view->features != params->features) {
        return KF_ERR_SHAPE;
    }
    for (uint32_t c = 0; c < params->classes; c++) {
        int32_t *row = params->weights + (size_t)c * params->features;
        for (uint32_t f = 0; f < params->features; f++) {
            row[f] = kf_head_weight(view, c, f);
        }
        params->bias[c] = kf_head_bias(view, c);
    }
    return KF_OK;
}

kf_status_t kf_head_expand(const kf_head_view_t *view, int8_t *weights, size_t weights_bytes) {
    if (view == NULL || view->weights == NULL || weights == NULL) {
        return KF_ERR_ARG;
    }
    if (view->codec == KF_CODEC_INT32) {
        return KF_ERR_UNSUPPORTED;
    }
    const uint32_t n = weight_count(view->classes, view->features);
    if (weights_bytes < n) {
        return KF_ERR_MEMORY;
    }
    for (uint32_t i = 0; i < n; i++) {
        weights[i] = (int8_t)kf_codec_get(view->codec, view->weights, i);
    }
    return KF_OK;
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

/* binary32 of the smallest 2^e, e >= -12, with 127 * 2^e >= 1.25 * peak * 2^-12. For peak <= 2^31 e is at most 13 and both
 * sides of the comparison fit uint32. */
static uint32_t out_scale_for(uint32_t peak_q12) {
    const uint32_t peak = peak_q12 > UINT32_C(1) << 31 ? UINT32_C(1) << 31 : peak_q12;
    const uint32_t reach = peak + (peak + 3u) / 4u;
    uint32_t e = 0;
    while (UINT32_C(127) << e < reach) {
        e++;
    }
    return (127u - 12u + e) << 23;
}

kf_status_t kf_head_encode(const kf_params_t *params, uint32_t peak_q12, uint8_t *blob, size_t blob_bytes) {
    if (params == NULL || params->weights == NULL || blob == NULL) {
        return KF_ERR_ARG;
    }
    const size_t need = kf_head_bytes(KF_CODEC_INT8, params->classes, params->features);
    if (blob_bytes < need) {
        return KF_ERR_MEMORY;
    }
    const uint32_t n = weight_count(params->classes, params->features);
    const uint32_t step = step_for(kf_largest_weight(params), 127);

    memset(blob, 0, need);
    blob[0] = KF_BLOB_VERSION;
    blob[1] = KIND_HEAD;
    blob[2] = KF_CODEC_INT8;
    kf_put_u16(blob + 4, params->classes);
    kf_put_u16(blob + 6, params->features);
    kf_put_u32(blob + 8, step);
    kf_put_u32(blob + 12, out_scale_for(peak_q12));
    for (uint32_t i = 0; i < n; i++) {
        blob[KF_BLOB_HEADER_BYTES + i] = (uint8_t)divide_rounded(params->weights[i], step);
    }
    uint8_t *bias = blob + bias_offset(KF_CODEC_INT8, params->classes, params->features);
    for (uint32_t c = 0; c < params->classes; c++) {
        kf_put_u32(bias + 4u * (size_t)c, (uint32_t)divide_rounded(params->bias[c], step));
    }
    return KF_OK;
}
