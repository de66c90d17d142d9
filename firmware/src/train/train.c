/* Shapes: weights (C, F), errors (B, C), features of a slot (F).
 *
 * A training is a row of small units of work, each leaving `t` such that the next can begin at any later time:
 *   SHUFFLE  some swaps of the epoch's order         FORWARD  one logit of one sample
 *   SOFTMAX  a sample's errors from its logits       UPDATE   up to 16 weights of one class, from all errors of the batch
 * A unit answers how many multiply-accumulates it cost, or would have for the same time.
 */
#include "kilofed/train.h"

#include <string.h>

#include "../bytes.h"
#include "fixed.h"
#include "logit.h"
#include "prng.h"
#include "softmax.h"

enum { IDLE, SHUFFLE, FORWARD, SOFTMAX, UPDATE, DONE };
enum { SWAPS_PER_UNIT = 16, WEIGHTS_PER_UNIT = 16 };

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static uint32_t slot_bytes(uint16_t capacity) {
    return capacity <= 256 ? 1 : 2;
}

size_t kf_train_bytes(uint16_t classes, uint16_t batch, uint16_t capacity, uint16_t holdout) {
    if (classes == 0 || classes > KF_MAX_CLASSES || batch == 0 || batch > KF_MAX_BATCH || capacity == 0 || holdout == 1) {
        return 0;
    }
    const size_t slots = (size_t)capacity - (holdout ? (size_t)capacity / holdout : 0u);
    const size_t bytes = 4u * (size_t)classes + 2u * (size_t)batch * classes + slots * slot_bytes(capacity);
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

/* Features of sample i of the batch under way. */
static const int8_t *sample(const kf_train_t *t, uint32_t i) {
    return t->ring->features + order_get(t, (uint32_t)t->done + i) * t->ring->width;
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
    t->errors = (int16_t *)(t->logits + params->classes);
    t->order = (uint8_t *)(t->errors + (size_t)cfg->batch * params->classes);
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

static uint32_t forward_class(kf_train_t *t) {
    const kf_params_t *p = t->params;
    const int32_t *row = p->weights + (uint32_t)t->c * p->features;
    const int32_t z = kf_logit(row, p->bias[t->c], t->shift, sample(t, t->i), p->features, t->cfg.x_zp);
    t->logits[t->c] = z;
    if (magnitude(z) > t->peak) {
        t->peak = magnitude(z);
    }
    if (++t->c == p->classes) {
        t->phase = SOFTMAX;
    }
    return p->features;
}

static uint32_t softmax_sample(kf_train_t *t) {
    const uint32_t classes = t->params->classes;
    const uint32_t slot = order_get(t, (uint32_t)t->done + t->i);
    t->loss += kf_softmax_errors(t->logits, classes, kf_ring_label(t->ring, slot), t->errors + (size_t)t->i * classes);
    t->c = 0;
    t->phase = FORWARD;
    if (++t->i == t->size) {
        t->f = 0;
        t->largest = 0; /* the update below sees every weight */
        t->phase = UPDATE;
    }
    return 8 * classes;
}

/* Sum of a class's errors over the batch: its bias's gradient. |sum| <= 2^15 * 256. */
static int32_t sum_errors(const kf_train_t *t) {
    const int16_t *error = t->errors + t->c;
    int32_t sum = 0;
    for (uint32_t i = 0; i < t->size; i++, error += t->params->classes) {
        sum += *error;
    }
    return sum;
}

/* G[j] += e * q[j]. A function of its own, four at a time: what a core with eight registers does best. */
KF_NOINLINE static void accumulate(int32_t *G, const int8_t *q, uint32_t n, int32_t e) {
    for (; n >= 4; n -= 4, G += 4, q += 4) {
        G[0] += e * q[0];
        G[1] += e * q[1];
        G[2] += e * q[2];
        G[3] += e * q[3];
    }
    for (; n > 0; n--) {
        *G++ += e * *q++;
    }
}

/* G[j] = sum_i error[i][c] * x_i[f + j], j < n. The zero point comes out of the loop: sum e (q - zp) = sum e q - zp sum e.
 * |sum e q| <= 2^15 * 128 * 256 = 2^30, |zp sum e| likewise, and |G| <= 2^15 * 255 * 256 < 2^31. An error of 0, frequent late in
 * a training, costs nothing. */
static void gradient(const kf_train_t *t, uint32_t n, int32_t G[WEIGHTS_PER_UNIT]) {
    const int16_t *error = t->errors + t->c;
    const int32_t start = -t->cfg.x_zp * t->error_sum;
    for (uint32_t j = 0; j < n; j++) {
        G[j] = start;
    }
    for (uint32_t i = 0; i < t->size; i++, error += t->params->classes) {
        if (*error != 0) {
            accumulate(G, sample(t, i) + t->f, n, *error);
        }
    }
}

/* One step of a weight: first the gradient, then, from the value before it, the proximal term. |W - base| < 2^24. */
static void move_weight(kf_train_t *t, int32_t *w, int32_t G) {
    const int32_t before = *w;
    if (t->step_w.mantissa != 0) {
        *w = clamp32(before - scale32(G, t->step_w), KF_WEIGHT_MAX); /* 2^23 + 2^30 fits */
    }
    if (t->cfg.prox.mantissa != 0) {
        const int32_t pull = scale32(before - kf_head_weight(t->base, t->c, t->f), t->cfg.prox);
        *w = clamp32(*w - pull, KF_WEIGHT_MAX);
    }
    if (magnitude(*w) > t->largest) {
        t->largest = magnitude(*w);
    }
}

static void move_bias(kf_train_t *t) {
    int32_t *b = t->params->bias + t->c;
    const int32_t before = *b;
    if (t->step_b.mantissa != 0) {
        *b = clamp64(before - scale64(t->error_sum, t->step_b), KF_BIAS_MAX);
    }
    if (t->cfg.prox.mantissa != 0) {
        *b = clamp64(*b - scale64((int64_t)before - kf_head_bias(t->base, t->c), t->cfg.prox), KF_BIAS_MAX);
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

static uint32_t update_some(kf_train_t *t) {
    const uint32_t features = t->params->features;
    int32_t *row = t->params->weights + (size_t)t->c * features;
    if (t->f == 0) {
        t->error_sum = sum_errors(t);
    }
    const uint32_t left = features - t->f;
    const uint32_t n = left < WEIGHTS_PER_UNIT ? left : WEIGHTS_PER_UNIT;
    int32_t G[WEIGHTS_PER_UNIT];
    gradient(t, n, G);
    for (uint32_t j = 0; j < n; j++, t->f++) {
        move_weight(t, &row[t->f], G[j]);
    }
    if (t->f == features) {
        move_bias(t);
        t->f = 0;
        if (++t->c == t->params->classes) {
            finish_batch(t);
        }
    }
    return WEIGHTS_PER_UNIT * (t->size + 8u);
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
            spent += forward_class(t);
            break;
        case SOFTMAX:
            spent += softmax_sample(t);
            break;
        default:
            spent += update_some(t);
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
