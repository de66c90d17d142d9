/* From samples to features: placed ones at boot, observed ones later. One inference is under way at a time. */
#include <string.h>

#include "../bytes.h"
#include "../link/crc32.h"
#include "core.h"

#define SAMPLES_MAGIC UINT32_C(0x3153464B) /* "KFS1" */
#define SAMPLES_HEADER 16u

kf_status_t kf_collect_begin(kf_device_t *d) {
    const kf_samples_t *s = &d->config->samples;
    d->state = KF_STATE_IDLE;
    if (s->data == NULL || s->bytes < SAMPLES_HEADER || kf_get_u32(s->data) != SAMPLES_MAGIC) {
        return KF_OK;
    }
    const uint32_t count = kf_get_u32(s->data + 4);
    const uint32_t input_bytes = kf_get_u32(s->data + 8);
    const uint32_t room = s->bytes - SAMPLES_HEADER;
    if (input_bytes != d->model.input_bytes) {
        d->fault_detail = input_bytes;
        return KF_ERR_SHAPE;
    }
    /* input_bytes <= 2^24 (kf_model_open), so the divisor does not wrap. */
    if (count > room / (input_bytes + 2u) ||
        kf_crc32(0, s->data + SAMPLES_HEADER, (size_t)count * (input_bytes + 2u)) != kf_get_u32(s->data + 12)) {
        return KF_ERR_BLOB;
    }
    d->placed_inputs = s->data + SAMPLES_HEADER;
    d->placed_count = count;
    d->placed_next = 0;
    if (count > 0) {
        d->state = KF_STATE_COLLECTING;
    }
    return KF_OK;
}

/* Ready the interpreter for a new input: anew when the head has changed. */
static kf_status_t inference_begin(kf_device_t *d) {
    if (!d->overlay_stale) {
        kf_nn_restart(&d->nn);
        return KF_OK;
    }
    const kf_head_overlay_t *overlay = d->head_in_use == KF_HEAD_OF_FILE ? NULL : &d->overlay;
    const kf_status_t status = kf_nn_begin(&d->nn, &d->model, d->arena, d->arena_bytes, overlay);
    d->overlay_stale = status != KF_OK;
    return status;
}

static kf_status_t sample_begin(kf_device_t *d, const void *input, uint16_t label) {
    kf_status_t status = inference_begin(d);
    if (status == KF_OK) {
        status = kf_nn_stop_at_features(&d->nn);
    }
    if (status == KF_OK) {
        memcpy(kf_nn_input(&d->nn), input, d->model.input_bytes);
        d->label = label;
        d->inferring = 1;
    }
    return status;
}

static void sample_end(kf_device_t *d) {
    d->inferring = 0;
    /* The ring is not locked: a training begins only when no inference is under way. A placed label may be out of range:
     * such a sample is left out. */
    if (kf_ring_push(&d->ring, kf_nn_features(&d->nn), d->ring.width, d->label) == KF_OK) {
        d->info_stale = 1;
    }
}

static void placed_begin(kf_device_t *d) {
    const uint32_t i = d->placed_next++;
    const uint32_t bytes = d->model.input_bytes;
    const uint8_t *labels = d->placed_inputs + (size_t)d->placed_count * bytes;
    const uint16_t label = (uint16_t)kf_get_u16(labels + 2u * (size_t)i);
    if (sample_begin(d, d->placed_inputs + (size_t)i * bytes, label) != KF_OK) {
        d->placed_next = d->placed_count; /* no inference begins: the next one would not either */
    }
}

int kf_collect_work(kf_device_t *d, uint32_t max_macs) {
    if (d->inferring) {
        const kf_status_t status = kf_nn_step(&d->nn, max_macs);
        if (status == KF_OK) {
            sample_end(d);
        } else if (status != KF_MORE) {
            d->inferring = 0;
        }
        return 1;
    }
    if (d->state != KF_STATE_COLLECTING) {
        return 0;
    }
    if (d->placed_next < d->placed_count) {
        placed_begin(d);
        return 1;
    }
    d->state = KF_STATE_IDLE;
    d->say |= KF_SAY_INFO;
    return 1;
}

/* ---- what an application calls --------------------------------------------------------------------------------- */

static kf_status_t observable(const kf_device_t *d, uint16_t label) {
    if (d->state == KF_STATE_FAILED) {
        return KF_ERR_STATE;
    }
    if (label >= d->ring.classes) {
        return KF_ERR_ARG;
    }
    return d->inferring || d->state == KF_STATE_COLLECTING || d->state == KF_STATE_TRAINING ? KF_ERR_BUSY : KF_OK;
}

kf_status_t kf_observe(kf_device_t *d, const int8_t *input, size_t input_bytes, uint16_t label) {
    if (d == NULL || input == NULL) {
        return KF_ERR_ARG;
    }
    const kf_status_t status = observable(d, label);
    if (status != KF_OK) {
        return status;
    }
    return input_bytes == d->model.input_bytes ? sample_begin(d, input, label) : KF_ERR_SHAPE;
}

kf_status_t kf_observe_features(kf_device_t *d, const int8_t *features, size_t feature_bytes, uint16_t label) {
    if (d == NULL || features == NULL) {
        return KF_ERR_ARG;
    }
    kf_status_t status = observable(d, label);
    if (status == KF_OK) {
        status = kf_ring_push(&d->ring, features, feature_bytes, label);
    }
    if (status == KF_OK) {
        d->info_stale = 1;
    }
    return status;
}

static kf_status_t run(kf_device_t *d) {
    kf_status_t status;
    do {
        status = kf_nn_step(&d->nn, UINT32_MAX);
    } while (status == KF_MORE);
    return status;
}

kf_status_t kf_collect_classify(kf_device_t *d, const int8_t *input, size_t input_bytes, int8_t *features,
                                uint16_t *label) {
    if (d == NULL || input == NULL || label == NULL) {
        return KF_ERR_ARG;
    }
    if (d->state == KF_STATE_FAILED) {
        return KF_ERR_STATE;
    }
    if (input_bytes != d->model.input_bytes) {
        return KF_ERR_SHAPE;
    }
    while (d->inferring) {
        (void)kf_collect_work(d, UINT32_MAX);
    }
    kf_status_t status = inference_begin(d);
    if (status == KF_OK && features != NULL) {
        status = kf_nn_stop_at_features(&d->nn);
    }
    if (status == KF_OK) {
        memcpy(kf_nn_input(&d->nn), input, input_bytes);
        status = run(d);
    }
    if (status == KF_OK && features != NULL) {
        memcpy(features, kf_nn_features(&d->nn), d->ring.width);
        kf_nn_continue(&d->nn);
        status = run(d);
    }
    if (status == KF_OK) {
        const int8_t *scores = kf_nn_output(&d->nn);
        uint16_t best = 0;
        for (uint16_t c = 1; c < d->ring.classes; c++) {
            best = scores[c] > scores[best] ? c : best;
        }
        *label = best;
    }
    return status;
}

kf_status_t kf_classify(kf_device_t *d, const int8_t *input, size_t input_bytes, uint16_t *label) {
    return kf_collect_classify(d, input, input_bytes, NULL, label);
}
