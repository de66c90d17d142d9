/* The device: its memory, its loop, and what it says. */
#include "kilofed/device.h"

#include <string.h>

#include "../model/schema.h"
#include "core.h"

/* ---- starting -------------------------------------------------------------------------------------------------- */

static uint8_t *take(uint8_t **at, uint32_t bytes) {
    uint8_t *const part = *at;
    *at += bytes;
    return part;
}

/* Open the model and see what it needs. On failure fault_detail is set. */
static kf_status_t model_begin(kf_device_t *d, kf_device_parts_t *parts) {
    kf_status_t status = kf_model_open(&d->model, d->config->model, d->config->model_bytes);
    if (status != KF_OK) {
        d->fault_detail = (uint32_t)d->model.fault << 16 | d->model.error_op;
        return status;
    }
    status = kf_device_parts(parts, &d->model, d->config);
    if (status == KF_OK && (d->model.input_type != KF_TYPE_INT8 || d->model.output_type != KF_TYPE_INT8 ||
                            d->model.output_bytes != d->model.head.classes)) {
        d->fault_detail = (uint32_t)KF_FAULT_TYPE << 16 | KF_MODEL_NONE; /* float ends: `kilofed convert` strips them */
        status = KF_ERR_UNSUPPORTED;
    }
    if (status == KF_OK) {
        d->needed_bytes = parts->total;
        kf_labels_hash(d->labels_hash, &d->model);
    }
    return status;
}

/* Hand out the block behind the two frames. Sizes come from kf_device_parts(), so none of the calls can fail for room. */
static kf_status_t parts_begin(kf_device_t *d, const kf_device_parts_t *parts, uint8_t *at) {
    const uint16_t classes = d->model.head.classes;
    const uint16_t features = d->model.head.features;
    const uint32_t head_bytes = (uint32_t)kf_head_bytes(KF_CODEC_INT8, classes, features);
    kf_status_t status = kf_ring_init(&d->ring, features, classes, d->config->ring_slots, d->config->held_out_every,
                                      take(&at, parts->ring), parts->ring);
    if (status == KF_OK) {
        status = kf_params_init(&d->master, classes, features, take(&at, parts->master), parts->master);
    }
    d->work = take(&at, parts->work);
    if (status == KF_OK) {
        status = kf_residual_init(&d->residual, classes, features, take(&at, parts->residual), parts->residual);
    }
    if (status != KF_OK) {
        return status;
    }
    kf_residual_clear(&d->residual);
    d->base_blob = take(&at, parts->base);
    kf_blob_receiver_init(&d->incoming, take(&at, parts->incoming), head_bytes, d->config->window, d->config->max_frame);
    d->personal_blob = take(&at, parts->personal);
    d->arena = take(&at, parts->arena);
    d->arena_bytes = parts->arena;
    d->overlay_stale = 1;
    return KF_OK;
}

kf_status_t kf_device_init(kf_device_t *d, const kf_device_config_t *config, void *memory, size_t memory_bytes) {
    if (d == NULL || memory == NULL || (uintptr_t)memory % 4u != 0 || !kf_config_is_valid(config)) {
        return KF_ERR_ARG;
    }
    const uint32_t receive = (KF_SESSION_RECEIVE_BYTES((uint32_t)config->max_frame) + 3u) & ~3u;
    const uint32_t send = (KF_SESSION_SEND_BYTES((uint32_t)config->max_frame) + 3u) & ~3u;
    if (memory_bytes < receive + send) {
        return KF_ERR_ARG;
    }
    memset(d, 0, sizeof *d);
    d->config = config;
    uint8_t *at = memory;
    uint8_t *const receive_buffer = take(&at, receive);
    uint8_t *const send_buffer = take(&at, send);
    const kf_session_config_t session = {
        .identity = config->identity,
        .board = config->board,
        .firmware = config->firmware,
        .max_frame = config->max_frame,
        .window = config->window,
        .port = &config->port,
    };
    kf_session_init(&d->session, &session, receive_buffer, send_buffer, config->port.millis(config->port.context));
    kf_blob_hash(d->model_hash, config->model, config->model_bytes);

    kf_device_parts_t parts;
    kf_status_t status = model_begin(d, &parts);
    if (status == KF_OK && memory_bytes < parts.total) {
        d->fault_detail = parts.total;
        status = KF_ERR_MEMORY;
    }
    if (status == KF_OK) {
        status = parts_begin(d, &parts, at);
    }
    if (status != KF_OK) {
        d->state = KF_STATE_FAILED;
        d->fault = (int16_t)status;
        return status;
    }
    d->fault = (int16_t)kf_collect_begin(d);
    return KF_OK;
}

/* ---- saying ---------------------------------------------------------------------------------------------------- */

void kf_say_error(kf_device_t *d, kf_status_t code, uint32_t detail) {
    d->error = (kf_error_t){.code = (uint8_t)-(int)code, .detail = detail};
    d->say |= KF_SAY_ERROR;
}

static void info_make(kf_device_t *d, kf_info_t *info) {
    memcpy(info->model, d->model_hash, KF_HASH_BYTES);
    memcpy(info->labels, d->labels_hash, KF_HASH_BYTES);
    info->state = d->state;
    info->round = d->order.round;
    if (d->state == KF_STATE_FAILED) {
        return;
    }
    info->classes = d->ring.classes;
    info->features = d->ring.width;
    info->capacity = d->ring.capacity;
    info->train = kf_ring_train_count(&d->ring);
    info->held_out = kf_ring_held_out_count(&d->ring);
    const uint8_t *head = kf_heads_newest(d);
    if (head != NULL) {
        info->head.present = 1;
        memcpy(info->head.bytes, head, KF_HASH_BYTES);
    }
}

/* Make the most urgent message that waits and set the bit it answers. 0: nothing waits. Order: an info comes first in a
 * session; an accept before the status keeps the host's window moving. */
static unsigned message_make(kf_device_t *d, kf_message_t *m, uint32_t now_ms) {
    if (d->say & KF_SAY_INFO) {
        m->type = KF_MSG_INFO;
        info_make(d, &m->as.info);
        d->info_stale = 0;
        d->info_ms = now_ms + (d->session.heard ? KF_INFO_MS : KF_SESSION_REPEAT_MS);
        return KF_SAY_INFO;
    }
    if (d->say & KF_SAY_ERROR) {
        m->type = KF_MSG_ERROR;
        m->as.error = d->error;
        return KF_SAY_ERROR;
    }
    if (d->say & KF_SAY_BUSY) {
        m->type = KF_MSG_BUSY;
        m->as.busy.ms = d->busy_ms;
        kf_session_busy(&d->session, d->busy_ms);
        return KF_SAY_BUSY;
    }
    if (d->say & KF_SAY_ACCEPT) {
        m->type = KF_MSG_ACCEPT;
        m->as.accept = d->accept;
        return KF_SAY_ACCEPT;
    }
    if (d->say & KF_SAY_LABELLED) {
        m->type = KF_MSG_SEEN;
        m->as.seen = d->answer;
        return KF_SAY_LABELLED;
    }
    if (d->say & KF_SAY_STATUS) {
        m->type = KF_MSG_STATUS;
        m->as.status = (kf_report_t){.state = d->state,
                                     .round = d->order.round,
                                     .progress = d->state == KF_STATE_FAILED ? 0 : kf_round_progress(d),
                                     .loss_q12 = d->state == KF_STATE_FAILED ? 0 : kf_round_loss(d)};
        d->status_ms = now_ms + KF_STATUS_MS;
        return KF_SAY_STATUS;
    }
    if (d->say & KF_SAY_RESULT) {
        m->type = KF_MSG_RESULT;
        m->as.result = d->result;
        d->result_ms = now_ms + KF_SESSION_REPEAT_MS;
        return KF_SAY_RESULT;
    }
    if (d->say & KF_SAY_SEEN) {
        m->type = KF_MSG_SEEN;
        m->as.seen = d->seen;
        return KF_SAY_SEEN;
    }
    return 0;
}

static void speak(kf_device_t *d, uint32_t now_ms) {
    while (kf_session_can_send(&d->session)) {
        kf_message_t message = {.type = KF_MSG_PING};
        unsigned said = 0;
        if (d->leaving) {
            message.type = KF_MSG_BYE;
            message.as.bye.reason = (uint8_t)(d->leaving - 1u);
        } else {
            said = message_make(d, &message, now_ms);
            if (said == 0) {
                if (!kf_blob_next(&d->sender, &message.as.chunk, now_ms)) {
                    return;
                }
                message.type = KF_MSG_CHUNK;
            }
        }
        d->say &= (uint16_t)~said;
        const kf_status_t status = kf_session_send(&d->session, &message);
        (void)status; /* every message here is in range and shorter than the smallest frame takes */
        if (d->leaving) {
            d->leaving = 0;
            kf_session_end(&d->session, now_ms);
        }
    }
}

/* ---- hearing --------------------------------------------------------------------------------------------------- */

/* Nothing of a session that is over is said in the next one; what is still true is said again there. */
static void session_lost(kf_device_t *d) {
    d->say = 0;
    d->watched = 0;
    d->leaving = 0;
    kf_blob_sender_pause(&d->sender);
}

static void session_opened(kf_device_t *d) {
    session_lost(d);
    d->say = KF_SAY_INFO;
    d->answered = 0;
    if (d->fault != KF_OK) {
        kf_say_error(d, (kf_status_t)d->fault, d->fault_detail);
    }
    if (d->state == KF_STATE_UPLOADING) {
        d->say |= KF_SAY_RESULT;
    }
}

static void message_handle(kf_device_t *d, const kf_message_t *m, uint32_t now_ms) {
    switch (m->type) {
    case KF_MSG_PING:
        d->say |= KF_SAY_STATUS;
        return;
    case KF_MSG_BYE:
        session_lost(d);
        return;
    case KF_MSG_ERROR:
        return; /* the host's trouble; what it does about it comes as other messages */
    default:
        break;
    }
    if (d->state == KF_STATE_FAILED) {
        kf_say_error(d, (kf_status_t)d->fault, d->fault_detail);
        if (m->type == KF_MSG_COMMIT || m->type == KF_MSG_CANCEL) {
            d->say |= KF_SAY_STATUS;
        }
        return;
    }
    switch (m->type) {
    case KF_MSG_OFFER:
        kf_heads_offer(d, &m->as.offer);
        break;
    case KF_MSG_CHUNK:
        kf_heads_chunk(d, &m->as.chunk, d->session.wire_bytes, now_ms);
        break;
    case KF_MSG_ACCEPT:
        kf_round_accept(d, &m->as.accept, now_ms);
        break;
    case KF_MSG_TRAIN:
        kf_round_order(d, &m->as.train, now_ms);
        break;
    case KF_MSG_COMMIT:
        kf_round_commit(d, &m->as.commit);
        break;
    case KF_MSG_CANCEL:
        kf_round_cancel(d, m->as.cancel.round);
        break;
    case KF_MSG_WATCH:
        kf_show_watch(d, m->as.watch.ms, now_ms);
        break;
    case KF_MSG_LABEL:
        kf_show_label(d, &m->as.label);
        break;
    default: /* a device's own message, sent by a host */
        kf_say_error(d, KF_ERR_MESSAGE, m->type);
        break;
    }
}

kf_status_t kf_receive(kf_device_t *d, const uint8_t *bytes, size_t size) {
    if (d == NULL || d->config == NULL || (bytes == NULL && size > 0)) {
        return KF_ERR_ARG;
    }
    const uint32_t now_ms = d->config->port.millis(d->config->port.context);
    while (size > 0) {
        kf_message_t message;
        kf_session_event_t event;
        const size_t taken = kf_session_receive(&d->session, bytes, size, now_ms, &message, &event);
        bytes += taken;
        size -= taken;
        switch (event) {
        case KF_SESSION_OPENED:
            session_opened(d);
            break;
        case KF_SESSION_MESSAGE:
            message_handle(d, &message, now_ms);
            break;
        case KF_SESSION_BAD_MESSAGE:
            if (message.type != KF_MSG_ERROR) { /* or two sides could answer errors with errors for ever */
                kf_say_error(d, (kf_status_t)d->session.status, message.type);
            }
            break;
        default:
            break;
        }
    }
    return KF_OK;
}

/* ---- the loop -------------------------------------------------------------------------------------------------- */

static int wants_result(const kf_device_t *d) {
    return d->state == KF_STATE_UPLOADING && !d->answered;
}

/* Set the bits of what is due. */
static void timers(kf_device_t *d, uint32_t now_ms) {
    if (!kf_session_is_open(&d->session)) {
        return;
    }
    const int info_wanted = !d->session.heard || (d->info_stale && d->state == KF_STATE_IDLE);
    if (kf_time_reached(now_ms, d->info_ms)) {
        if (info_wanted) {
            d->say |= KF_SAY_INFO;
        } else {
            d->info_ms = now_ms; /* a time in the past that stays near, however long nothing changes */
        }
    }
    if (d->state == KF_STATE_TRAINING && kf_time_reached(now_ms, d->status_ms)) {
        d->say |= KF_SAY_STATUS;
    }
    if (wants_result(d) && kf_time_reached(now_ms, d->result_ms)) {
        d->say |= KF_SAY_RESULT;
    }
    kf_show_timer(d, now_ms);
    if (kf_blob_poll(&d->sender, now_ms)) {
        kf_session_end(&d->session, now_ms);
        session_lost(d);
    }
}

static uint32_t sooner(uint32_t wait_ms, uint32_t now_ms, uint32_t then_ms) {
    const uint32_t left = kf_time_left(now_ms, then_ms);
    return left < wait_ms ? left : wait_ms;
}

static uint32_t wait_ms(const kf_device_t *d, uint32_t now_ms) {
    uint32_t wait = kf_session_wait_ms(&d->session, now_ms);
    if (!kf_session_is_open(&d->session)) {
        return wait;
    }
    if (d->say != 0 && kf_session_can_send(&d->session)) {
        return 0;
    }
    if (!d->session.heard || (d->info_stale && d->state == KF_STATE_IDLE)) {
        wait = sooner(wait, now_ms, d->info_ms);
    }
    if (wants_result(d)) {
        wait = sooner(wait, now_ms, d->result_ms);
    }
    if (d->sender.active) {
        wait = sooner(wait, now_ms, d->sender.again_ms);
    }
    const uint32_t show = kf_show_wait_ms(d, now_ms);
    return show < wait ? show : wait;
}

uint32_t kf_poll(kf_device_t *d, uint32_t max_macs) {
    const uint32_t now_ms = d->config->port.millis(d->config->port.context);
    if (kf_session_poll(&d->session, now_ms)) {
        session_lost(d);
    }
    timers(d, now_ms);
    speak(d, now_ms);
    if (d->state == KF_STATE_FAILED) {
        return wait_ms(d, now_ms);
    }
    const uint32_t budget = max_macs == 0 ? 1 : max_macs;
    if (kf_collect_work(d, budget) || kf_round_work(d, budget, now_ms)) {
        return 0;
    }
    return wait_ms(d, now_ms);
}

void kf_busy(kf_device_t *d, uint32_t ms) {
    d->busy_ms = ms;
    d->say |= KF_SAY_BUSY;
}

void kf_leave(kf_device_t *d, kf_reason_t reason) {
    if (kf_session_is_open(&d->session)) {
        d->leaving = (uint8_t)((unsigned)reason + 1u);
    }
}
