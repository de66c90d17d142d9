/* A round on the device (PROTOCOL.md, "A round"): an order comes, the head is trained, the update waits for its commit.
 *
 *     idle --order--> training: BEGIN -> TRAIN -> MEASURE -> ENCODE --> uploading --commit or cancel--> idle
 *
 * The received head (`base`), the trained one (`master`) and the update stay as they are until the commit, because the
 * residual is made from all three then and not before. The update lies where the trainer worked (`work`): a training
 * begins only when no result waits. */
#include <string.h>

#include "core.h"

typedef enum phase {
    PHASE_NONE = 0,
    PHASE_BEGIN,   /* wait for an inference under way, then load the head */
    PHASE_TRAIN,
    PHASE_MEASURE, /* received and trained head over the held-out samples, in one walk */
    PHASE_ENCODE
} phase_t;

#define MACS_PER_WEIGHT 8u /* what encoding a weight costs, in multiply-accumulates, on a core without a divider */

static int wants_update(const kf_order_t *order) {
    return order->epochs > 0 && (order->flags & KF_ORDER_PERSONALISE) == 0;
}

/* ---- beginning and ending -------------------------------------------------------------------------------------- */

static void job_drop(kf_device_t *d) {
    if (d->phase == PHASE_TRAIN) {
        kf_train_cancel(&d->job.train);
    } else if (d->phase == PHASE_MEASURE) {
        kf_eval_cancel(&d->job.eval);
    }
    d->phase = PHASE_NONE;
}

/* Back to idle, with nothing of the round left but its number. */
static void round_end(kf_device_t *d) {
    job_drop(d);
    kf_blob_sender_pause(&d->sender);
    d->say &= (uint16_t)~KF_SAY_RESULT;
    d->state = KF_STATE_IDLE;
    kf_heads_adopt(d);
}

static void round_fail(kf_device_t *d, kf_status_t status, uint32_t detail) {
    round_end(d);
    kf_say_error(d, status, detail);
    d->say |= KF_SAY_STATUS;
}

static void result_ready(kf_device_t *d, uint32_t now_ms) {
    d->phase = PHASE_NONE;
    d->state = KF_STATE_UPLOADING;
    d->result.elapsed_ms = now_ms - d->order_ms;
    d->answered = 0;
    d->refusals = 0;
    d->say |= KF_SAY_RESULT;
}

/* ---- what the host asks ---------------------------------------------------------------------------------------- */

static int is_for_base(const kf_device_t *d, const kf_order_t *order) {
    return d->base.weights != NULL && memcmp(d->base_hash, order->head, KF_HASH_BYTES) == 0;
}

/* Why an order cannot be followed: KF_OK when it can, with the number for the host otherwise. */
static kf_status_t order_check(const kf_device_t *d, const kf_order_t *order, uint32_t *detail) {
    const uint16_t classes = d->ring.classes;
    *detail = 0;
    if (order->batch > d->config->max_batch) {
        *detail = (uint32_t)kf_train_bytes(classes, order->batch, d->ring.capacity, d->ring.holdout);
        return KF_ERR_MEMORY;
    }
    if (wants_update(order) && order->codec == KF_CODEC_INT32 && !d->config->exact_updates) {
        *detail = (uint32_t)kf_update_bytes(KF_CODEC_INT32, classes, d->ring.width);
        return KF_ERR_MEMORY;
    }
    if (order->epochs > 0 && kf_ring_train_count(&d->ring) == 0) {
        return KF_ERR_STATE;
    }
    const uint8_t *newest = kf_heads_newest(d);
    if (newest != NULL && memcmp(newest, order->head, KF_HASH_BYTES) == 0) {
        return KF_OK;
    }
    return is_for_base(d, order) ? KF_OK : KF_ERR_HEAD;
}

/* Whether it is the order that is under way, said again. Head and seed count too: round numbers of two runs may meet, and a
 * result for one run's head must not be taken for the other's. */
static int is_repeated(const kf_device_t *d, const kf_order_t *order) {
    return (d->state == KF_STATE_TRAINING || d->state == KF_STATE_UPLOADING) && order->round == d->order.round &&
           order->seed == d->order.seed && memcmp(order->head, d->order.head, KF_HASH_BYTES) == 0;
}

void kf_round_order(kf_device_t *d, const kf_order_t *order, uint32_t now_ms) {
    if (d->state == KF_STATE_COLLECTING || is_repeated(d, order)) {
        d->say |= KF_SAY_STATUS;
        if (d->state == KF_STATE_UPLOADING) {
            d->say |= KF_SAY_RESULT;
        }
        return;
    }
    uint32_t detail;
    const kf_status_t status = order_check(d, order, &detail);
    if (status != KF_OK) {
        kf_say_error(d, status, detail);
        return;
    }
    /* The host has moved on from any other round: its training or its waiting result goes. If that round held back a newer
     * head and the order is for the older one, the older one stays. */
    if (d->incoming.stage == KF_BLOB_WHOLE && is_for_base(d, order)) {
        kf_blob_receiver_drop(&d->incoming);
    }
    round_end(d);
    d->order = *order;
    memset(&d->result, 0, sizeof d->result);
    d->result.round = order->round;
    d->order_ms = now_ms;
    d->state = KF_STATE_TRAINING;
    d->phase = PHASE_BEGIN;
    d->status_ms = now_ms + KF_STATUS_MS;
    d->say |= KF_SAY_STATUS;
}

void kf_round_commit(kf_device_t *d, const kf_commit_t *commit) {
    if (d->state == KF_STATE_UPLOADING && commit->round == d->order.round) {
        if (commit->verdict == 0 && d->result.update.present) {
            const kf_status_t status =
                kf_update_accept(&d->master, &d->base, &d->residual, d->work, d->result.size);
            if (status != KF_OK) { /* the blob is our own: this would be a defect, and the host should hear of it */
                kf_say_error(d, status, 0);
            }
        }
        round_end(d);
    }
    d->say |= KF_SAY_STATUS;
}

void kf_round_cancel(kf_device_t *d, uint32_t round) {
    if (round == d->order.round && (d->state == KF_STATE_TRAINING || d->state == KF_STATE_UPLOADING)) {
        round_end(d);
    }
    d->say |= KF_SAY_STATUS;
}

void kf_round_accept(kf_device_t *d, const kf_accept_t *accept, uint32_t now_ms) {
    if (d->state != KF_STATE_UPLOADING || !d->result.update.present ||
        accept->id != kf_blob_id(d->result.update.bytes)) {
        return; /* of a round that is over */
    }
    const kf_status_t status =
        kf_blob_accepted(&d->sender, accept, d->session.max_frame, kf_session_message_max(&d->session),
                         d->config->window, now_ms);
    if (status == KF_OK) {
        d->answered = 1;
    } else if (status == KF_ERR_BLOB) { /* it was damaged on its way: offer it again, but not for ever */
        d->refusals++;
        d->answered = d->refusals >= KF_UPDATE_OFFERS;
        d->say |= d->answered ? 0u : KF_SAY_RESULT;
    }
}

/* ---- work ------------------------------------------------------------------------------------------------------ */

static int8_t x_zp(const kf_device_t *d) {
    return (int8_t)d->model.head.x_zp;
}

static kf_rate_t rate(kf_multiplier_t m) {
    return (kf_rate_t){.mantissa = m.mantissa, .shift = m.shift};
}

static kf_status_t measure_begin(kf_device_t *d) {
    d->phase = PHASE_MEASURE;
    return kf_eval_begin(&d->job.eval, &d->ring, x_zp(d), d->order.epochs > 0 ? &d->master : NULL, &d->base);
}

static kf_status_t job_begin(kf_device_t *d) {
    d->result.train = kf_ring_train_count(&d->ring);
    d->result.held_out = kf_ring_held_out_count(&d->ring);
    if (d->order.epochs == 0) {
        return measure_begin(d);
    }
    const kf_train_config_t config = {
        .seed = d->order.seed,
        .batch = d->order.batch,
        .epochs = d->order.epochs,
        .x_zp = x_zp(d),
        .lr_w = rate(d->order.lr_weights),
        .lr_b = rate(d->order.lr_bias),
        .prox = rate(d->order.prox),
    };
    kf_status_t status = kf_head_load(&d->base, &d->master);
    if (status == KF_OK) {
        status = kf_train_begin(&d->job.train, &config, &d->ring, &d->master, &d->base, d->work,
                                kf_train_bytes(d->ring.classes, d->config->max_batch, d->ring.capacity, d->ring.holdout));
    }
    if (status == KF_OK) {
        d->phase = PHASE_TRAIN;
    }
    return status;
}

static kf_status_t train_end(kf_device_t *d) {
    d->result.loss_q12 = d->job.train.loss_q12;
    if (d->order.flags & KF_ORDER_PERSONALISE) {
        const kf_status_t status =
            kf_head_encode(&d->master, d->job.train.peak_q12, d->personal_blob, d->incoming.size);
        if (status != KF_OK) {
            return status;
        }
        kf_heads_personalise(d);
    }
    return measure_begin(d);
}

static kf_status_t measure_end(kf_device_t *d, uint32_t now_ms) {
    d->result.base_correct = d->job.eval.head_correct;
    d->result.own_correct = d->order.epochs > 0 ? d->job.eval.params_correct : d->job.eval.head_correct;
    if (!wants_update(&d->order)) {
        result_ready(d, now_ms);
        return KF_OK;
    }
    d->phase = PHASE_ENCODE;
    d->result.size = (uint32_t)kf_update_bytes((kf_codec_t)d->order.codec, d->ring.classes, d->ring.width);
    return kf_update_begin(&d->job.update, (kf_codec_t)d->order.codec, &d->master, &d->base, &d->residual, d->work,
                           d->result.size);
}

static void encode_end(kf_device_t *d, uint32_t now_ms) {
    kf_blob_sender_init(&d->sender, d->work, d->result.size);
    memcpy(d->result.update.bytes, d->sender.hash, KF_HASH_BYTES);
    d->result.update.present = 1;
    result_ready(d, now_ms);
}

int kf_round_work(kf_device_t *d, uint32_t max_macs, uint32_t now_ms) {
    kf_status_t status;
    switch (d->phase) {
    case PHASE_BEGIN:
        status = job_begin(d);
        break;
    case PHASE_TRAIN:
        status = kf_train_step(&d->job.train, max_macs);
        status = status == KF_OK ? train_end(d) : status;
        break;
    case PHASE_MEASURE:
        status = kf_eval_step(&d->job.eval, max_macs);
        status = status == KF_OK ? measure_end(d, now_ms) : status;
        break;
    case PHASE_ENCODE:
        status = kf_update_step(&d->job.update, max_macs / MACS_PER_WEIGHT + 1u);
        if (status == KF_OK) {
            encode_end(d, now_ms);
        }
        break;
    default:
        return 0;
    }
    if (status < 0) { /* a rate outside the trainer's range is KF_ERR_ARG: the order's mistake */
        round_fail(d, status == KF_ERR_ARG ? KF_ERR_MESSAGE : status, KF_MSG_TRAIN);
    }
    return 1;
}

uint16_t kf_round_progress(const kf_device_t *d) {
    if (d->state == KF_STATE_UPLOADING || d->phase > PHASE_TRAIN) {
        return 1000;
    }
    if (d->phase != PHASE_TRAIN) {
        return 0;
    }
    const kf_train_progress_t p = kf_train_progress(&d->job.train);
    /* total <= 255 * 65535 < 2^24: above 2^22 the thousandth is taken first, so that nothing passes 32 bits. */
    if (p.total == 0) {
        return 0;
    }
    const uint32_t thousandths = p.total < (1u << 22) ? p.done * 1000u / p.total : p.done / (p.total / 1000u);
    return (uint16_t)(thousandths > 1000u ? 1000u : thousandths);
}

uint32_t kf_round_loss(const kf_device_t *d) {
    return d->phase == PHASE_TRAIN ? d->job.train.loss_q12 : d->result.loss_q12;
}
