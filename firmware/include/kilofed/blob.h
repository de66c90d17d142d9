/* kilofed: blobs: bytes with a hash that are moved in chunks, in either direction, and resume where they stopped.
 *
 * PROTOCOL.md, "Blobs". The two halves here are independent: the receiver fills the caller's buffer and says which accept to
 * send; the sender reads the caller's blob and says which chunk to send. Neither makes frames and neither is tied to a
 * session: after a new one the receiver still knows what it has, and the sender begins where the other side says. */
#ifndef KILOFED_BLOB_H
#define KILOFED_BLOB_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/message.h"
#include "kilofed/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The two first hash bytes, big endian: how accepts and chunks name a blob. */
uint16_t kf_blob_id(const uint8_t hash[KF_HASH_BYTES]);

/* BLAKE2b with an 8-byte digest, the hash of every blob and file. */
void kf_blob_hash(uint8_t out[KF_HASH_BYTES], const uint8_t *bytes, size_t size);

/* ---- receiving ------------------------------------------------------------------------------------------------- */

#define KF_BLOB_ACCEPT_CHUNKS 4u    /* an accept after so many chunks, half a window, or half the frames that fit it */
#define KF_BLOB_STRAY_MS 100u       /* least time between two accepts that answer chunks at a wrong offset */

typedef enum kf_blob_stage {
    KF_BLOB_EMPTY = 0, /* nothing was offered, or what came was wrong */
    KF_BLOB_PARTIAL,
    KF_BLOB_WHOLE /* `size` bytes with the right hash */
} kf_blob_stage_t;

/* A receiver: 40 bytes. Fields may be read. */
typedef struct kf_blob_receiver {
    uint8_t *buffer;
    uint32_t size;     /* of the one size of blob it takes */
    uint32_t offset;   /* received so far */
    uint32_t stray_ms; /* when a chunk at a wrong offset was last answered */
    uint32_t stray_offset;
    uint16_t window;
    uint16_t unaccepted_bytes; /* on the wire, since the last accept */
    uint8_t unaccepted_chunks;
    uint8_t accept_chunks; /* after so many an accept is due, 1 to KF_BLOB_ACCEPT_CHUNKS */
    uint8_t stray;     /* stray_ms and stray_offset are set */
    uint8_t stage;     /* kf_blob_stage_t */
    uint8_t hash[KF_HASH_BYTES]; /* of the blob offered; set from KF_BLOB_PARTIAL on */
} kf_blob_receiver_t;

/* Receive blobs of exactly `size` bytes into `buffer`, which must outlive the receiver. window, max_frame: as in the hello. */
void kf_blob_receiver_init(kf_blob_receiver_t *receiver, uint8_t *buffer, uint32_t size, uint16_t window,
                           uint16_t max_frame);

/* Forget what was received, whole or partial. */
void kf_blob_receiver_drop(kf_blob_receiver_t *receiver);

/* An offer. KF_OK: send an accept with `offset` and `stage`. The same hash as before keeps what there is; another one drops
 * it. KF_ERR_SHAPE: another size than the one taken; nothing changes: refuse it. */
KF_MUST_CHECK kf_status_t kf_blob_offered(kf_blob_receiver_t *receiver, const kf_offer_t *offer);

/* A chunk that took `wire_bytes` on the line. KF_OK: send an accept with `offset` and `stage`. KF_MORE: taken, or ignored
 * as a repetition; nothing to send. KF_ERR_BLOB: the blob is complete and its hash is wrong, or the chunk leaves it: it is
 * dropped, refuse it. KF_ERR_STATE: no such blob is being received. */
KF_MUST_CHECK kf_status_t kf_blob_chunk(kf_blob_receiver_t *receiver, const kf_chunk_t *chunk, uint16_t wire_bytes,
                                        uint32_t now_ms);

/* ---- sending --------------------------------------------------------------------------------------------------- */

#define KF_BLOB_TRIES 8u         /* timeouts without progress that end a session */
#define KF_BLOB_RTO_MAX_MS 4000u

/* A sender: 44 bytes. Fields may be read. */
typedef struct kf_blob_sender {
    const uint8_t *blob;
    uint32_t size;
    uint32_t accepted; /* by the receiver */
    uint32_t next;     /* offset of the next chunk */
    uint32_t again_ms; /* when to start again from `accepted` */
    uint32_t gone_back; /* offset an accept has already made it go back to, plus 1; 0: none */
    uint32_t gone_from; /* `next` before it last went back; 0: it did not */
    uint16_t chunk_bytes;
    uint16_t in_window; /* chunks that fit the window, 1 or more */
    uint16_t rto_ms;   /* before doubling */
    uint8_t tries;     /* timeouts since the last progress */
    uint8_t active;    /* the receiver has said where to begin, and has not got all */
    uint8_t hash[KF_HASH_BYTES];
} kf_blob_sender_t;

/* Ready to send `size` bytes at `blob` (which must stay as they are until the sender is not used any more) once the
 * receiver accepts. Computes the hash. */
void kf_blob_sender_init(kf_blob_sender_t *sender, const uint8_t *blob, uint32_t size);

/* A new session: wait for the receiver to say again what it has. */
void kf_blob_sender_pause(kf_blob_sender_t *sender);

/* An accept for this blob. max_frame, message_max: of the session, kf_session_message_max(). window: most bytes on the wire beyond the last accept, as in
 * the hello. Returns KF_OK; KF_ERR_BLOB when it was refused: the sender waits for another accept; KF_ERR_MESSAGE for an
 * offset beyond the end: ignored. */
KF_MUST_CHECK kf_status_t kf_blob_accepted(kf_blob_sender_t *sender, const kf_accept_t *accept, uint16_t max_frame,
                                           size_t message_max, uint16_t window, uint32_t now_ms);

/* The next chunk, if the window is open: 1, and `chunk` to send; the chunk points into the blob. 0: nothing to send now. */
int kf_blob_next(kf_blob_sender_t *sender, kf_chunk_t *chunk, uint32_t now_ms);

/* Start again from the last accept when its time is over. 0: nothing wrong. 1: too often without progress: end the
 * session. */
int kf_blob_poll(kf_blob_sender_t *sender, uint32_t now_ms);

#ifdef __cplusplus
}
#endif
#endif
