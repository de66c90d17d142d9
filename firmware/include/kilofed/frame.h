/* kilofed: frames: where one message ends and the next begins on a line that loses, damages and invents bytes.
 *
 *     COBS( header 3 | message n | check 4 or tag 16 ) 0x00          PROTOCOL.md, "Frames"
 *
 * The decoder is fed whatever arrives, in pieces of any size. It keeps what came since the last 0x00 in the caller's buffer
 * and looks at it only when the next 0x00 comes, so a broken frame costs exactly itself. Bytes that turn out to be no
 * frame (boot text, noise, frames of a dead session) are handed back untouched: every byte fed is either part of a frame,
 * a 0x00, or given back as stray.
 *
 * The encoder works in the one buffer: the message is written a few bytes in, and header, check and COBS go around it
 * in place. In an encrypted session (PROTOCOL.md, "Encrypted sessions") the message is encrypted there too, and decrypted in
 * the decoder's buffer once its tag was found right; tags are compared in constant time.
 *
 * Nothing here knows what a message means or what time it is. None of it may be called from an ISR. */
#ifndef KILOFED_FRAME_H
#define KILOFED_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KF_FRAME_VERSION 1u

/* Limits of a frame's length on the wire: first COBS byte to delimiter, both counted. */
#define KF_FRAME_MIN 64u
#define KF_FRAME_MAX 1024u

#define KF_FRAME_MIN_ENCRYPTED 72u /* of a session that is encrypted: the longest info fits */

#define KF_FRAME_HEADER_BYTES 3u
#define KF_FRAME_CHECK_BYTES 4u
#define KF_FRAME_TAG_BYTES 16u /* in place of the check, in an encrypted session */
#define KF_FRAME_KEY_BYTES 32u

typedef enum kf_frame_type {
    KF_FRAME_CLEAR = 0,    /* before there is a session: number 0, session id 0 */
    KF_FRAME_SESSION = 1,  /* of a session in the clear, numbered from 1 */
    KF_FRAME_ENCRYPTED = 2 /* of an encrypted session, numbered from 1 */
} kf_frame_type_t;

/* Whose frame it is; part of the header, so that a reflected frame is not taken. */
typedef enum kf_sender {
    KF_FROM_DEVICE = 0,
    KF_FROM_HOST = 1
} kf_sender_t;

/* One direction of a session. Filled by the session, moved on by kf_frame_feed() or kf_frame_seal(). */
typedef struct kf_frame_channel {
    uint32_t session;  /* id of the session in the clear; read only when `open` */
    uint32_t number;   /* of the last session frame accepted, or sent; 0: none yet */
    uint8_t open;      /* 0: there is no session, every session frame is damaged */
    uint8_t sender;    /* kf_sender_t whose frames these are; a reflected frame fails */
    uint8_t encrypted; /* 1: the session's frames are encrypted under `key`, others are damaged; 0: the other way round */
    uint8_t key[KF_FRAME_KEY_BYTES]; /* secret, of this direction: for the numbers that share `number`'s upper 16 bits */
} kf_frame_channel_t;

typedef enum kf_frame_outcome {
    KF_FRAME_WAITING = 0, /* all bytes are taken, no frame has ended */
    KF_FRAME_READY,       /* a frame: see kf_frame_t */
    KF_FRAME_STRAY,       /* the buffer is full and its content no frame; the piece goes on */
    KF_FRAME_TOO_LONG,    /* the end of a piece that did not fit */
    KF_FRAME_DAMAGED      /* a piece that is no frame: COBS, length, version, type, sender, check or tag */
} kf_frame_outcome_t;

/* What kf_frame_feed() found. Pointers go into the decoder's buffer and hold until its next call. */
typedef struct kf_frame {
    const uint8_t *bytes; /* READY: the message; STRAY, TOO_LONG, DAMAGED: what came, as it came, without the 0x00 */
    uint16_t size;        /* of `bytes`; at least 1 for a message; may be 0 for TOO_LONG */
    uint16_t wire_bytes;  /* READY: length on the wire */
    uint32_t number;      /* READY: whole sequence number; 0 for a clear frame */
    uint8_t type;         /* READY: kf_frame_type_t */
} kf_frame_t;

/* A decoder: private but for its size. */
typedef struct kf_frame_decoder {
    uint8_t *buffer;
    uint16_t capacity; /* longest piece, without delimiter */
    uint16_t used;
    uint8_t skipping; /* the piece was too long: its rest is stray */
} kf_frame_decoder_t;

/* Decode into `buffer`, which takes frames of up to buffer_bytes on the wire (KF_FRAME_MIN to KF_FRAME_MAX, the caller
 * checks) and must outlive the decoder. */
void kf_frame_decoder_init(kf_frame_decoder_t *decoder, uint8_t *buffer, size_t buffer_bytes);

/* Take bytes up to the end of the first frame or stray piece among them, say what it was and return how many were taken.
 * Call again with the rest: taken == size only means that all is used up when the outcome is KF_FRAME_WAITING. On
 * KF_FRAME_READY of a session frame channel->number, and with it the key, has moved on. The buffer is never overrun, whatever
 * comes. */
size_t kf_frame_feed(kf_frame_decoder_t *decoder, kf_frame_channel_t *channel, const uint8_t *bytes, size_t size,
                     kf_frame_outcome_t *outcome, kf_frame_t *frame);

/* ---- sending --------------------------------------------------------------------------------------------------- */

/* The longest message that always fits a frame of `max_frame` bytes on the wire, whatever its bytes are. */
size_t kf_frame_message_max(size_t max_frame, kf_frame_type_t type);

/* Bytes of a send buffer for frames of up to `max_frame`: the frame and the 0x00 before a clear one. */
#define KF_FRAME_SEND_BYTES(max_frame) ((max_frame) + 1u)

/* Where the message has to be written in a send buffer for `max_frame`, up to kf_frame_message_max() bytes. */
uint8_t *kf_frame_message_at(uint8_t *buffer, size_t max_frame);

/* Make the next session frame of a channel of the `message_bytes` bytes written at kf_frame_message_at(): channel->number and,
 * every 2^16 frames, the key move on. Returns the first byte to send and sets *size; the frame lies in the buffer.
 * Preconditions: 1 <= message_bytes <= kf_frame_message_max(); channel->number < 2^32 - 1. */
const uint8_t *kf_frame_seal(uint8_t *buffer, size_t max_frame, size_t message_bytes, kf_frame_channel_t *channel,
                             size_t *size);

/* The same for a frame outside a session. */
const uint8_t *kf_frame_seal_clear(uint8_t *buffer, size_t max_frame, size_t message_bytes, kf_sender_t sender,
                                   size_t *size);

#ifdef __cplusplus
}
#endif
#endif
