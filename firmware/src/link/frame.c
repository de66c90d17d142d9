/* Frames: COBS (Cheshire and Baker, "Consistent Overhead Byte Stuffing", 1999), header and check. */
#include "kilofed/frame.h"

#include <string.h>

#include "../bytes.h"
#include "cipher.h"
#include "crc32.h"

/* ---- receiving ------------------------------------------------------------------------------------------------- */

/* Reads the decoded bytes of a COBS piece one by one, without touching the piece. */
typedef struct cobs_reader {
    const uint8_t *at, *end;
    uint8_t left;         /* bytes of the block under way */
    uint8_t zero_pending; /* the block under way stands for one more zero, if anything follows it */
} cobs_reader_t;

#define COBS_END (-1)
#define COBS_BROKEN (-2)

/* The next decoded byte, COBS_END after the last, COBS_BROKEN when a block leaves the piece. */
static int cobs_next(cobs_reader_t *r) {
    while (r->left == 0) {
        if (r->at == r->end) {
            return COBS_END;
        }
        const uint8_t code = *r->at++;
        const int zero = r->zero_pending;
        if (code == 0 || (size_t)code - 1u > (size_t)(r->end - r->at)) {
            return COBS_BROKEN;
        }
        r->left = (uint8_t)(code - 1u);
        r->zero_pending = code != 255;
        if (zero) {
            return 0;
        }
    }
    r->left--;
    return *r->at++;
}

/* The whole number of a frame that carries the low 16 bits: the smallest one above the last accepted. 0: there is none. */
static uint32_t whole_number(uint32_t last, uint32_t low) {
    const uint32_t candidate = (last & UINT32_C(0xFFFF0000)) | low;
    if (candidate > last) {
        return candidate;
    }
    return candidate > UINT32_C(0xFFFFFFFF) - UINT32_C(0x10000) ? 0 : candidate + UINT32_C(0x10000);
}

/* What is left behind the header of a checked piece: bytes of the message, 0 when the check is wrong. */
static size_t check_read(cobs_reader_t *reader, const uint8_t *header, uint32_t session, uint32_t number) {
    uint8_t pseudo[8];
    kf_put_u32(pseudo, session);
    kf_put_u32(pseudo + 4, number);
    uint32_t crc = ~kf_crc32(kf_crc32(0, pseudo, sizeof pseudo), header, KF_FRAME_HEADER_BYTES);

    /* The check is the last four bytes; which ones those are shows at the end, so four are held back all along. */
    uint32_t tail = 0;
    size_t size = 0; /* decoded bytes after the header */
    int byte;
    while ((byte = cobs_next(reader)) >= 0) {
        if (size >= KF_FRAME_CHECK_BYTES) {
            crc = kf_crc32_byte(crc, (uint8_t)tail);
        }
        tail = (tail >> 8) | ((uint32_t)byte << 24);
        size++;
    }
    return byte == COBS_BROKEN || size <= KF_FRAME_CHECK_BYTES || tail != ~crc ? 0 : size - KF_FRAME_CHECK_BYTES;
}

/* The same for an encrypted piece, which has a tag. `cipher` has begun; afterwards it can decrypt, and no more. */
static size_t tag_read(cobs_reader_t *reader, kf_cipher_t *cipher) {
    uint8_t tail[KF_FRAME_TAG_BYTES]; /* held back, in turn */
    size_t size = 0;
    int byte;
    while ((byte = cobs_next(reader)) >= 0) {
        uint8_t *const place = &tail[size % sizeof tail];
        if (size >= sizeof tail) {
            kf_cipher_update(cipher, place, 1);
        }
        *place = (uint8_t)byte;
        size++;
    }
    uint8_t tag[KF_FRAME_TAG_BYTES], seen[KF_FRAME_TAG_BYTES];
    kf_cipher_tag(cipher, tag);
    if (byte == COBS_BROKEN || size <= sizeof tail) {
        return 0;
    }
    for (size_t i = 0; i < sizeof seen; i++) {
        seen[i] = tail[(size + i) % sizeof tail];
    }
    return crypto_verify16(tag, seen) == 0 ? size - sizeof tail : 0;
}

/* Decode a piece that was found sound: a decoded byte lies at least one place before the COBS byte it is made from. */
static void piece_decode(kf_frame_decoder_t *decoder) {
    cobs_reader_t reader = {decoder->buffer, decoder->buffer + decoder->used, 0, 0};
    uint8_t *to = decoder->buffer;
    int byte;
    while ((byte = cobs_next(&reader)) >= 0) {
        *to++ = (uint8_t)byte;
    }
}

/* Read what is behind an encrypted piece's header, decode and decrypt it. Bytes of the message; 0: it is not authentic, and
 * is left as it came. */
static size_t encrypted_open(kf_frame_decoder_t *decoder, kf_frame_channel_t *channel, cobs_reader_t *reader,
                             const uint8_t *header, uint32_t number) {
    /* At most 2^16 above the last one: its key is the last one's or the next. Nothing moves on before the tag is right. */
    uint8_t key[KF_FRAME_KEY_BYTES];
    if ((number ^ channel->number) >> 16 != 0) {
        kf_key_next(key, channel->key);
    } else {
        memcpy(key, channel->key, sizeof key);
    }
    kf_cipher_t cipher;
    kf_cipher_begin(&cipher, key, number, header);
    const size_t size = tag_read(reader, &cipher);
    if (size > 0) {
        piece_decode(decoder);
        kf_cipher_crypt(&cipher, decoder->buffer + KF_FRAME_HEADER_BYTES, size);
        memcpy(channel->key, key, sizeof key);
    }
    crypto_wipe(key, sizeof key);
    return size;
}

/* Check the piece in the buffer and, when it is a frame for us, decode it in place and fill `frame`. Returns 0 and leaves
 * the piece as it came when it is not. */
static int piece_open(kf_frame_decoder_t *decoder, kf_frame_channel_t *channel, kf_frame_t *frame) {
    cobs_reader_t reader = {decoder->buffer, decoder->buffer + decoder->used, 0, 0};
    const unsigned session_type = channel->encrypted ? KF_FRAME_ENCRYPTED : KF_FRAME_SESSION;
    uint8_t header[KF_FRAME_HEADER_BYTES];
    for (size_t i = 0; i < KF_FRAME_HEADER_BYTES; i++) {
        const int byte = cobs_next(&reader);
        if (byte < 0) {
            return 0;
        }
        header[i] = (uint8_t)byte;
    }
    const uint8_t type = header[0] & 7u;
    if (header[0] >> 4 != KF_FRAME_VERSION || ((header[0] >> 3) & 1u) != channel->sender ||
        (type != KF_FRAME_CLEAR && (type != session_type || !channel->open))) {
        return 0;
    }
    const uint32_t low = kf_get_u16(header + 1);
    const uint32_t number = type == KF_FRAME_CLEAR ? 0 : whole_number(channel->number, low);
    if (type == KF_FRAME_CLEAR ? low != 0 : number == 0) {
        return 0;
    }
    size_t size;
    if (type == KF_FRAME_ENCRYPTED) {
        size = encrypted_open(decoder, channel, &reader, header, number);
    } else {
        size = check_read(&reader, header, type == KF_FRAME_CLEAR ? 0 : channel->session, number);
        if (size > 0) {
            piece_decode(decoder);
        }
    }
    if (size == 0) {
        return 0;
    }
    frame->bytes = decoder->buffer + KF_FRAME_HEADER_BYTES;
    frame->size = (uint16_t)size;
    frame->wire_bytes = (uint16_t)(decoder->used + 1u);
    frame->number = number;
    frame->type = type;
    if (type != KF_FRAME_CLEAR) {
        channel->number = number;
    }
    return 1;
}

void kf_frame_decoder_init(kf_frame_decoder_t *decoder, uint8_t *buffer, size_t buffer_bytes) {
    decoder->buffer = buffer;
    decoder->capacity = (uint16_t)(buffer_bytes - 1u);
    decoder->used = 0;
    decoder->skipping = 0;
}

size_t kf_frame_feed(kf_frame_decoder_t *decoder, kf_frame_channel_t *channel, const uint8_t *bytes, size_t size,
                     kf_frame_outcome_t *outcome, kf_frame_t *frame) {
    *frame = (kf_frame_t){.bytes = decoder->buffer};
    *outcome = KF_FRAME_WAITING;
    size_t taken = 0;
    while (taken < size) {
        if (bytes[taken] != 0) {
            if (decoder->used == decoder->capacity) {
                frame->size = decoder->used;
                decoder->used = 0;
                decoder->skipping = 1;
                *outcome = KF_FRAME_STRAY;
                return taken; /* the byte itself is taken by the next call */
            }
            decoder->buffer[decoder->used++] = bytes[taken++];
            continue;
        }
        taken++;
        if (decoder->skipping) {
            frame->size = decoder->used;
            *outcome = KF_FRAME_TOO_LONG;
        } else if (decoder->used == 0) {
            continue; /* nothing between two delimiters: the 0x00 before a clear frame */
        } else if (piece_open(decoder, channel, frame)) {
            *outcome = KF_FRAME_READY;
        } else {
            frame->size = decoder->used;
            *outcome = KF_FRAME_DAMAGED;
        }
        decoder->used = 0;
        decoder->skipping = 0;
        return taken;
    }
    return taken;
}

/* ---- sending --------------------------------------------------------------------------------------------------- */

/* COBS spends one code byte for every 254 bytes begun. */
#define COBS_BLOCK 254u

static size_t code_bytes(size_t max_frame) {
    return (max_frame + COBS_BLOCK - 1u) / COBS_BLOCK;
}

size_t kf_frame_message_max(size_t max_frame, kf_frame_type_t type) {
    /* n bytes become n + ceil(n / 254) + 1 on the wire. With m = max_frame - 1: the largest n is m - ceil(m / 255). */
    const size_t m = max_frame - 1u;
    const size_t around =
        KF_FRAME_HEADER_BYTES + (type == KF_FRAME_ENCRYPTED ? KF_FRAME_TAG_BYTES : KF_FRAME_CHECK_BYTES);
    return m - (m + COBS_BLOCK) / (COBS_BLOCK + 1u) - around;
}

uint8_t *kf_frame_message_at(uint8_t *buffer, size_t max_frame) {
    return buffer + 1u + code_bytes(max_frame) + KF_FRAME_HEADER_BYTES;
}

/* COBS of `size` bytes at `from` to `to`, both in one buffer, `to` at least ceil(size / 254) bytes before `from`. Before byte
 * k is read, at most k + floor(k / 254) + 1 bytes have been written or skipped for a code, and that is no more than
 * k + ceil(size / 254): what is written never overtakes what is read. Returns the bytes written. */
static size_t cobs_encode(uint8_t *to, const uint8_t *from, size_t size) {
    uint8_t *code_at = to;
    uint8_t *at = to + 1;
    uint8_t code = 1;
    for (size_t k = 0; k < size; k++) {
        if (code == 255) { /* a full block, and more to come: a new block without a zero between */
            *code_at = code;
            code_at = at++;
            code = 1;
        }
        const uint8_t byte = from[k];
        if (byte != 0) {
            *at++ = byte;
            code++;
        } else {
            *code_at = code;
            code_at = at++;
            code = 1;
        }
    }
    *code_at = code;
    return (size_t)(at - to);
}

/* Put COBS and delimiters around the `size` bytes at `from`, where the header begins. */
static const uint8_t *wrap(uint8_t *buffer, const uint8_t *from, size_t size, int clear, size_t *wire_bytes) {
    uint8_t *const start = buffer + 1;
    const size_t encoded = cobs_encode(start, from, size);
    start[encoded] = 0;
    buffer[0] = 0;
    *wire_bytes = encoded + 1u + (clear ? 1u : 0u);
    return clear ? buffer : start;
}

/* Write the header and return it. */
static uint8_t *header_put(uint8_t *buffer, size_t max_frame, kf_frame_type_t type, kf_sender_t sender, uint32_t number) {
    uint8_t *const from = kf_frame_message_at(buffer, max_frame) - KF_FRAME_HEADER_BYTES;
    from[0] = (uint8_t)((KF_FRAME_VERSION << 4) | ((unsigned)sender << 3) | (unsigned)type);
    kf_put_u16(from + 1, number);
    return from;
}

static const uint8_t *checked_seal(uint8_t *buffer, size_t max_frame, size_t message_bytes, kf_frame_type_t type,
                                   kf_sender_t sender, uint32_t session, uint32_t number, size_t *size) {
    uint8_t *const from = header_put(buffer, max_frame, type, sender, number);
    const size_t checked = KF_FRAME_HEADER_BYTES + message_bytes;
    uint8_t pseudo[8];
    kf_put_u32(pseudo, session);
    kf_put_u32(pseudo + 4, number);
    kf_put_u32(from + checked, kf_crc32(kf_crc32(0, pseudo, sizeof pseudo), from, checked));
    return wrap(buffer, from, checked + KF_FRAME_CHECK_BYTES, type == KF_FRAME_CLEAR, size);
}

static const uint8_t *encrypted_seal(uint8_t *buffer, size_t max_frame, size_t message_bytes, kf_frame_channel_t *channel,
                                     size_t *size) {
    const uint32_t number = channel->number;
    if ((number & UINT32_C(0xFFFF)) == 0) {
        kf_key_next(channel->key, channel->key);
    }
    uint8_t *const from = header_put(buffer, max_frame, KF_FRAME_ENCRYPTED, (kf_sender_t)channel->sender, number);
    uint8_t *const message = from + KF_FRAME_HEADER_BYTES;
    kf_cipher_t cipher;
    kf_cipher_begin(&cipher, channel->key, number, from);
    kf_cipher_crypt(&cipher, message, message_bytes);
    kf_cipher_update(&cipher, message, message_bytes);
    kf_cipher_tag(&cipher, message + message_bytes);
    return wrap(buffer, from, KF_FRAME_HEADER_BYTES + message_bytes + KF_FRAME_TAG_BYTES, 0, size);
}

const uint8_t *kf_frame_seal(uint8_t *buffer, size_t max_frame, size_t message_bytes, kf_frame_channel_t *channel,
                             size_t *size) {
    channel->number++;
    if (channel->encrypted) {
        return encrypted_seal(buffer, max_frame, message_bytes, channel, size);
    }
    return checked_seal(buffer, max_frame, message_bytes, KF_FRAME_SESSION, (kf_sender_t)channel->sender, channel->session,
                        channel->number, size);
}

const uint8_t *kf_frame_seal_clear(uint8_t *buffer, size_t max_frame, size_t message_bytes, kf_sender_t sender,
                                   size_t *size) {
    return checked_seal(buffer, max_frame, message_bytes, KF_FRAME_CLEAR, sender, 0, 0, size);
}
