/* Shapes: weights (C, F), bias (C). v = master - base + residual is never stored: each pass computes it anew. */
#include <string.h>

#include "../bytes.h"
#include "codec.h"
#include "fixed.h"
#include "kilofed/params.h"

enum { KIND_UPDATE = 2 };
enum { IDLE, SCAN, SCAN_ABOVE, PACK, DONE };

static const uint32_t STEP_W_MAX = UINT32_C(1) << 25; /* |v| < 2^24 + 2^15 for a weight */
static const uint32_t STEP_B_MAX = UINT32_C(1) << 30;

/* ---- the residual ---------------------------------------------------------------------------------------------- */

size_t kf_residual_bytes(uint16_t classes, uint16_t features) {
    return counts_are_valid(classes, features) ? 4u * (size_t)classes + 2u * (size_t)weight_count(classes, features) : 0;
}

kf_status_t kf_residual_init(kf_residual_t *residual, uint16_t classes, uint16_t features, void *mem, size_t mem_bytes) {
    if (residual == NULL) {
        return KF_ERR_ARG;
    }
    memset(residual, 0, sizeof *residual);
    const size_t need = kf_residual_bytes(classes, features);
    if (mem == NULL || (uintptr_t)mem % 4u != 0 || need == 0) {
        return KF_ERR_ARG;
    }
    if (mem_bytes < need) {
        return KF_ERR_MEMORY;
    }
    residual->bias = mem;
    residual->weights = (int16_t *)(residual->bias + classes);
    residual->classes = classes;
    residual->features = features;
    return KF_OK;
}

void kf_residual_clear(kf_residual_t *residual) {
    memset(residual->bias, 0, kf_residual_bytes(residual->classes, residual->features));
}

/* ---- v --------------------------------------------------------------------------------------------------------- */

/* |v| <= 2 * KF_WEIGHT_MAX + 2^15 < 2^24 + 2^15. */
static int32_t weight_change(const kf_params_t *params, const kf_head_view_t *base, const kf_residual_t *residual, uint32_t c,
                             uint32_t f) {
    const size_t i = (size_t)c * params->features + f;
    const int32_t v = params->weights[i] - kf_head_weight(base, c, f);
    return residual == NULL ? v : v + residual->weights[i];
}

/* Clamped to +-2^30, a change of 1024 nats. */
static int32_t bias_change(const kf_params_t *params, const kf_head_view_t *base, const kf_residual_t *residual, uint32_t c) {
    const int64_t v = (int64_t)params->bias[c] - kf_head_bias(base, c);
    return clamp64(residual == NULL ? v : v + residual->bias[c], KF_BIAS_MAX);
}

/* Weights are numbered i = c * features + f in the passes; carry c and f along instead of dividing. */
typedef struct position {
    uint32_t c, f;
} position_t;

static position_t position_of(uint32_t i, uint32_t features) {
    return (position_t){i / features, i % features};
}

static void advance(position_t *at, uint32_t features) {
    if (++at->f == features) {
        at->f = 0;
        at->c++;
    }
}

/* ---- encoding -------------------------------------------------------------------------------------------------- */

static size_t bias_bytes(uint8_t codec, uint16_t classes) {
    return codec == KF_CODEC_INT32 ? 4u * (size_t)classes : classes;
}

size_t kf_update_bytes(kf_codec_t codec, uint16_t classes, uint16_t features) {
    if (!counts_are_valid(classes, features) || (unsigned)codec > (unsigned)KF_CODEC_TERNARY) {
        return 0;
    }
    return KF_BLOB_HEADER_BYTES + (size_t)kf_codec_bytes((uint8_t)codec, weight_count(classes, features))
           + bias_bytes((uint8_t)codec, classes);
}

kf_status_t kf_update_begin(kf_update_t *u, kf_codec_t codec, const kf_params_t *params, const kf_head_view_t *base,
                            const kf_residual_t *residual, uint8_t *blob, size_t blob_bytes) {
    if (u == NULL) {
        return KF_ERR_ARG;
    }
    memset(u, 0, sizeof *u);
    if ((unsigned)codec > (unsigned)KF_CODEC_TERNARY || params == NULL || params->weights == NULL || base == NULL
        || base->weights == NULL || blob == NULL) {
        return KF_ERR_ARG;
    }
    if (base->classes != params->classes || base->features != params->features
        || (residual != NULL && (residual->classes != params->classes || residual->features != params->features))) {
        return KF_ERR_SHAPE;
    }
    const size_t need = kf_update_bytes(codec, params->classes, params->features);
    if (need == 0) {
        return KF_ERR_ARG;
    }
    if (blob_bytes < need) {
        return KF_ERR_MEMORY;
    }
    u->params = params;
    u->base = base;
    u->residual = residual;
    u->blob = blob;
    u->codec = (uint8_t)codec;
    u->phase = SCAN;
    return KF_OK;
}

/* Look at up to `budget` weights: the largest |v| and, while `threshold` says which, the sum and count above it. */
static uint32_t scan(kf_update_t *u, uint32_t budget, uint32_t n) {
    const uint32_t features = u->params->features;
    const uint32_t end = n - u->index < budget ? n : u->index + budget;
    position_t at = position_of(u->index, features);
    for (uint32_t i = u->index; i < end; i++) {
        const uint32_t m = magnitude(weight_change(u->params, u->base, u->residual, at.c, at.f));
        if (u->phase == SCAN || m > u->threshold) {
            u->sum += m; /* <= 2^21 * 2^25 */
            u->count++;
        }
        if (m > u->largest) {
            u->largest = m;
        }
        advance(&at, features);
    }
    const uint32_t seen = end - u->index;
    u->index = end;
    return seen;
}

/* The ternary rule (Ternary Weight Networks, Li & Liu 2016): threshold 0.7 mean |v|, step the mean of what lies above. */
static void finish_scan(kf_update_t *u, uint32_t n) {
    if (u->codec == KF_CODEC_TERNARY && u->phase == SCAN) {
        u->threshold = (uint32_t)(7u * u->sum / (10u * (uint64_t)n));
        u->phase = SCAN_ABOVE;
        u->sum = 0;
        u->count = 0;
    } else {
        if (u->codec == KF_CODEC_TERNARY) {
            const uint64_t count = u->count ? u->count : 1;
            const uint32_t mean = (uint32_t)((2u * u->sum + count) / (2u * count));
            u->step_w = mean ? mean : 1;
        } else {
            u->step_w = u->codec == KF_CODEC_INT32 ? 1 : step_for(u->largest, u->codec == KF_CODEC_INT8 ? 127 : 7);
        }
        u->phase = PACK;
    }
    u->index = 0;
}

static int32_t quantise(const kf_update_t *u, int32_t v) {
    switch (u->codec) {
    case KF_CODEC_INT32:
        return v;
    case KF_CODEC_TERNARY:
        return magnitude(v) <= u->threshold ? 0 : v < 0 ? -1 : 1;
    default:
        return divide_rounded(v, u->step_w);
    }
}

/* Make whole bytes of up to `budget` weights, at least one byte. */
static uint32_t pack(kf_update_t *u, uint32_t budget, uint32_t n) {
    const uint32_t features = u->params->features, first = u->index;
    uint8_t *weights = u->blob + KF_BLOB_HEADER_BYTES;
    position_t at = position_of(first, features);
    do {
        uint32_t byte = 0, place = 1; /* ternary */
        uint32_t shift = 0;           /* int4 */
        const uint32_t i = u->index, per_byte = codec_values_per_byte(u->codec);
        const uint32_t end = n - i < (per_byte ? per_byte : 1u) ? n : i + (per_byte ? per_byte : 1u);
        for (; u->index < end; u->index++) {
            const int32_t q = quantise(u, weight_change(u->params, u->base, u->residual, at.c, at.f));
            advance(&at, features);
            if (u->codec == KF_CODEC_INT32) {
                kf_put_u32(weights + 4u * (size_t)i, (uint32_t)q);
            } else if (u->codec == KF_CODEC_INT8) {
                byte = (uint32_t)q;
            } else if (u->codec == KF_CODEC_INT4) {
                byte |= ((uint32_t)q & 15u) << shift;
                shift += 4;
            } else {
                byte += (uint32_t)(q + 1) * place;
                place *= 3;
            }
        }
        if (u->codec == KF_CODEC_TERNARY) {
            for (uint32_t k = end - i; k < 5; k++, place *= 3) {
                byte += place; /* a trit of 0 is the digit 1 */
            }
        }
        if (per_byte != 0) {
            weights[i / per_byte] = (uint8_t)byte;
        }
    } while (u->index < n && u->index - first < budget);
    return u->index - first;
}

static void finish_pack(kf_update_t *u) {
    const uint16_t classes = u->params->classes, features = u->params->features;
    uint32_t largest = 0;
    for (uint32_t c = 0; c < classes; c++) {
        const uint32_t m = magnitude(bias_change(u->params, u->base, u->residual, c));
        if (m > largest) {
            largest = m;
        }
    }
    const int is_int32 = u->codec == KF_CODEC_INT32;
    const uint32_t step_b = is_int32 ? 1 : step_for(largest, 127);
    uint8_t *bias = u->blob + KF_BLOB_HEADER_BYTES + kf_codec_bytes(u->codec, weight_count(classes, features));
    for (uint32_t c = 0; c < classes; c++) {
        const int32_t v = bias_change(u->params, u->base, u->residual, c);
        if (is_int32) {
            kf_put_u32(bias + 4u * (size_t)c, (uint32_t)v);
        } else {
            bias[c] = (uint8_t)divide_rounded(v, step_b);
        }
    }

    u->blob[0] = KF_BLOB_VERSION;
    u->blob[1] = KIND_UPDATE;
    u->blob[2] = u->codec;
    u->blob[3] = 0;
    kf_put_u16(u->blob + 4, classes);
    kf_put_u16(u->blob + 6, features);
    kf_put_u32(u->blob + 8, u->step_w);
    kf_put_u32(u->blob + 12, step_b);
    u->phase = DONE;
}

kf_status_t kf_update_step(kf_update_t *u, uint32_t max_weights) {
    if (u == NULL || u->phase == IDLE) {
        return KF_ERR_STATE;
    }
    const uint32_t n = weight_count(u->params->classes, u->params->features);
    uint32_t left = max_weights ? max_weights : 1;
    while (u->phase != DONE) {
        if (left == 0) {
            return KF_MORE;
        }
        const uint32_t used = u->phase == PACK ? pack(u, left, n) : scan(u, left, n);
        left = used < left ? left - used : 0;
        if (u->index == n) {
            if (u->phase == PACK) {
                finish_pack(u);
            } else {
                finish_scan(u, n);
            }
        }
    }
    return KF_OK;
}

kf_status_t kf_update_encode(kf_codec_t codec, const kf_params_t *params, const kf_head_view_t *base,
                             const kf_residual_t *residual, uint8_t *blob, size_t blob_bytes) {
    kf_update_t u;
    const kf_status_t status = kf_update_begin(&u, codec, params, base, residual, blob, blob_bytes);
    return status == KF_OK ? kf_update_step(&u, UINT32_MAX) : status;
}

/* ---- acceptance ------------------------------------------------------------------------------------------------ */

static int is_update(const uint8_t *blob, size_t blob_bytes, uint16_t classes, uint16_t features) {
    if (blob_bytes < KF_BLOB_HEADER_BYTES || blob[0] != KF_BLOB_VERSION || blob[1] != KIND_UPDATE
        || blob[2] > KF_CODEC_TERNARY || blob[3] != 0 || kf_get_u16(blob + 4) != classes || kf_get_u16(blob + 6) != features
        || blob_bytes != kf_update_bytes((kf_codec_t)blob[2], classes, features)) {
        return 0;
    }
    const uint32_t step_w = kf_get_u32(blob + 8), step_b = kf_get_u32(blob + 12);
    return step_w >= 1 && step_w <= STEP_W_MAX && step_b >= 1 && step_b <= STEP_B_MAX
           && kf_codec_is_canonical(blob[2], blob + KF_BLOB_HEADER_BYTES, weight_count(classes, features));
}

kf_status_t kf_update_accept(const kf_params_t *params, const kf_head_view_t *base, kf_residual_t *residual,
                             const uint8_t *blob, size_t blob_bytes) {
    if (params == NULL || params->weights == NULL || base == NULL || base->weights == NULL || residual == NULL
        || residual->weights == NULL || blob == NULL) {
        return KF_ERR_ARG;
    }
    if (base->classes != params->classes || base->features != params->features || residual->classes != params->classes
        || residual->features != params->features) {
        return KF_ERR_SHAPE;
    }
    if (!is_update(blob, blob_bytes, params->classes, params->features)) {
        return KF_ERR_BLOB;
    }
    const uint8_t codec = blob[2], bias_codec = codec == KF_CODEC_INT32 ? KF_CODEC_INT32 : KF_CODEC_INT8;
    const uint32_t step_w = kf_get_u32(blob + 8), step_b = kf_get_u32(blob + 12), n = weight_count(params->classes, params->features);
    const uint8_t *weights = blob + KF_BLOB_HEADER_BYTES, *bias = weights + kf_codec_bytes(codec, n);

    position_t at = {0, 0};
    for (uint32_t i = 0; i < n; i++) {
        const int64_t v = weight_change(params, base, residual, at.c, at.f);
        const int64_t unsent = v - (int64_t)kf_codec_get(codec, weights, i) * step_w;
        residual->weights[i] = (int16_t)(unsent > INT16_MAX ? INT16_MAX : unsent < INT16_MIN ? INT16_MIN : unsent);
        advance(&at, params->features);
    }
    for (uint32_t c = 0; c < params->classes; c++) {
        const int64_t v = bias_change(params, base, residual, c);
        residual->bias[c] = clamp64(v - (int64_t)kf_codec_get(bias_codec, bias, c) * step_b, KF_BIAS_MAX);
    }
    return KF_OK;
}
