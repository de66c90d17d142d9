/* Shapes: weights (C, F), errors (B, C), features of a slot (F).
 *
 * A training is a row of small units of work, each leaving `t` such that the next can begin at any later time:
 *   SHUFFLE  some swaps of the epoch's order         FORWARD  the logits of some classes, for up to eight samples
 *   SOFTMAX  a sample's errors from its logits       UPDATE   a rectangle of weights, from all errors of the batch
 * A unit answers how many multiply-accumulates it cost, or would have for the same time. Units of the two kernels (kernels.h) are as
 * large as the caller's budget, since each has something to prepare.
 */
#include "kilofed/train.h"

#include <string.h>

#include "../bytes.h"
#include "fixed.h"
#include "kernels.h"
#include "logit.h"
#include "prng.h"
#include "softmax.h"

enum { IDLE, SHUFFLE, FORWARD, SOFTMAX, UPDATE, DONE };
enum { SWAPS_PER_UNIT = 16 };

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static uint32_t slot_bytes(uint16_t capacity) {
    return capacity <= 256 ? 1 : 2;
}

static uint32_t smaller(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* Errors of a class, room for samples that make it a multiple of four included: the kernels read so far. */
static uint32_t error_stride(uint32_t batch) {
    return (batch + 3u) & ~3u;
}

/* The logits of a tile of samples; while weights are moved, the kernels' scratch. */
static uint32_t logit_words(uint32_t classes, uint32_t batch) {
    const uint32_t logits = classes * KF_TILE, scratch = KF_BACKWARD_BYTES(batch) / 4u;
    return logits > scratch ? logits : scratch;
}

size_t kf_train_bytes(uint16_t classes, uint16_t batch, uint16_t capacity, uint16_t holdout) {
    if (classes == 0 || classes > KF_MAX_CLASSES || batch == 0 || batch > KF_MAX_BATCH || capacity == 0 || holdout == 1) {
        return 0;
    }
    const size_t slots = (size_t)capacity - (holdout ? (size_t)capacity / holdout : 0u);
    const size_t bytes = 4u * (size_t)logit_words(classes, batch) + 2u * (size_t)error_stride(batch) * classes + 4u * (size_t)batch
                         + slots * slot_bytes(capacity);
    return (bytes + 3u) & ~(size_t)3u;
}

static uint32_t order_get(const kf_train_t *t, uint32_t k) {
    return slot_bytes(t->ring->capacity) == 1 ? t->order[k] : kf_get_u16(t->order + 2u * k);
}

static void order_set(kf_train_t *t, uint32_t k, uint32_t slot) {
    if (slot_bytes(t->ring->capacity) == 1) {
        t->order[k] = (uint8_t)slot;
    } else {
        kf_put_u16(t->order + 2u * k, slot);
    }
}

/* ---- beginning ------------------------------------------------------------------------------------------------- */

static int rate_is_valid(kf_rate_t rate) {
    return rate.mantissa == 0
           || (rate.mantissa >= 1u << 14 && rate.mantissa < 1u << 15 && rate.shift >= 1 && rate.shift <= KF_RATE_SHIFT_MAX);
}

kf_status_t kf_train_begin(kf_train_t *t, const kf_train_config_t *cfg, kf_ring_t *ring, kf_params_t *params,
                           const kf_head_view_t *base, void *mem, size_t mem_bytes) {
    if (t == NULL) {
        return KF_ERR_ARG;
    }
    memset(t, 0, sizeof *t);
    if (cfg == NULL || ring == NULL || ring->features == NULL || params == NULL || params->weights == NULL || mem == NULL
        || (uintptr_t)mem % 4u != 0 || cfg->batch == 0 || cfg->batch > KF_MAX_BATCH || cfg->epochs == 0
        || !rate_is_valid(cfg->lr_w) || !rate_is_valid(cfg->lr_b) || !rate_is_valid(cfg->prox)
        || (cfg->prox.mantissa != 0 && (base == NULL || base->weights == NULL))) {
        return KF_ERR_ARG;
    }
    if (ring->classes != params->classes || ring->width != params->features
        || (base != NULL && (base->classes != params->classes || base->features != params->features))) {
        return KF_ERR_SHAPE;
    }
    if (mem_bytes < kf_train_bytes(params->classes, cfg->batch, ring->capacity, ring->holdout)) {
        return KF_ERR_MEMORY;
    }
    if (kf_ring_train_count(ring) == 0) {
        return KF_ERR_STATE;
    }

    t->cfg = *cfg;
    t->ring = ring;
    t->params = params;
    t->base = base;
    t->logits = mem;
    t->at = (uint32_t *)(t->logits + logit_words(params->classes, cfg->batch));
    t->errors = (int16_t *)(t->at + cfg->batch);
    t->order = (uint8_t *)(t->errors + (size_t)error_stride(cfg->batch) * params->classes);
    for (uint32_t slot = 0; slot < ring->count; slot++) {
        if (!kf_ring_is_held_out(ring, slot)) {
            order_set(t, t->samples, slot);
            t->samples++;
        }
    }
    t->random = prng_seed(cfg->seed);
    t->largest = kf_largest_weight(params);
    t->loss_q12 = UINT16_MAX;
    t->i = (uint16_t)(t->samples - 1u);
    t->phase = SHUFFLE;
    ring->locks++;
    return KF_OK;
}

/* ---- the units ------------------------------------------------------------------------------------------------- */

/* The rate for the mean over n samples: rate / n, normalised again. m 2^k >= n 2^14 with the smallest k makes the quotient
 * at least 2^14 and below 2^15 before rounding; a rounding to 2^15 is 2^14 at one shift less. k <= 8, so m 2^k < 2^23. */
static kf_rate_t divide_rate(kf_rate_t rate, uint32_t n) {
    if (rate.mantissa == 0) {
        return rate;
    }
    uint32_t k = 0;
    while ((uint32_t)rate.mantissa << k < n << 14) {
        k++;
    }
    uint32_t m = (((uint32_t)rate.mantissa << k) + n / 2u) / n;
    if (m == 1u << 15) {
        m >>= 1;
        k--; /* k >= 1: without a shift n is 1 and m is the mantissa */
    }
    return (kf_rate_t){(uint16_t)m, (uint8_t)(rate.shift + k)};
}

static void begin_batch(kf_train_t *t) {
    const uint32_t left = (uint32_t)t->samples - t->done;
    t->size = left < t->cfg.batch ? (uint16_t)left : t->cfg.batch;
    t->step_w = divide_rate(t->cfg.lr_w, t->size);
    t->step_b = divide_rate(t->cfg.lr_b, t->size);
    t->shift = (uint8_t)kf_weight_shift(t->largest);
    for (uint32_t i = 0; i < t->size; i++) {
        t->at[i] = order_get(t, (uint32_t)t->done + i) * t->ring->width;
    }
    t->i = 0;
    t->c = 0;
    t->phase = FORWARD;
}

/* Fisher and Yates's shuffle (Durstenfeld's form), from the order of the epoch before. */
static uint32_t shuffle_some(kf_train_t *t) {
    for (int swaps = 0; swaps < SWAPS_PER_UNIT && t->i > 0; swaps++, t->i--) {
        const uint32_t j = prng_below(&t->random, t->i + 1u);
        const uint32_t slot = order_get(t, t->i);
        order_set(t, t->i, order_get(t, j));
        order_set(t, j, slot);
    }
    if (t->i == 0) {
        begin_batch(t);
    }
    return 4 * SWAPS_PER_UNIT;
}

/* Some classes of the samples from t->i to the end of their tile: as many as `budget` allows, one at least. */
static uint32_t forward_some(kf_train_t *t, uint32_t budget) {
    const kf_params_t *p = t->params;
    const uint32_t classes = p->classes, features = p->features;
    const uint32_t samples = smaller((uint32_t)t->size - t->i, KF_TILE), row_macs = samples * features;
    uint32_t n = smaller(budget, classes * row_macs) / row_macs; /* <= 1024 * 8 * 2048 */
    n = n == 0 ? 1 : smaller(n, classes - t->c);
    const kf_forward_t job = {
        .w = p->weights + (size_t)t->c * features,
        .bias = p->bias + t->c,
        .features = t->ring->features,
        .at = t->at + t->i,
        .z = t->logits + (size_t)t->c * KF_TILE,
        .width = features,
        .classes = n,
        .samples = samples,
        .k = t->shift,
        .x_zp = t->cfg.x_zp,
    };
    kf_forward(&job);
    t->c = (uint16_t)(t->c + n);
    if (t->c == classes) {
        t->phase = SOFTMAX;
    }
    return n * row_macs;
}

static uint32_t softmax_sample(kf_train_t *t) {
    const uint32_t classes = t->params->classes;
    const uint32_t label = kf_ring_label(t->ring, order_get(t, (uint32_t)t->done + t->i));
    int32_t *z = t->logits + t->i % KF_TILE;
    t->loss += kf_softmax_errors(z, classes, label, t->errors + t->i, error_stride(t->cfg.batch), &t->peak);
    t->i++;
    if (t->i == t->size) {
        t->c = 0;
        t->f = 0;
        t->largest = 0; /* the update below sees every weight */
        t->phase = UPDATE;
    } else if (t->i % KF_TILE == 0) {
        t->c = 0;
        t->phase = FORWARD;
    }
    return 8 * classes;
}

/* A class's bias has the sum of its errors over the batch for a gradient. |sum| <= 2^15 * 256. */
static void move_bias(const kf_train_t *t, uint32_t c) {
    const int16_t *error = t->errors + (size_t)c * error_stride(t->cfg.batch);
    int32_t sum = 0;
    for (uint32_t i = 0; i < t->size; i++) {
        sum += error[i];
    }
    int32_t *b = t->params->bias + c;
    const int32_t before = *b;
    if (t->step_b.mantissa != 0) {
        *b = clamp64(before - scale64(sum, t->step_b), KF_BIAS_MAX);
    }
    if (t->cfg.prox.mantissa != 0) {
        *b = clamp64(*b - scale64((int64_t)before - kf_head_bias(t->base, c), t->cfg.prox), KF_BIAS_MAX);
    }
}

static void finish_batch(kf_train_t *t) {
    t->done = (uint16_t)(t->done + t->size);
    if (t->done < t->samples) {
        begin_batch(t);
        return;
    }
    /* loss <= 65535 * 65535, and half the samples more still fits uint32. */
    t->loss_q12 = (uint16_t)((t->loss + t->samples / 2u) / t->samples);
    t->peak_q12 = t->peak;
    t->loss = 0;
    t->peak = 0;
    t->done = 0;
    t->epoch++;
    t->i = (uint16_t)(t->samples - 1u);
    t->phase = SHUFFLE;
    if (t->epoch == t->cfg.epochs) {
        t->phase = DONE;
        t->ring->locks--;
    }
}

/* A rectangle of weights as large as `budget` allows and the kernels want it. Those of the first features come with the biases. */
static uint32_t update_some(kf_train_t *t, uint32_t budget) {
    const uint32_t classes = t->params->classes, features = t->params->features, stride = error_stride(t->cfg.batch);
    if (t->c == 0) {
        uint32_t most = smaller(kf_backward_features, smaller(budget, KF_MAX_FEATURES * KF_MAX_BATCH) / t->size);
        most = most < KF_FEATURES_AT_ONCE ? KF_FEATURES_AT_ONCE : most & ~(KF_FEATURES_AT_ONCE - 1u);
        t->count = (uint16_t)smaller(most, features - t->f);
    }
    const uint32_t count = t->count;
    uint32_t n = smaller(budget, classes * count * t->size) / (count * t->size); /* <= 2^29 */
    n = n == 0 ? 1 : smaller(n, classes - t->c);
    for (uint32_t c = t->c; t->f == 0 && c < t->c + n; c++) {
        move_bias(t, c);
    }
    kf_backward_t job = {
        .w = t->params->weights + (size_t)t->c * features + t->f,
        .errors = t->errors + (size_t)t->c * stride,
        .features = t->ring->features + t->f,
        .at = t->at,
        .scratch = t->logits,
        .base = t->base,
        .rate = t->step_w,
        .prox = t->cfg.prox,
        .width = features,
        .stride = stride,
        .samples = t->size,
        .classes = n,
        .count = count,
        .c = t->c,
        .f = t->f,
        .x_zp = t->cfg.x_zp,
        .largest = t->largest,
    };
    kf_backward(&job);
    t->largest = job.largest;
    t->c = (uint16_t)(t->c + n);
    if (t->c == classes) {
        t->c = 0;
        t->f = (uint16_t)(t->f + count);
        if (t->f == features) {
            finish_batch(t);
        }
    }
    return n * count * (t->size + 8u);
}

/* ---- the calls ------------------------------------------------------------------------------------------------- */

kf_status_t kf_train_step(kf_train_t *t, uint32_t max_macs) {
    if (t == NULL || t->phase == IDLE) {
        return KF_ERR_STATE;
    }
    uint32_t spent = 0;
    while (t->phase != DONE) {
        switch (t->phase) {
        case SHUFFLE:
            spent += shuffle_some(t);
            break;
        case FORWARD:
            spent += forward_some(t, max_macs - spent);
            break;
        case SOFTMAX:
            spent += softmax_sample(t);
            break;
        default:
            spent += update_some(t, max_macs - spent);
            break;
        }
        if (spent >= max_macs && t->phase != DONE) {
            return KF_MORE;
        }
    }
    return KF_OK;
}

void kf_train_cancel(kf_train_t *t) {
    if (t->phase != IDLE && t->phase != DONE) {
        t->ring->locks--;
    }
    t->phase = IDLE;
}

kf_train_progress_t kf_train_progress(const kf_train_t *t) {
    kf_train_progress_t p = {0, 0, 0};
    if (t->phase != IDLE) {
        p.done = (uint32_t)t->epoch * t->samples + t->done;
        p.total = (uint32_t)t->cfg.epochs * t->samples;
        p.epoch = t->epoch;
    }
    return p;
}
