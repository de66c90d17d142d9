#include "kilofed/blob.h"

#include <string.h>

#include <monocypher.h>

#include "kilofed/frame.h"
#include "kilofed/session.h"

uint16_t kf_blob_id(const uint8_t hash[KF_HASH_BYTES]) {
    return (uint16_t)(((unsigned)hash[0] << 8) | hash[1]);
}

void kf_blob_hash(uint8_t out[KF_HASH_BYTES], const uint8_t *bytes, size_t size) {
    crypto_blake2b(out, KF_HASH_BYTES, bytes, size);
}

/* ---- receiving ------------------------------------------------------------------------------------------------- */

void kf_blob_receiver_init(kf_blob_receiver_t *r, uint8_t *buffer, uint32_t size, uint16_t window, uint16_t max_frame) {
    /* Chunks are a little shorter than the longest frame: by bytes alone half of four would be three, and the one that is still
     * under way would end before an accept has crossed a USB adapter. */
    const uint32_t half = (uint32_t)window / max_frame / 2u;
    memset(r, 0, sizeof *r);
    r->buffer = buffer;
    r->size = size;
    r->window = window;
    r->accept_chunks = KF_BLOB_ACCEPT_CHUNKS;
    if (half < KF_BLOB_ACCEPT_CHUNKS) {
        r->accept_chunks = (uint8_t)(half > 0 ? half : UINT32_C(1));
    }
}

void kf_blob_receiver_drop(kf_blob_receiver_t *r) {
    r->stage = KF_BLOB_EMPTY;
    r->offset = 0;
    r->stray = 0;
    r->unaccepted_bytes = 0;
    r->unaccepted_chunks = 0;
    memset(r->hash, 0, sizeof r->hash);
}

kf_status_t kf_blob_offered(kf_blob_receiver_t *r, const kf_offer_t *offer) {
    if (offer->size != r->size) {
        return KF_ERR_SHAPE;
    }
    if (r->stage == KF_BLOB_EMPTY || memcmp(r->hash, offer->hash, KF_HASH_BYTES) != 0) {
        kf_blob_receiver_drop(r);
        memcpy(r->hash, offer->hash, KF_HASH_BYTES);
        r->stage = KF_BLOB_PARTIAL;
    }
    r->unaccepted_bytes = 0;
    r->unaccepted_chunks = 0;
    r->stray = 0;
    return KF_OK;
}

kf_status_t kf_blob_chunk(kf_blob_receiver_t *r, const kf_chunk_t *chunk, uint16_t wire_bytes, uint32_t now_ms) {
    if (r->stage == KF_BLOB_EMPTY || chunk->id != kf_blob_id(r->hash)) {
        return KF_ERR_STATE;
    }
    if (chunk->offset != r->offset || r->stage == KF_BLOB_WHOLE) {
        /* Lost, or repeated: say at once where we are, but not for each chunk of a window that follows a lost one. */
        if (r->stray && r->stray_offset == r->offset && !kf_time_reached(now_ms, r->stray_ms + KF_BLOB_STRAY_MS)) {
            return KF_MORE;
        }
        r->stray = 1;
        r->stray_ms = now_ms;
        r->stray_offset = r->offset;
        r->unaccepted_bytes = 0;
        r->unaccepted_chunks = 0;
        return KF_OK;
    }
    if (chunk->data.size > r->size - r->offset) {
        kf_blob_receiver_drop(r);
        return KF_ERR_BLOB;
    }
    memcpy(r->buffer + r->offset, chunk->data.at, chunk->data.size);
    r->offset += chunk->data.size;
    r->stray = 0;
    if (r->offset == r->size) {
        uint8_t hash[KF_HASH_BYTES];
        kf_blob_hash(hash, r->buffer, r->size);
        if (memcmp(hash, r->hash, sizeof hash) != 0) {
            kf_blob_receiver_drop(r);
            return KF_ERR_BLOB;
        }
        r->stage = KF_BLOB_WHOLE;
        return KF_OK;
    }
    r->unaccepted_chunks++;
    const uint32_t unaccepted = (uint32_t)r->unaccepted_bytes + wire_bytes;
    r->unaccepted_bytes = (uint16_t)(unaccepted > UINT16_MAX ? UINT16_MAX : unaccepted);
    if (2u * unaccepted < r->window && r->unaccepted_chunks < r->accept_chunks) {
        return KF_MORE;
    }
    r->unaccepted_bytes = 0;
    r->unaccepted_chunks = 0;
    return KF_OK;
}

/* ---- sending --------------------------------------------------------------------------------------------------- */

#define LINE_BYTES_PER_S 11520u /* 115 200 baud, eight bits, start and stop: the slowest line a timeout is made for */
#define CHUNK_MAX 1000u

void kf_blob_sender_init(kf_blob_sender_t *s, const uint8_t *blob, uint32_t size) {
    memset(s, 0, sizeof *s);
    s->blob = blob;
    s->size = size;
    kf_blob_hash(s->hash, blob, size);
}

void kf_blob_sender_pause(kf_blob_sender_t *s) {
    s->active = 0;
    s->tries = 0;
    s->gone_back = s->gone_from = 0;
}

/* Bytes of a chunk message beside its data: array head, type 7, id, offset and the head of the data, at their longest for a
 * blob of this size in frames of this size. */
static size_t chunk_overhead(uint32_t size, size_t message_max) {
    return 1u + 1u + 3u + (size > UINT16_MAX ? 5u : 3u) + (message_max > 255u ? 3u : 2u);
}

static uint32_t backoff_ms(const kf_blob_sender_t *s) {
    const uint32_t ms = (uint32_t)s->rto_ms << s->tries;
    return ms > KF_BLOB_RTO_MAX_MS ? KF_BLOB_RTO_MAX_MS : ms;
}

kf_status_t kf_blob_accepted(kf_blob_sender_t *s, const kf_accept_t *accept, uint16_t max_frame, size_t message_max,
                             uint16_t window, uint32_t now_ms) {
    if (accept->verdict == KF_REFUSED) {
        kf_blob_sender_pause(s);
        s->accepted = s->next = 0;
        return KF_ERR_BLOB;
    }
    if (accept->offset > s->size) {
        return KF_ERR_MESSAGE;
    }
    const size_t data = message_max - chunk_overhead(s->size, message_max);
    s->chunk_bytes = (uint16_t)(data > CHUNK_MAX ? CHUNK_MAX : data);
    const uint32_t in_window = (uint32_t)window / max_frame;
    s->in_window = (uint16_t)(in_window > 0 ? in_window : UINT32_C(1));
    s->rto_ms = (uint16_t)(500u + (uint32_t)window * 1000u / LINE_BYTES_PER_S);

    const int begins = !s->active;
    const int progress = begins || accept->offset > s->accepted;
    /* It says what the receiver has, even if that is less than before: it may have been reset. The same offset again means
     * that a chunk was lost and what follows it is in vain; only once an offset, as each of those says it again. And not where it
     * once went back from: if nothing was lost then, all that it sent twice says so there, and going back would never end. */
    if (begins || accept->offset < s->accepted || accept->offset > s->next) {
        s->next = accept->offset;
    } else if (accept->offset == s->accepted && s->gone_back != accept->offset + 1u && s->gone_from != accept->offset) {
        s->gone_from = s->next;
        s->next = accept->offset;
        s->gone_back = accept->offset + 1u;
    }
    s->accepted = accept->offset;
    s->active = accept->verdict != KF_COMPLETE && accept->offset < s->size;
    if (progress) {
        s->tries = 0;
        s->again_ms = now_ms + backoff_ms(s);
    }
    return KF_OK;
}

int kf_blob_next(kf_blob_sender_t *s, kf_chunk_t *chunk, uint32_t now_ms) {
    if (!s->active || s->next == s->size || s->next - s->accepted >= (uint32_t)s->in_window * s->chunk_bytes) {
        return 0;
    }
    const uint32_t left = s->size - s->next;
    chunk->id = kf_blob_id(s->hash);
    chunk->offset = s->next;
    chunk->data.at = s->blob + s->next;
    chunk->data.size = (uint16_t)(left < s->chunk_bytes ? left : s->chunk_bytes);
    if (s->next == s->accepted) {
        s->again_ms = now_ms + backoff_ms(s);
    }
    s->next += chunk->data.size;
    return 1;
}

int kf_blob_poll(kf_blob_sender_t *s, uint32_t now_ms) {
    if (!s->active || s->next == s->accepted || !kf_time_reached(now_ms, s->again_ms)) {
        return 0;
    }
    if (s->tries == KF_BLOB_TRIES) {
        return 1;
    }
    s->tries++;
    s->gone_from = s->next;
    s->next = s->accepted;
    s->gone_back = 0;
    return 0;
}
