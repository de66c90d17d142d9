/* Shapes: weights (C, F), features of a slot (F). One logit is one unit of work. */
#include <string.h>

#include "kilofed/train.h"
#include "logit.h"

enum { IDLE, PARAMS, HEAD, DONE };

kf_status_t kf_eval_begin(kf_eval_t *e, kf_ring_t *ring, int8_t x_zp, const kf_params_t *params, const kf_head_view_t *head) {
    if (e == NULL) {
        return KF_ERR_ARG;
    }
    memset(e, 0, sizeof *e);
    if (ring == NULL || ring->features == NULL || (params == NULL && head == NULL)
        || (params != NULL && params->weights == NULL) || (head != NULL && head->weights == NULL)) {
        return KF_ERR_ARG;
    }
    if ((params != NULL && (params->classes != ring->classes || params->features != ring->width))
        || (head != NULL && (head->classes != ring->classes || head->features != ring->width))) {
        return KF_ERR_SHAPE;
    }
    e->ring = ring;
    e->params = params;
    e->head = head;
    e->x_zp = x_zp;
    e->total = kf_ring_held_out_count(ring);
    e->phase = e->total == 0 ? DONE : params != NULL ? PARAMS : HEAD;
    if (e->phase != DONE) {
        e->params_shift = (uint8_t)(params != NULL ? kf_weight_shift(kf_largest_weight(params)) : 0u);
        e->head_shift = (uint8_t)(head != NULL ? kf_weight_shift(kf_largest_head_weight(head)) : 0u);
        e->slot = (uint16_t)(ring->holdout - 1u);
        ring->locks++;
    }
    return KF_OK;
}

/* All logits of the slot are seen by the head under way: count, and go to the other head or to the next slot. */
static void finish_sample(kf_eval_t *e) {
    const int correct = e->best_class == kf_ring_label(e->ring, e->slot);
    e->c = 0;
    if (e->phase == PARAMS) {
        e->params_correct = (uint16_t)(e->params_correct + correct);
        if (e->head != NULL) {
            e->phase = HEAD;
            return;
        }
    } else {
        e->head_correct = (uint16_t)(e->head_correct + correct);
    }
    const uint32_t next = (uint32_t)e->slot + e->ring->holdout;
    if (next >= e->ring->count) {
        e->phase = DONE;
        e->ring->locks--;
        return;
    }
    e->slot = (uint16_t)next;
    e->phase = e->params != NULL ? PARAMS : HEAD;
}

kf_status_t kf_eval_step(kf_eval_t *e, uint32_t max_macs) {
    if (e == NULL || e->phase == IDLE) {
        return KF_ERR_STATE;
    }
    uint32_t spent = 0;
    while (e->phase != DONE) {
        const uint32_t features = e->ring->width;
        const int8_t *q = kf_ring_features(e->ring, e->slot);
        const int32_t z = e->phase == PARAMS ? kf_logit(e->params->weights + (size_t)e->c * features, e->params->bias[e->c],
                                                        e->params_shift, q, features, e->x_zp)
                                             : kf_logit_head(e->head, e->c, e->head_shift, q, e->x_zp);
        if (e->c == 0 || z > e->best) {
            e->best = z;
            e->best_class = e->c;
        }
        if (++e->c == e->ring->classes) {
            finish_sample(e);
        }
        spent += features;
        if (spent >= max_macs && e->phase != DONE) {
            return KF_MORE;
        }
    }
    return KF_OK;
}

void kf_eval_cancel(kf_eval_t *e) {
    if (e->phase == PARAMS || e->phase == HEAD) {
        e->ring->locks--;
    }
    e->phase = IDLE;
}
