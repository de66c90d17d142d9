/* What the sensor shows, told to a host that watches, and the labels that come back. Only features are kept: they are all that
 * a label needs. */
#include "core.h"

kf_status_t kf_show(kf_device_t *d, const int8_t *input, size_t input_bytes, uint16_t *label) {
    if (d == NULL || d->config == NULL || d->config->shown == NULL) {
        return KF_ERR_ARG;
    }
    const kf_status_t status = kf_collect_classify(d, input, input_bytes, d->config->shown, label);
    if (status == KF_OK) {
        d->seen.number += d->seen.number == UINT32_MAX ? 2u : 1u; /* 0 means none */
        d->seen.label = *label;
        d->seen.score = (uint8_t)(kf_nn_output(&d->nn)[*label] + 128);
        d->seen_stale = 1;
    }
    return status;
}

kf_status_t kf_label_shown(kf_device_t *d, uint16_t label) {
    if (d == NULL || d->config == NULL || d->config->shown == NULL) {
        return KF_ERR_ARG;
    }
    if (d->seen.number == 0 || d->labelled == d->seen.number) {
        return KF_ERR_STATE;
    }
    const kf_status_t status = kf_observe_features(d, d->config->shown, d->ring.width, label);
    if (status == KF_OK) {
        d->labelled = d->seen.number;
    }
    return status;
}

void kf_show_watch(kf_device_t *d, uint32_t ms, uint32_t now_ms) {
    if (d->config->shown == NULL) {
        kf_say_error(d, KF_ERR_UNSUPPORTED, KF_MSG_WATCH);
        return;
    }
    /* Times are told apart over half of their range. */
    d->watch_ms = now_ms + (ms > INT32_MAX ? (uint32_t)INT32_MAX : ms);
    d->watched = ms > 0;
    d->seen_ms = now_ms;
    d->seen_stale = 1; /* who begins to watch hears of the newest at once */
}

void kf_show_label(kf_device_t *d, const kf_label_t *label) {
    uint8_t verdict = KF_LABEL_GONE;
    if (d->config->shown != NULL && label->number != 0 && label->number == d->labelled) {
        verdict = KF_LABEL_TAKEN; /* said again: its answer was lost */
    } else if (d->config->shown != NULL && label->number != 0 && label->number == d->seen.number) {
        const kf_status_t status = kf_label_shown(d, label->label);
        verdict = status == KF_OK ? KF_LABEL_TAKEN : status == KF_ERR_BUSY ? KF_LABEL_BUSY : KF_LABEL_REFUSED;
    }
    d->answer = (kf_seen_t){.number = label->number, .label = label->label, .score = 0, .verdict = verdict};
    d->say |= KF_SAY_LABELLED;
}

void kf_show_timer(kf_device_t *d, uint32_t now_ms) {
    if (d->watched && kf_time_reached(now_ms, d->watch_ms)) {
        d->watched = 0;
    }
    if (kf_show_wait_ms(d, now_ms) == 0) {
        d->seen_ms = now_ms + KF_SEEN_MS;
        d->seen_stale = 0;
        d->say |= KF_SAY_SEEN;
    }
}

uint32_t kf_show_wait_ms(const kf_device_t *d, uint32_t now_ms) {
    return d->watched && d->seen_stale ? kf_time_left(now_ms, d->seen_ms) : UINT32_MAX;
}
