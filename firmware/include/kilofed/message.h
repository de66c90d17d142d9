/* kilofed: the messages of the link: one struct each, and the two calls between them and bytes.
 *
 * A message is one CBOR array whose first element is its type; firmware/protocol.cddl is the definition, PROTOCOL.md says
 * when each is sent. The structs below have its fields in its order. Both directions of travel are here, so that
 * a device, a test and a host in C read the same table (src/link/message.c).
 *
 * Decoding trusts nothing: the bytes are walked once and must be exactly one definite array in shortest form, complete,
 * without tags and not nested beyond KF_MESSAGE_DEPTH (so nothing recurses), and then every known field must be of its
 * type, size and range, text of strict UTF-8 too. Elements after the known ones are ignored: that is the compatibility
 * rule. */
#ifndef KILOFED_MESSAGE_H
#define KILOFED_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KF_MESSAGE_DEPTH 4u
#define KF_HASH_BYTES 8u
#define KF_PROOF_BYTES 16u

typedef enum kf_message_type {
    KF_MSG_PROBE = 0,
    KF_MSG_HELLO,
    KF_MSG_WELCOME,
    KF_MSG_REFUSE,
    KF_MSG_INFO,
    KF_MSG_OFFER,
    KF_MSG_ACCEPT,
    KF_MSG_CHUNK,
    KF_MSG_TRAIN,
    KF_MSG_STATUS,
    KF_MSG_RESULT,
    KF_MSG_COMMIT,
    KF_MSG_CANCEL,
    KF_MSG_PING,
    KF_MSG_ERROR,
    KF_MSG_BUSY,
    KF_MSG_BYE,
    KF_MSG_WATCH,
    KF_MSG_SEEN,
    KF_MSG_LABEL,
    KF_MSG_TYPES /* how many this version knows */
} kf_message_type_t;

typedef enum kf_state {
    KF_STATE_COLLECTING = 0, /* turning placed samples into features; cannot train yet */
    KF_STATE_IDLE = 1,
    KF_STATE_TRAINING = 2,
    KF_STATE_UPLOADING = 3, /* a result waits for its commit */
    KF_STATE_FAILED = 4     /* no usable model or too little memory; says so and does nothing else */
} kf_state_t;

/* What a blob holds; the second byte of each. */
typedef enum kf_blob_kind {
    KF_BLOB_HEAD = 1,
    KF_BLOB_UPDATE = 2
} kf_blob_kind_t;

/* What a receiver says of a blob that is offered or has arrived. */
typedef enum kf_verdict {
    KF_RECEIVING = 0,
    KF_COMPLETE = 1,
    KF_REFUSED = 2
} kf_verdict_t;

/* Of a bye and a refuse. */
typedef enum kf_reason {
    KF_REASON_NONE = 0,
    KF_REASON_SHUTTING_DOWN = 1,
    KF_REASON_VERSION = 2,
    KF_REASON_UNKNOWN_DEVICE = 3,
    KF_REASON_WRONG_KEY = 4,
    KF_REASON_WRONG_MODEL = 5,
    KF_REASON_TOO_MANY = 6,
    KF_REASON_SILENT = 7,
    KF_REASON_PROTOCOL = 8,
    KF_REASON_TWIN = 9,     /* another line has a session with this device id */
    KF_REASON_INSECURE = 10 /* the host takes encrypted sessions only */
} kf_reason_t;

/* A string of bytes or UTF-8 that lies elsewhere: in the decoded message's buffer, which must stay, or the sender's. */
typedef struct kf_span {
    const uint8_t *at;
    uint16_t size;
} kf_span_t;

typedef struct kf_hash_or_null {
    uint8_t present; /* 0: null, bytes are zero */
    uint8_t bytes[KF_HASH_BYTES];
} kf_hash_or_null_t;

/* mantissa * 2^-shift; mantissa 2^14 .. 2^15 - 1, or 0. */
typedef struct kf_multiplier {
    uint16_t mantissa;
    uint8_t shift;
} kf_multiplier_t;

/* Host: is anybody there? Answered by a hello. */
typedef struct kf_probe {
    uint8_t version;
} kf_probe_t;

typedef struct kf_hello {
    uint8_t version;
    uint8_t device_id[8];
    uint8_t device_nonce[8];
    kf_span_t board;    /* UTF-8, 1 .. 24 bytes */
    uint32_t firmware;  /* major << 16 | minor << 8 | patch */
    uint16_t max_frame; /* bytes on the wire, 64 .. 1024 */
    uint16_t window;    /* bytes on the wire, 64 .. 65535 */
    uint32_t flags;     /* KF_HELLO_* */
} kf_hello_t;

#define KF_HELLO_NO_ENTROPY 1u /* no entropy source: no protection against replay */
#define KF_HELLO_ENCRYPTED 2u  /* it holds a key, and takes encrypted sessions and no others */

typedef struct kf_welcome {
    uint8_t version;
    uint8_t device_nonce[8];
    uint8_t host_nonce[8];
    uint16_t max_frame;    /* 64 .. 1024 */
    uint16_t heartbeat_ms; /* 100 .. 65535 */
    kf_span_t proof;       /* KF_PROOF_BYTES; at NULL: absent, the session is in the clear */
} kf_welcome_t;

/* Host: no session for this device. */
typedef struct kf_refuse {
    uint8_t device_nonce[8];
    uint8_t reason;
    uint32_t wait_ms;
} kf_refuse_t;

typedef struct kf_info {
    uint8_t model[KF_HASH_BYTES];
    uint8_t labels[KF_HASH_BYTES];
    uint16_t classes, features, capacity;
    uint16_t train, held_out;
    kf_hash_or_null_t head;
    uint8_t state; /* kf_state_t */
    uint32_t round;
} kf_info_t;

typedef struct kf_offer {
    uint8_t kind; /* kf_blob_kind_t */
    uint8_t hash[KF_HASH_BYTES];
    uint32_t size; /* 1 .. 2^20 */
} kf_offer_t;

typedef struct kf_accept {
    uint16_t id; /* the first two hash bytes, big endian */
    uint32_t offset;
    uint8_t verdict; /* kf_verdict_t */
} kf_accept_t;

typedef struct kf_chunk {
    uint16_t id;
    uint32_t offset;
    kf_span_t data; /* 1 .. 1000 bytes */
} kf_chunk_t;

typedef struct kf_order {
    uint32_t round;
    uint8_t head[KF_HASH_BYTES];
    uint32_t seed;
    uint8_t epochs; /* 0: measure only */
    uint16_t batch; /* 1 .. 256 */
    kf_multiplier_t lr_weights, lr_bias, prox;
    uint8_t codec; /* 0 .. 3, kf_codec_t */
    uint8_t flags;
} kf_order_t;

#define KF_ORDER_PERSONALISE 1u /* keep the result as the personal head, send no update */

typedef struct kf_report {
    uint8_t state; /* kf_state_t */
    uint32_t round;
    uint16_t progress; /* 0 .. 1000 */
    uint32_t loss_q12; /* nats / 4096 */
} kf_report_t;

typedef struct kf_result {
    uint32_t round;
    kf_hash_or_null_t update;
    uint32_t size; /* 0 exactly when update is null */
    uint16_t train, held_out;
    uint32_t loss_q12;
    uint16_t base_correct, own_correct;
    uint32_t elapsed_ms;
} kf_result_t;

typedef struct kf_commit {
    uint32_t round;
    uint8_t verdict; /* 0: the update was taken */
} kf_commit_t;

/* Host: give the round up, whatever became of it. */
typedef struct kf_cancel {
    uint32_t round;
} kf_cancel_t;

typedef struct kf_error {
    uint8_t code; /* magnitude of a kf_status_t */
    uint32_t detail;
    kf_span_t text; /* at NULL: absent */
} kf_error_t;

/* Silence of so many milliseconds from here on does not end the session. */
typedef struct kf_busy {
    uint32_t ms;
} kf_busy_t;

/* Either side: the session is over. */
typedef struct kf_bye {
    uint8_t reason;
} kf_bye_t;

/* Host: tell for so many milliseconds what the sensor shows. 0: no longer. */
typedef struct kf_watch {
    uint32_t ms;
} kf_watch_t;

/* What became of a label. */
typedef enum kf_labelled {
    KF_LABEL_NEWS = 0,   /* no label: a window was seen */
    KF_LABEL_TAKEN = 1,  /* it is a sample now */
    KF_LABEL_GONE = 2,   /* another window has come since */
    KF_LABEL_BUSY = 3,   /* a training holds the samples: say it again */
    KF_LABEL_REFUSED = 4 /* the model has no such class */
} kf_labelled_t;

typedef struct kf_seen {
    uint32_t number;  /* of the window: they count from 1; 0: none was seen */
    uint16_t label;   /* the class with the highest output */
    uint8_t score;    /* that output, int8, plus 128 */
    uint8_t verdict;  /* kf_labelled_t */
} kf_seen_t;

/* Host: what the window of this number was. Answered with a seen. */
typedef struct kf_label {
    uint32_t number;
    uint16_t label;
} kf_label_t;

typedef struct kf_message {
    uint8_t type; /* kf_message_type_t; selects the member below */
    union {
        kf_probe_t probe;
        kf_hello_t hello;
        kf_welcome_t welcome;
        kf_refuse_t refuse;
        kf_info_t info;
        kf_offer_t offer;
        kf_accept_t accept;
        kf_chunk_t chunk;
        kf_order_t train;
        kf_report_t status;
        kf_result_t result;
        kf_commit_t commit;
        kf_cancel_t cancel;
        kf_error_t error;
        kf_busy_t busy;
        kf_bye_t bye;
        kf_watch_t watch;
        kf_seen_t seen;
        kf_label_t label;
    } as; /* a ping has nothing */
} kf_message_t;

/* Decode `size` bytes. Spans in `out` point into `bytes`, which must stay as long as they are used.
 * KF_OK. KF_ERR_UNSUPPORTED: sound, of a type this version does not know; out->type holds it, capped at 255.
 * KF_ERR_MESSAGE: anything else; out->type is the type when one could be read, else 255, and the rest is unusable. */
KF_MUST_CHECK kf_status_t kf_message_decode(kf_message_t *out, const uint8_t *bytes, size_t size);

/* Encode into `capacity` bytes and set *size. KF_ERR_MESSAGE: a field outside its range. KF_ERR_MEMORY: no room; nothing
 * after out[capacity - 1] is touched. */
KF_MUST_CHECK kf_status_t kf_message_encode(const kf_message_t *message, uint8_t *out, size_t capacity, size_t *size);

#ifdef __cplusplus
}
#endif
#endif
