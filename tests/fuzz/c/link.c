/* Fuzz target: the line below a session: frames and messages.
 *
 *     u8 what: 0 a message | else bytes of a line, taken by a decoder of 64 + u16 % 961 bytes, u8 bytes a call
 *     | 2: of an encrypted line, given as u8 size and as many bytes: with bit 7, as they are, else as the next authentic frame
 *
 * Promised by frame.h and message.h: nothing outside the buffer is touched; how the line is cut into calls changes nothing;
 * every byte is a frame's, a delimiter, or given back; what decodes also encodes, into exactly the size that is said, and
 * decodes again to the same. */
#include "input.h"
#include "kilofed/frame.h"
#include "kilofed/message.h"

enum { MESSAGE_MOST = 2048 };

static void check_message(const uint8_t *bytes, size_t size) {
    kf_message_t message;
    const kf_status_t status = kf_message_decode(&message, bytes, size);
    PROMISE(status == KF_OK || status == KF_ERR_UNSUPPORTED || status == KF_ERR_MESSAGE);
    if (status != KF_OK) {
        return;
    }
    PROMISE(message.type < KF_MSG_TYPES);
    uint8_t *encoded = block(MESSAGE_MOST);
    size_t encoded_bytes;
    PROMISE(kf_message_encode(&message, encoded, MESSAGE_MOST, &encoded_bytes) == KF_OK);
    PROMISE(encoded_bytes <= size); /* shortest form both, and what came may have more elements */
    uint8_t *exact = block(encoded_bytes);
    size_t again;
    PROMISE(kf_message_encode(&message, exact, encoded_bytes, &again) == KF_OK && again == encoded_bytes);
    PROMISE(kf_message_encode(&message, exact, encoded_bytes - 1, &again) == KF_ERR_MEMORY);
    kf_message_t twin;
    PROMISE(kf_message_decode(&twin, encoded, encoded_bytes) == KF_OK && twin.type == message.type);
    PROMISE(kf_message_encode(&twin, exact, encoded_bytes, &again) == KF_OK && again == encoded_bytes);
    PROMISE(memcmp(exact, encoded, encoded_bytes) == 0);
    free(exact);
    free(encoded);
}

/* What a decoder made of a line: a sum over its outcomes, and how much of what came was accounted for. */
typedef struct kf_outcomes {
    uint32_t sum;
    size_t stray, frames;
} kf_outcomes_t;

static void mix(kf_outcomes_t *o, const uint8_t *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) {
        o->sum = (o->sum ^ bytes[i]) * 16777619u; /* FNV-1a */
    }
}

/* Stray bytes are summed one by one and not by piece: pieces may be cut differently, their bytes may not. */
static kf_outcomes_t decode_line(const uint8_t *bytes, size_t size, size_t buffer_bytes, size_t a_call,
                                 kf_frame_channel_t channel) {
    kf_outcomes_t found = {2166136261u, 0, 0};
    uint8_t *buffer = block(buffer_bytes);
    kf_frame_decoder_t decoder;
    kf_frame_decoder_init(&decoder, buffer, buffer_bytes);
    for (size_t at = 0; at < size;) {
        const size_t piece = a_call < size - at ? a_call : size - at;
        uint8_t *call = block(piece);
        memcpy(call, bytes + at, piece);
        for (size_t done = 0; done < piece;) {
            kf_frame_outcome_t outcome;
            kf_frame_t frame;
            const uint32_t before = channel.number;
            const size_t taken = kf_frame_feed(&decoder, &channel, call + done, piece - done, &outcome, &frame);
            PROMISE(taken <= piece - done && (taken > 0 || outcome == KF_FRAME_STRAY));
            done += taken;
            PROMISE(outcome != KF_FRAME_WAITING || done == piece);
            if (outcome == KF_FRAME_READY) {
                PROMISE(frame.size >= 1 && frame.wire_bytes <= buffer_bytes && frame.size < frame.wire_bytes);
                PROMISE(frame.type != KF_FRAME_CLEAR ? frame.number == channel.number && frame.number > before
                                                     : frame.number == 0 && channel.number == before);
                PROMISE(frame.type == KF_FRAME_CLEAR || (frame.type == KF_FRAME_ENCRYPTED) == channel.encrypted);
                found.frames += frame.wire_bytes;
                mix(&found, frame.bytes, frame.size);
                check_message(frame.bytes, frame.size);
            } else if (outcome != KF_FRAME_WAITING) {
                found.stray += frame.size;
                mix(&found, frame.bytes, frame.size);
            }
        }
        free(call);
        at += piece;
    }
    PROMISE(found.stray + found.frames <= size);
    free(buffer);
    return found;
}

/* A line of authentic frames and of bytes between them, of the input's making. Returns its bytes; *frames: how many of them are
 * frames that fit `buffer_bytes`. */
static uint8_t *encrypted_line(kf_input_t *in, kf_frame_channel_t channel, size_t buffer_bytes, size_t *size) {
    uint8_t *line = block(2 * in->left + 160 * (in->left + 1));
    *size = 0;
    while (in->left > 0) {
        const uint32_t what = take_number(in, 1);
        size_t bytes;
        uint8_t *part = take_block(in, what & 127u, &bytes);
        if (what & 128u || bytes == 0 || bytes > kf_frame_message_max(buffer_bytes, KF_FRAME_ENCRYPTED)) {
            memcpy(line + *size, part, bytes);
            *size += bytes;
        } else {
            uint8_t buffer[KF_FRAME_SEND_BYTES(KF_FRAME_MAX)];
            memcpy(kf_frame_message_at(buffer, buffer_bytes), part, bytes);
            size_t wire;
            const uint8_t *frame = kf_frame_seal(buffer, buffer_bytes, bytes, &channel, &wire);
            PROMISE(wire <= buffer_bytes);
            memcpy(line + *size, frame, wire);
            *size += wire;
        }
        free(part);
    }
    return line;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    kf_input_t in = {data, size};
    size_t bytes;
    const uint32_t what = take_number(&in, 1);
    if (what == 0) {
        uint8_t *message = take_block(&in, in.left, &bytes);
        check_message(message, bytes);
        free(message);
        return 0;
    }
    const size_t buffer_bytes = KF_FRAME_MIN + take_number(&in, 2) % (KF_FRAME_MAX - KF_FRAME_MIN + 1);
    const size_t a_call = take_number(&in, 1) + 1;
    kf_frame_channel_t channel = {.session = 0x01020304, .number = 7, .open = 1, .sender = KF_FROM_HOST};
    channel.encrypted = what == 2;
    if (channel.encrypted) {
        channel.number = 65533; /* a new key is near */
    }
    uint8_t *line = channel.encrypted ? encrypted_line(&in, channel, buffer_bytes, &bytes) : take_block(&in, in.left, &bytes);
    const kf_outcomes_t whole = decode_line(line, bytes, buffer_bytes, bytes ? bytes : 1, channel);
    const kf_outcomes_t pieces = decode_line(line, bytes, buffer_bytes, a_call, channel);
    PROMISE(whole.sum == pieces.sum && whole.stray == pieces.stray && whole.frames == pieces.frames);
    /* And the way out: a message of these bytes, sealed, comes back whole, in a buffer of the smallest size. */
    const kf_frame_type_t type = channel.encrypted ? KF_FRAME_ENCRYPTED : KF_FRAME_SESSION;
    if (bytes >= 1 && bytes <= kf_frame_message_max(buffer_bytes, type)) {
        uint8_t *buffer = block(KF_FRAME_SEND_BYTES(buffer_bytes));
        memcpy(kf_frame_message_at(buffer, buffer_bytes), line, bytes);
        kf_frame_channel_t out = channel;
        size_t wire;
        const uint8_t *frame = kf_frame_seal(buffer, buffer_bytes, bytes, &out, &wire);
        const kf_outcomes_t sealed = decode_line(frame, wire, buffer_bytes, a_call, channel);
        PROMISE(sealed.frames == wire && sealed.stray == 0);
        free(buffer);
    }
    free(line);
    return 0;
}
