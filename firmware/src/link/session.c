#include "kilofed/session.h"

#include <string.h>

#include <monocypher.h>

#include "../bytes.h"
#include "cipher.h"

#define HELLO_MAX 64u

/* ---- nonces and ids -------------------------------------------------------------------------------------------- */

/* A fresh nonce for the next hello. Without entropy it is a hash of what differs between devices (id and key), between the
 * hellos of one life (a counter) and, mostly, between lives (the time): a nonce may then repeat after a reset, which costs
 * the protection against replay that flag bit 0 gives up, and nothing else. */
static void nonce_renew(kf_session_t *s, uint32_t now_ms) {
    const kf_port_t *port = s->config.port;
    s->nonces++;
    s->no_entropy = port->entropy == NULL || port->entropy(port->context, s->nonce, sizeof s->nonce) != KF_OK;
    if (s->no_entropy) {
        static const char label[15] = "kilofed nonce 1";
        uint8_t seed[15 + 8 + 32 + 8];
        memcpy(seed, label, sizeof label);
        memcpy(seed + 15, s->config.identity->id, 8);
        memcpy(seed + 23, s->config.identity->key, 32);
        kf_put_u32(seed + 55, s->nonces);
        kf_put_u32(seed + 59, now_ms);
        crypto_blake2b(s->nonce, sizeof s->nonce, seed, sizeof seed);
        crypto_wipe(seed, sizeof seed);
    }
    s->nonce_open = 1;
    s->repeats = 0;
}

static uint32_t session_id(const kf_session_t *s, const uint8_t host_nonce[8]) {
    static const char label[17] = "kilofed session 1";
    uint8_t seed[17 + 8 + 8 + 8];
    uint8_t digest[8];
    memcpy(seed, label, sizeof label);
    memcpy(seed + 17, host_nonce, 8);
    memcpy(seed + 25, s->nonce, 8);
    memcpy(seed + 33, s->config.identity->id, 8);
    crypto_blake2b(digest, sizeof digest, seed, sizeof seed);
    return kf_get_u32(digest);
}

/* ---- sending --------------------------------------------------------------------------------------------------- */

static void flush(kf_session_t *s) {
    while (s->sending_bytes > 0) {
        const kf_port_t *port = s->config.port;
        size_t taken = port->write(port->context, s->sending, s->sending_bytes);
        if (taken == 0) {
            return;
        }
        if (taken > s->sending_bytes) { /* a port that miscounts must not become a read past the buffer */
            taken = s->sending_bytes;
        }
        s->sending += taken;
        s->sending_bytes = (uint16_t)(s->sending_bytes - taken);
    }
}

/* in_session 0: in the clear. */
static kf_status_t frame_send(kf_session_t *s, const kf_message_t *message, int in_session, size_t longest) {
    const size_t room = KF_SESSION_SEND_FRAME(s->config.max_frame);
    size_t size;
    const kf_status_t status = kf_message_encode(message, kf_frame_message_at(s->send_buffer, room), longest, &size);
    if (status != KF_OK) {
        return KF_ERR_MESSAGE;
    }
    size_t bytes;
    s->sending = in_session ? kf_frame_seal(s->send_buffer, room, size, &s->out, &bytes)
                            : kf_frame_seal_clear(s->send_buffer, room, size, KF_FROM_DEVICE, &bytes);
    s->sending_bytes = (uint16_t)bytes;
    s->frames_out++;
    flush(s);
    return KF_OK;
}

/* The same bytes each time until nonce_renew(). */
static void hello_make(const kf_session_t *s, kf_message_t *message) {
    memset(message, 0, sizeof *message);
    message->type = KF_MSG_HELLO;
    kf_hello_t *hello = &message->as.hello;
    hello->version = KF_FRAME_VERSION;
    memcpy(hello->device_id, s->config.identity->id, sizeof hello->device_id);
    memcpy(hello->device_nonce, s->nonce, sizeof hello->device_nonce);
    hello->board = (kf_span_t){(const uint8_t *)s->config.board, (uint16_t)strlen(s->config.board)};
    hello->firmware = s->config.firmware;
    hello->max_frame = s->config.max_frame;
    hello->window = s->config.window;
    hello->flags = (s->no_entropy ? KF_HELLO_NO_ENTROPY : 0u) | (s->encrypted ? KF_HELLO_ENCRYPTED : 0u);
}

static void hello_send(kf_session_t *s, uint32_t now_ms) {
    kf_message_t message;
    hello_make(s, &message);
    const size_t longest = kf_frame_message_max(KF_SESSION_SEND_FRAME(s->config.max_frame), KF_FRAME_CLEAR);
    const kf_status_t status = frame_send(s, &message, 0, longest);
    (void)status; /* a hello fits by KF_SESSION_SEND_FRAME and is in range by kf_session_config_t */
    s->hello_due = 0;
    /* The nonce's bytes are as good a jitter as any: 0 to 249 ms, another one at each repeat. */
    const uint32_t jitter = (uint32_t)s->nonce[s->repeats & 7u] * 250u / 256u;
    s->repeats++;
    s->hello_ms = now_ms + KF_SESSION_REPEAT_MS + jitter;
}

int kf_session_is_open(const kf_session_t *s) {
    return s->in.open;
}

int kf_session_can_send(const kf_session_t *s) {
    return s->in.open && s->sending_bytes == 0;
}

size_t kf_session_message_max(const kf_session_t *s) {
    return kf_frame_message_max(s->max_frame, s->encrypted ? KF_FRAME_ENCRYPTED : KF_FRAME_SESSION);
}

kf_status_t kf_session_send(kf_session_t *s, const kf_message_t *message) {
    if (!kf_session_can_send(s)) {
        return KF_ERR_BUSY;
    }
    return frame_send(s, message, 1, kf_session_message_max(s));
}

/* ---- receiving ------------------------------------------------------------------------------------------------- */

/* Bytes of the hello that was said, made again: it is 63 bytes at most. */
static size_t hello_bytes(const kf_session_t *s, uint8_t bytes[HELLO_MAX]) {
    kf_message_t message;
    size_t size = 0;
    hello_make(s, &message);
    const kf_status_t status = kf_message_encode(&message, bytes, HELLO_MAX, &size);
    (void)status; /* as in hello_send() */
    return size;
}

/* Whether a welcome comes from who holds the key; if so the session's keys are in both channels. raw: the message's bytes. */
static int keys_open(kf_session_t *s, const kf_welcome_t *welcome, const uint8_t *raw) {
    uint8_t hello[HELLO_MAX], proof[KF_PROOF_BYTES], from_host[KF_FRAME_KEY_BYTES], from_device[KF_FRAME_KEY_BYTES];
    const size_t size = hello_bytes(s, hello);
    const size_t before = (size_t)(welcome->proof.at - raw) - 1u; /* a string of 16 has a head of one byte */
    kf_keys_derive(s->config.identity->key, hello, size, raw, before, from_host, from_device, proof);
    const int proven = crypto_verify16(proof, welcome->proof.at) == 0;
    if (proven) {
        memcpy(s->in.key, from_host, sizeof from_host);
        memcpy(s->out.key, from_device, sizeof from_device);
    }
    crypto_wipe(from_host, sizeof from_host);
    crypto_wipe(from_device, sizeof from_device);
    crypto_wipe(proof, sizeof proof); /* of a wrong one the right one: it would open the session */
    return proven;
}

/* A message in the clear, of the bytes `raw`. Returns 1 when it opened a session. */
static int clear_message(kf_session_t *s, const kf_message_t *message, const uint8_t *raw, uint32_t now_ms) {
    switch (message->type) {
    case KF_MSG_PROBE: /* a host has just opened the line: answered also while an older session goes on */
        s->nonce_open = 0;
        s->hello_due = 1;
        return 0;
    case KF_MSG_WELCOME: {
        const kf_welcome_t *welcome = &message->as.welcome;
        if (welcome->version != KF_FRAME_VERSION || !s->nonce_open ||
            memcmp(welcome->device_nonce, s->nonce, sizeof s->nonce) != 0) {
            return 0; /* for another hello, or said twice */
        }
        const uint16_t max_frame = welcome->max_frame < s->config.max_frame ? welcome->max_frame : s->config.max_frame;
        if ((welcome->proof.at != NULL) != s->encrypted || (s->encrypted && max_frame < KF_FRAME_MIN_ENCRYPTED)) {
            return 0;
        }
        if (!s->encrypted) {
            s->in.session = s->out.session = session_id(s, welcome->host_nonce);
        } else if (!keys_open(s, welcome, raw)) {
            s->unproven++;
            return 0;
        }
        s->in.number = s->out.number = 0;
        s->in.open = s->out.open = 1;
        s->max_frame = max_frame;
        s->heartbeat_ms = welcome->heartbeat_ms;
        s->heard_ms = now_ms;
        s->heard = 0;
        s->nonce_open = 0;
        s->hello_due = 0;
        return 1;
    }
    case KF_MSG_REFUSE: {
        const kf_refuse_t *refuse = &message->as.refuse;
        if (s->nonce_open && memcmp(refuse->device_nonce, s->nonce, sizeof s->nonce) == 0) {
            const uint32_t most = s->encrypted ? KF_SESSION_REFUSED_MAX_MS : KF_SESSION_WAIT_MAX_MS;
            s->nonce_open = 0;
            s->hello_ms = now_ms + (refuse->wait_ms > most ? most : refuse->wait_ms);
        }
        return 0;
    }
    default:
        return 0; /* not for a device, or not in the clear */
    }
}

void kf_session_init(kf_session_t *s, const kf_session_config_t *config, uint8_t *receive_buffer, uint8_t *send_buffer,
                     uint32_t now_ms) {
    memset(s, 0, sizeof *s);
    s->config = *config;
    s->send_buffer = send_buffer;
    s->in.sender = KF_FROM_HOST;
    s->out.sender = KF_FROM_DEVICE;
    s->encrypted = s->in.encrypted = s->out.encrypted = kf_identity_has_key(config->identity) != 0;
    s->hello_ms = now_ms;
    kf_frame_decoder_init(&s->decoder, receive_buffer, KF_SESSION_RECEIVE_BYTES(config->max_frame));
}

size_t kf_session_receive(kf_session_t *s, const uint8_t *bytes, size_t size, uint32_t now_ms, kf_message_t *message,
                          kf_session_event_t *event) {
    size_t taken = 0;
    *event = KF_SESSION_NOTHING;
    while (taken < size) {
        kf_frame_outcome_t outcome;
        kf_frame_t frame;
        taken += kf_frame_feed(&s->decoder, &s->in, bytes + taken, size - taken, &outcome, &frame);
        if (outcome == KF_FRAME_WAITING) {
            break;
        }
        if (outcome != KF_FRAME_READY) {
            if (outcome != KF_FRAME_STRAY) {
                s->damaged++;
            }
            if (s->config.port->stray != NULL && frame.size > 0) {
                s->config.port->stray(s->config.port->context, frame.bytes, frame.size);
            }
            continue;
        }
        s->frames_in++;
        s->wire_bytes = frame.wire_bytes;
        const kf_status_t status = kf_message_decode(message, frame.bytes, frame.size);
        if (frame.type == KF_FRAME_CLEAR) {
            if (status == KF_OK && clear_message(s, message, frame.bytes, now_ms)) {
                *event = KF_SESSION_OPENED;
                return taken;
            }
            continue;
        }
        s->heard = 1;
        if (kf_time_reached(now_ms, s->heard_ms)) { /* else busy() has moved it ahead */
            s->heard_ms = now_ms;
        }
        if (frame.number == UINT32_MAX) {
            kf_session_end(s, now_ms);
            continue;
        }
        if (status != KF_OK || message->type <= KF_MSG_REFUSE) {
            s->status = (int8_t)(status == KF_OK ? KF_ERR_MESSAGE : status);
            *event = KF_SESSION_BAD_MESSAGE;
            return taken;
        }
        if (message->type == KF_MSG_BYE) {
            kf_session_end(s, now_ms);
        }
        *event = KF_SESSION_MESSAGE;
        return taken;
    }
    return taken;
}

/* ---- time ------------------------------------------------------------------------------------------------------ */

void kf_session_end(kf_session_t *s, uint32_t now_ms) {
    s->in.open = s->out.open = 0;
    s->in.number = s->out.number = 0;
    crypto_wipe(s->in.key, sizeof s->in.key);
    crypto_wipe(s->out.key, sizeof s->out.key);
    s->heard = 0;
    s->hello_ms = now_ms;
}

void kf_session_busy(kf_session_t *s, uint32_t ms) {
    s->heard_ms += ms > KF_SESSION_WAIT_MAX_MS ? KF_SESSION_WAIT_MAX_MS : ms;
}

static uint32_t silence_ms(const kf_session_t *s) {
    return s->heard_ms + KF_SESSION_SILENT_BEATS * (uint32_t)s->heartbeat_ms;
}

int kf_session_poll(kf_session_t *s, uint32_t now_ms) {
    int ended = 0;
    if (s->in.open && (kf_time_reached(now_ms, silence_ms(s)) || s->out.number == UINT32_MAX)) {
        kf_session_end(s, now_ms);
        ended = 1;
    }
    flush(s);
    if (s->sending_bytes == 0 && (s->hello_due || (!s->in.open && kf_time_reached(now_ms, s->hello_ms)))) {
        if (!s->nonce_open) { /* here, and not in hello_send(), where the hash's stack would come on top of the message's */
            nonce_renew(s, now_ms);
        }
        hello_send(s, now_ms);
    }
    return ended;
}

uint32_t kf_session_wait_ms(const kf_session_t *s, uint32_t now_ms) {
    if (s->sending_bytes > 0) {
        return 1;
    }
    if (s->hello_due) {
        return 0;
    }
    return kf_time_left(now_ms, s->in.open ? silence_ms(s) : s->hello_ms);
}
