/* kilofed: the device's side of a session: hello and welcome, keys, sequence numbers, silence.
 *
 * Sans-IO: bytes and the time go in; messages come out one by one; frames go to the port's write. The session knows when
 * to say hello, when a welcome is meant for it and when a session is dead; it does not know what any other message means.
 * One frame is under way at a time, in one buffer: a sender asks kf_session_can_send() and makes its message only then.
 *
 * With a key in the identity every session is encrypted: a welcome counts only with the proof that its sender holds the key,
 * and until then nothing of the session that may be running changes. Without one every session is in the clear.
 *
 * All times are milliseconds that wrap at 2^32; only differences below 2^31 are ever looked at. */
#ifndef KILOFED_SESSION_H
#define KILOFED_SESSION_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/frame.h"
#include "kilofed/message.h"
#include "kilofed/port.h"
#include "kilofed/settings.h"
#include "kilofed/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KF_SESSION_REPEAT_MS 1000u          /* of hello (plus up to a quarter, so that a fleet does not speak as one) */
#define KF_SESSION_SILENT_BEATS 3u          /* heartbeats of silence that end a session */
#define KF_SESSION_WAIT_MAX_MS (1u << 30)   /* longer waits than 12 days are cut to this */
#define KF_SESSION_REFUSED_MAX_MS 60000u    /* the same for a refuse to a device with a key: it may be anybody's */
#define KF_BOARD_NAME_MAX 24u

/* The longest hello is a message of 63 bytes; a send buffer holds its frame even when max_frame is 64. */
#define KF_SESSION_SEND_FRAME(max_frame) ((max_frame) < 72u ? 72u : (max_frame))
/* Bytes of the two buffers of a session. */
#define KF_SESSION_RECEIVE_BYTES(max_frame) (max_frame)
#define KF_SESSION_SEND_BYTES(max_frame) KF_FRAME_SEND_BYTES(KF_SESSION_SEND_FRAME(max_frame))

/* Who speaks, and how much it takes. Everything pointed to must outlive the session. */
typedef struct kf_session_config {
    const kf_identity_t *identity;
    const char *board; /* name of the board's data file, 1 to 24 bytes */
    uint32_t firmware; /* major << 16 | minor << 8 | patch */
    uint16_t max_frame; /* KF_FRAME_MIN (with a key: KF_FRAME_MIN_ENCRYPTED) .. KF_FRAME_MAX, bytes on the wire */
    uint16_t window;   /* bytes on the wire the port buffers beyond what was accepted, 64 or more */
    const kf_port_t *port;
} kf_session_config_t;

typedef enum kf_session_event {
    KF_SESSION_NOTHING = 0, /* all bytes are taken */
    KF_SESSION_OPENED,      /* a welcome: the next frame to send is an info. An older session, if any, is gone */
    KF_SESSION_MESSAGE,     /* a sound message of the session, or a bye (the session has ended then) */
    KF_SESSION_BAD_MESSAGE  /* a sound frame whose message is not: message->type, and `status` of the session why */
} kf_session_event_t;

/* A session: 200-odd bytes, private but for the fields marked "read". */
typedef struct kf_session {
    kf_session_config_t config;
    kf_frame_decoder_t decoder;
    kf_frame_channel_t in, out;
    uint8_t *send_buffer;
    const uint8_t *sending; /* bytes the port has not yet taken */
    uint16_t sending_bytes;
    uint16_t wire_bytes;    /* read: length on the wire of the frame the last message came in */
    uint16_t max_frame;     /* read: of the session, the smaller of both sides' */
    uint16_t heartbeat_ms;
    uint32_t heard_ms;      /* when the last valid session frame came, or the welcome, plus announced busy time */
    uint32_t hello_ms;      /* when to say hello next, while there is no session */
    uint32_t nonces;        /* made since boot */
    uint8_t nonce[8];       /* of the hello that may be answered */
    uint8_t nonce_open;     /* it has not been used up */
    uint8_t repeats;        /* hellos with that nonce, for the jitter */
    uint8_t hello_due;      /* a probe asked for one */
    uint8_t no_entropy;     /* the port had none */
    uint8_t encrypted;      /* read: its sessions are, since the identity has a key */
    uint8_t heard;          /* read: a valid session frame has come: the host knows of the session too */
    int8_t status;          /* read: of a bad message */
    uint32_t frames_in, frames_out, damaged; /* read: since boot; damaged counts pieces that were no frame */
    uint32_t unproven;      /* read: welcomes since boot whose sender does not hold the key */
} kf_session_t;

/* Begin without a session; the first hello is due at once. The buffers (KF_SESSION_RECEIVE_BYTES and
 * KF_SESSION_SEND_BYTES) must outlive it. The config is copied and must be right: nothing is checked here. */
void kf_session_init(kf_session_t *session, const kf_session_config_t *config, uint8_t *receive_buffer,
                     uint8_t *send_buffer, uint32_t now_ms);

/* Take bytes up to the first event among them and return how many; call again with the rest until the event is
 * KF_SESSION_NOTHING. Spans in `message` hold until the next call. */
size_t kf_session_receive(kf_session_t *session, const uint8_t *bytes, size_t size, uint32_t now_ms, kf_message_t *message,
                          kf_session_event_t *event);

/* Hand waiting bytes to the port, say hello when it is due, and end a session that went silent. Returns 1 when a session
 * has just ended so, else 0. */
int kf_session_poll(kf_session_t *session, uint32_t now_ms);

/* Whether there is a session. */
int kf_session_is_open(const kf_session_t *session);

/* Whether kf_session_send() would take a message: a session is open and nothing waits for the port. */
int kf_session_can_send(const kf_session_t *session);

/* The longest message a frame of this session takes. */
size_t kf_session_message_max(const kf_session_t *session);

/* Make a frame of a message and hand it to the port, as far as it takes it. KF_ERR_BUSY when kf_session_can_send() is 0;
 * KF_ERR_MESSAGE when it does not encode or fit (nothing is sent, no number is used). */
KF_MUST_CHECK kf_status_t kf_session_send(kf_session_t *session, const kf_message_t *message);

/* End the session, if any, without a word, and say hello at once. */
void kf_session_end(kf_session_t *session, uint32_t now_ms);

/* The device will not listen for so long (a flash erase): its own patience is stretched by it. */
void kf_session_busy(kf_session_t *session, uint32_t ms);

/* Milliseconds until kf_session_poll() has something to do: 0 now, 1 when the port was full. */
uint32_t kf_session_wait_ms(const kf_session_t *session, uint32_t now_ms);

/* Whether `now` has reached `then`, on a clock that wraps. */
static inline int kf_time_reached(uint32_t now_ms, uint32_t then_ms) {
    return (int32_t)(now_ms - then_ms) >= 0;
}

/* Milliseconds from `now` to `then`, 0 when it has been reached. */
static inline uint32_t kf_time_left(uint32_t now_ms, uint32_t then_ms) {
    return kf_time_reached(now_ms, then_ms) ? 0 : then_ms - now_ms;
}

#ifdef __cplusplus
}
#endif
#endif
