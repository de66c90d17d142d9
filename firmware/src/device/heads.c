/* The heads of a device: the received one it works with, the next one that is arriving, and the personal one.
 *
 * Two blobs take turns as base and as incoming, so that a head can arrive while a training or a waiting result still needs the
 * old one. An arrived head becomes the base as soon as no round is under way. */
#include <string.h>

#include "../nn/f32.h"
#include "core.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the overlay reads the blob's little-endian biases in place: a big-endian core needs a copy here"
#endif

uint32_t kf_weight_scale(uint32_t step, uint32_t x_scale_bits) {
    /* step < 2^24 and the scale's 24-bit mantissa m: the quotient is developed to 31 bits or more and a sticky bit, so
     * that packing it rounds as the exact quotient would. A double's division rounded to float32 gives the same: 53 bits are
     * more than twice 24 plus 2, where rounding twice is harmless (Figueroa, 1995). */
    const kf_f32_t x = kf_f32_split(x_scale_bits);
    uint32_t rest = step;
    int32_t exponent = -20 - x.e;
    while (rest < x.m) { /* at most 24 times: step >= 1 and m < 2^24 */
        rest <<= 1;
        exponent--;
    }
    uint32_t quotient = 0; /* the first bit is 1, as m <= rest < 2m */
    for (unsigned bit = 0; bit < 31; bit++) {
        quotient <<= 1;
        if (rest >= x.m) {
            rest -= x.m;
            quotient |= 1u;
        }
        rest <<= 1;
    }
    return kf_f32_pack(((uint64_t)quotient << 1) | (rest != 0), exponent - 31);
}

static kf_head_overlay_t overlay_of(const kf_device_t *d, const kf_head_view_t *view) {
    return (kf_head_overlay_t){
        .weights = (const int8_t *)view->weights,
        .bias = (const int32_t *)(const void *)view->bias, /* blobs begin on a multiple of 4, biases too */
        .w_scale_f32 = kf_weight_scale(view->step, d->model.head.x_scale_f32),
        .out_scale_f32 = view->out_scale_bits,
        .out_zp = view->out_zp,
    };
}

static void overlay_set(kf_device_t *d, const kf_head_view_t *view, kf_head_in_use_t in_use) {
    d->overlay = overlay_of(d, view);
    d->overlay_stale = 1;
    d->head_in_use = (uint8_t)in_use;
}

void kf_heads_personalise(kf_device_t *d) {
    kf_head_view_t view;
    if (kf_head_parse(&view, d->personal_blob, d->incoming.size) == KF_OK) {
        overlay_set(d, &view, KF_HEAD_PERSONAL);
    }
}

const uint8_t *kf_heads_newest(const kf_device_t *d) {
    if (d->incoming.stage == KF_BLOB_WHOLE) {
        return d->incoming.hash;
    }
    return d->base.weights != NULL ? d->base_hash : NULL;
}

void kf_heads_adopt(kf_device_t *d) {
    if (d->incoming.stage != KF_BLOB_WHOLE) {
        return;
    }
    uint8_t *const arrived = d->incoming.buffer;
    if (kf_head_parse(&d->base, arrived, d->incoming.size) != KF_OK) {
        return; /* it was parsed when it arrived and has not changed since */
    }
    memcpy(d->base_hash, d->incoming.hash, KF_HASH_BYTES);
    kf_blob_receiver_init(&d->incoming, d->base_blob, d->incoming.size, d->config->window, d->config->max_frame);
    d->base_blob = arrived;
    overlay_set(d, &d->base, KF_HEAD_OF_HOST);
}

static void accept_say(kf_device_t *d, uint16_t id, uint32_t offset, kf_verdict_t verdict) {
    d->accept = (kf_accept_t){.id = id, .offset = offset, .verdict = (uint8_t)verdict};
    d->say |= KF_SAY_ACCEPT;
}

static void progress_say(kf_device_t *d) {
    const kf_blob_receiver_t *in = &d->incoming;
    accept_say(d, kf_blob_id(in->hash), in->offset, in->stage == KF_BLOB_WHOLE ? KF_COMPLETE : KF_RECEIVING);
}

static int is_base(const kf_device_t *d, uint16_t id) {
    return d->base.weights != NULL && kf_blob_id(d->base_hash) == id;
}

void kf_heads_offer(kf_device_t *d, const kf_offer_t *offer) {
    const uint16_t id = kf_blob_id(offer->hash);
    if (offer->kind != KF_BLOB_HEAD) {
        kf_say_error(d, KF_ERR_MESSAGE, KF_MSG_OFFER);
        return;
    }
    if (d->base.weights != NULL && memcmp(d->base_hash, offer->hash, KF_HASH_BYTES) == 0) {
        kf_blob_receiver_drop(&d->incoming); /* the host has gone back to the head in use */
        accept_say(d, id, d->incoming.size, KF_COMPLETE);
        return;
    }
    if (kf_blob_offered(&d->incoming, offer) != KF_OK) {
        accept_say(d, id, 0, KF_REFUSED);
        kf_say_error(d, KF_ERR_BLOB, d->incoming.size);
        return;
    }
    progress_say(d);
}

/* Whether the head that has arrived whole is one of this model's. Its scales are judged here, because a head that the
 * interpreter refuses would stop inference later, and with it the way of samples into the ring. */
static kf_status_t arrived_check(const kf_device_t *d) {
    kf_head_view_t view;
    kf_status_t status = kf_head_parse(&view, d->incoming.buffer, d->incoming.size);
    if (status != KF_OK) {
        return status;
    }
    if (view.codec != KF_CODEC_INT8 || view.classes != d->model.head.classes || view.features != d->model.head.features) {
        return KF_ERR_SHAPE;
    }
    const kf_head_overlay_t overlay = overlay_of(d, &view);
    return kf_nn_check_overlay(&d->model, &overlay) == KF_OK ? KF_OK : KF_ERR_BLOB;
}

void kf_heads_chunk(kf_device_t *d, const kf_chunk_t *chunk, uint16_t wire_bytes, uint32_t now_ms) {
    const int was_whole = d->incoming.stage == KF_BLOB_WHOLE;
    kf_status_t status = kf_blob_chunk(&d->incoming, chunk, wire_bytes, now_ms);
    if (status == KF_MORE) {
        return;
    }
    if (status == KF_ERR_STATE && is_base(d, chunk->id)) { /* a repetition: it has all arrived and is in use */
        accept_say(d, chunk->id, d->incoming.size, KF_COMPLETE);
        return;
    }
    if (status == KF_OK && !was_whole && d->incoming.stage == KF_BLOB_WHOLE) {
        status = arrived_check(d);
        if (status != KF_OK) {
            kf_blob_receiver_drop(&d->incoming);
        }
    }
    if (status != KF_OK) {
        accept_say(d, chunk->id, 0, KF_REFUSED);
        kf_say_error(d, status == KF_ERR_STATE ? KF_ERR_BLOB : status, 0);
        return;
    }
    progress_say(d);
    if (d->incoming.stage == KF_BLOB_WHOLE && (d->state == KF_STATE_IDLE || d->state == KF_STATE_COLLECTING)) {
        kf_heads_adopt(d);
    }
}
