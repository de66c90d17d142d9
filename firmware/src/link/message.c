/* Messages to and from CBOR, by a table that is protocol.cddl in C: one line a field, in the order of the wire.
 *
 * The single values are read and written by zcbor's runtime. What surrounds them is done here: that the message is one
 * well-formed array and nothing else is seen in one walk before any value is read. */
#include "kilofed/message.h"

#include <string.h>

#include <zcbor_decode.h>
#include <zcbor_encode.h>

/* ---- the table ------------------------------------------------------------------------------------------------- */

typedef enum kind {
    U8,       /* unsigned, low .. high, in 1, 2 or 4 bytes of the struct */
    U16,
    U32,
    MANTISSA, /* uint16: low .. high, or 0 */
    HASH,     /* byte string of exactly 8 */
    NULLABLE, /* the same, or null */
    BYTES,    /* byte string of low .. high bytes */
    TEXT,     /* UTF-8 of low .. high bytes */
    OPTIONAL, /* the same, or absent; last in its message */
    PROOF     /* byte string of low .. high bytes, or absent; last in its message */
} kind_t;

typedef struct field {
    uint8_t kind;
    uint8_t at; /* offset in kf_message_t.as */
    uint8_t low;
    uint32_t high;
} field_t;

#define AT(type, member) (uint8_t) offsetof(type, member)
#define MAX8 0xFFu
#define MAX16 0xFFFFu
#define MAX32 0xFFFFFFFFu
/* 2^14 does not fit `low`: the kind implies it. */
#define MULTIPLIER(type, member) \
    {MANTISSA, AT(type, member.mantissa), 0, 0x7FFFu}, { U8, AT(type, member.shift), 0, MAX8 }

static const field_t fields[] = {
    /* probe */ {U8, AT(kf_probe_t, version), 0, MAX8},
    /* hello */ {U8, AT(kf_hello_t, version), 0, MAX8},
    {HASH, AT(kf_hello_t, device_id), 0, 0},
    {HASH, AT(kf_hello_t, device_nonce), 0, 0},
    {TEXT, AT(kf_hello_t, board), 1, 24},
    {U32, AT(kf_hello_t, firmware), 0, MAX32},
    {U16, AT(kf_hello_t, max_frame), 64, 1024},
    {U16, AT(kf_hello_t, window), 64, MAX16},
    {U32, AT(kf_hello_t, flags), 0, MAX32},
    /* welcome */ {U8, AT(kf_welcome_t, version), 0, MAX8},
    {HASH, AT(kf_welcome_t, device_nonce), 0, 0},
    {HASH, AT(kf_welcome_t, host_nonce), 0, 0},
    {U16, AT(kf_welcome_t, max_frame), 64, 1024},
    {U16, AT(kf_welcome_t, heartbeat_ms), 100, MAX16},
    {PROOF, AT(kf_welcome_t, proof), KF_PROOF_BYTES, KF_PROOF_BYTES},
    /* refuse */ {HASH, AT(kf_refuse_t, device_nonce), 0, 0},
    {U8, AT(kf_refuse_t, reason), 0, MAX8},
    {U32, AT(kf_refuse_t, wait_ms), 0, MAX32},
    /* info */ {HASH, AT(kf_info_t, model), 0, 0},
    {HASH, AT(kf_info_t, labels), 0, 0},
    {U16, AT(kf_info_t, classes), 0, MAX16},
    {U16, AT(kf_info_t, features), 0, MAX16},
    {U16, AT(kf_info_t, capacity), 0, MAX16},
    {U16, AT(kf_info_t, train), 0, MAX16},
    {U16, AT(kf_info_t, held_out), 0, MAX16},
    {NULLABLE, AT(kf_info_t, head), 0, 0},
    {U8, AT(kf_info_t, state), 0, KF_STATE_FAILED},
    {U32, AT(kf_info_t, round), 0, MAX32},
    /* offer */ {U8, AT(kf_offer_t, kind), KF_BLOB_HEAD, KF_BLOB_UPDATE},
    {HASH, AT(kf_offer_t, hash), 0, 0},
    {U32, AT(kf_offer_t, size), 1, 1048576},
    /* accept */ {U16, AT(kf_accept_t, id), 0, MAX16},
    {U32, AT(kf_accept_t, offset), 0, MAX32},
    {U8, AT(kf_accept_t, verdict), 0, KF_REFUSED},
    /* chunk */ {U16, AT(kf_chunk_t, id), 0, MAX16},
    {U32, AT(kf_chunk_t, offset), 0, MAX32},
    {BYTES, AT(kf_chunk_t, data), 1, 1000},
    /* train */ {U32, AT(kf_order_t, round), 0, MAX32},
    {HASH, AT(kf_order_t, head), 0, 0},
    {U32, AT(kf_order_t, seed), 0, MAX32},
    {U8, AT(kf_order_t, epochs), 0, MAX8},
    {U16, AT(kf_order_t, batch), 1, 256},
    MULTIPLIER(kf_order_t, lr_weights),
    MULTIPLIER(kf_order_t, lr_bias),
    MULTIPLIER(kf_order_t, prox),
    {U8, AT(kf_order_t, codec), 0, 3},
    {U8, AT(kf_order_t, flags), 0, MAX8},
    /* status */ {U8, AT(kf_report_t, state), 0, KF_STATE_FAILED},
    {U32, AT(kf_report_t, round), 0, MAX32},
    {U16, AT(kf_report_t, progress), 0, 1000},
    {U32, AT(kf_report_t, loss_q12), 0, MAX32},
    /* result */ {U32, AT(kf_result_t, round), 0, MAX32},
    {NULLABLE, AT(kf_result_t, update), 0, 0},
    {U32, AT(kf_result_t, size), 0, 1048576},
    {U16, AT(kf_result_t, train), 0, MAX16},
    {U16, AT(kf_result_t, held_out), 0, MAX16},
    {U32, AT(kf_result_t, loss_q12), 0, MAX32},
    {U16, AT(kf_result_t, base_correct), 0, MAX16},
    {U16, AT(kf_result_t, own_correct), 0, MAX16},
    {U32, AT(kf_result_t, elapsed_ms), 0, MAX32},
    /* commit */ {U32, AT(kf_commit_t, round), 0, MAX32},
    {U8, AT(kf_commit_t, verdict), 0, MAX8},
    /* cancel */ {U32, AT(kf_cancel_t, round), 0, MAX32},
    /* error */ {U8, AT(kf_error_t, code), 0, MAX8},
    {U32, AT(kf_error_t, detail), 0, MAX32},
    {OPTIONAL, AT(kf_error_t, text), 0, 48},
    /* busy */ {U32, AT(kf_busy_t, ms), 0, MAX32},
    /* bye */ {U8, AT(kf_bye_t, reason), 0, MAX8},
    /* watch */ {U32, AT(kf_watch_t, ms), 0, MAX32},
    /* seen */ {U32, AT(kf_seen_t, number), 0, MAX32},
    {U16, AT(kf_seen_t, label), 0, MAX16},
    {U8, AT(kf_seen_t, score), 0, MAX8},
    {U8, AT(kf_seen_t, verdict), 0, KF_LABEL_REFUSED},
    /* label */ {U32, AT(kf_label_t, number), 0, MAX32},
    {U16, AT(kf_label_t, label), 0, MAX16},
};

/* How many lines of the table each type has, in the order of kf_message_type_t. */
static const uint8_t field_counts[KF_MSG_TYPES] = {1, 8, 6, 3, 10, 3, 3, 3, 13, 4, 9, 2, 1, 0, 3, 1, 1, 1, 4, 2};

_Static_assert(sizeof fields / sizeof fields[0] == 1 + 8 + 6 + 3 + 10 + 3 + 3 + 3 + 13 + 4 + 9 + 2 + 1 + 0 + 3 + 1 + 1 + 1 + 4 + 2,
               "field_counts and the table disagree");
_Static_assert(sizeof(((kf_message_t *)0)->as) <= 255, "offsets are kept in a byte");

static const field_t *fields_of(uint8_t type) {
    const field_t *first = fields;
    for (uint8_t t = 0; t < type; t++) {
        first += field_counts[t];
    }
    return first;
}

static int is_optional(const field_t *field) {
    return field->kind == OPTIONAL || field->kind == PROOF;
}

static int in_range(const field_t *field, uint32_t value) {
    if (field->kind == MANTISSA) {
        return value == 0 || (value >= 0x4000u && value <= field->high);
    }
    return value >= field->low && value <= field->high;
}

/* What the table cannot say. */
static int is_whole(const kf_message_t *message) {
    return message->type != KF_MSG_RESULT || (message->as.result.update.present != 0) == (message->as.result.size != 0);
}

/* ---- the walk -------------------------------------------------------------------------------------------------- */

typedef struct walk {
    const uint8_t *at, *end;
} walk_t;

/* Read an item's head (RFC 8949, 3) and move behind it; a value over 32 bits counts as the largest, as nothing here is that
 * long. 0: cut short, of indefinite length, or not in shortest form. */
static int walk_head(walk_t *w, uint8_t *major, uint32_t *value) {
    if (w->at == w->end) {
        return 0;
    }
    const uint8_t first = *w->at++;
    const uint8_t info = first & 31u;
    *major = first >> 5;
    *value = info;
    if (info < 24) {
        return 1;
    }
    if (info > 27 || (w->end - w->at) < (1 << (info - 24))) {
        return 0;
    }
    uint32_t high = 0;
    *value = 0;
    for (unsigned left = 1u << (info - 24); left > 0; left--) {
        high = (high << 8) | (*value >> 24);
        *value = (*value << 8) | *w->at++;
    }
    const int shortest = info == 24   ? *value >= 24
                         : info == 25 ? *value > 0xFF
                         : info == 26 ? *value > 0xFFFF
                                      : high != 0;
    if (high != 0) {
        *value = UINT32_MAX;
    }
    return shortest || *major == 7; /* floats have no shortest form here */
}

/* Whether `size` bytes are exactly one array as message.h wants it: sets the count of its elements and where they begin.
 * Iterative, with one counter a level, since a recursion's depth would be the sender's choice. */
static int walk_message(const uint8_t *bytes, size_t size, uint32_t *count, size_t *start) {
    walk_t w = {bytes, bytes + size};
    uint32_t left[KF_MESSAGE_DEPTH + 1u];
    unsigned depth = 0;
    uint8_t major;
    if (!walk_head(&w, &major, count) || major != 4 || *count > 255) {
        return 0;
    }
    *start = (size_t)(w.at - bytes);
    left[0] = *count;
    for (;;) {
        if (left[depth] == 0) {
            if (depth == 0) {
                return w.at == w.end;
            }
            depth--;
            continue;
        }
        left[depth]--;
        uint32_t value;
        if (!walk_head(&w, &major, &value)) {
            return 0;
        }
        switch (major) {
        case 2:
        case 3:
            if (value > (size_t)(w.end - w.at)) {
                return 0;
            }
            w.at += value;
            break;
        case 4:
        case 5: /* each element takes a byte at least, so a larger count is cut short for sure */
            if (depth == KF_MESSAGE_DEPTH || value > (size_t)(w.end - w.at)) {
                return 0;
            }
            left[++depth] = major == 5 ? 2 * value : value;
            break;
        case 6:
            return 0;
        default:
            break;
        }
    }
}

/* ---- decoding -------------------------------------------------------------------------------------------------- */

static int hash_decode(zcbor_state_t *state, uint8_t *to) {
    struct zcbor_string string;
    if (!zcbor_bstr_decode(state, &string) || string.len != KF_HASH_BYTES) {
        return 0;
    }
    memcpy(to, string.value, KF_HASH_BYTES);
    return 1;
}

/* Strict UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF. */
static int is_utf8(const uint8_t *at, size_t size) {
    uint32_t left = 0;  /* continuation bytes still to come */
    uint32_t value = 0; /* of the character so far */
    uint32_t least = 0; /* what it must reach: below that the form is overlong */
    for (size_t i = 0; i < size; i++) {
        const uint8_t byte = at[i];
        if (left > 0) {
            value = (value << 6) | (byte & 63u);
            left--;
            if ((byte & 0xC0u) != 0x80u ||
                (left == 0 && (value < least || value > 0x10FFFFu || (value >> 11) == 0x1Bu))) {
                return 0;
            }
        } else if (byte >= 0x80u) {
            left = byte >= 0xF0u ? 3u : byte >= 0xE0u ? 2u : 1u;
            least = left == 3u ? 0x10000u : left == 2u ? 0x800u : 0x80u;
            value = byte & (0x3Fu >> left);
            if (byte < 0xC0u || byte >= 0xF8u) {
                return 0;
            }
        }
    }
    return left == 0;
}

static int field_decode(zcbor_state_t *state, const field_t *field, uint8_t *to) {
    switch (field->kind) {
    case HASH:
        return hash_decode(state, to);
    case NULLABLE: {
        kf_hash_or_null_t hash = {0, {0}};
        if (!zcbor_nil_expect(state, NULL)) {
            hash.present = 1;
            if (!hash_decode(state, hash.bytes)) {
                return 0;
            }
        }
        memcpy(to, &hash, sizeof hash);
        return 1;
    }
    case BYTES:
    case PROOF:
    case TEXT:
    case OPTIONAL: {
        const int text = field->kind == TEXT || field->kind == OPTIONAL;
        struct zcbor_string string;
        if (!(text ? zcbor_tstr_decode(state, &string) : zcbor_bstr_decode(state, &string)) ||
            string.len > UINT16_MAX || !in_range(field, (uint32_t)string.len) ||
            (text && !is_utf8(string.value, string.len))) {
            return 0;
        }
        const kf_span_t span = {string.value, (uint16_t)string.len};
        memcpy(to, &span, sizeof span);
        return 1;
    }
    default: {
        uint32_t value;
        if (!zcbor_uint32_decode(state, &value) || !in_range(field, value)) {
            return 0;
        }
        const uint8_t value8 = (uint8_t)value;
        const uint16_t value16 = (uint16_t)value;
        if (field->kind == U8) {
            memcpy(to, &value8, sizeof value8);
        } else if (field->kind == U32) {
            memcpy(to, &value, sizeof value);
        } else {
            memcpy(to, &value16, sizeof value16);
        }
        return 1;
    }
    }
}

kf_status_t kf_message_decode(kf_message_t *out, const uint8_t *bytes, size_t size) {
    uint32_t count;
    size_t start;
    memset(out, 0, sizeof *out);
    out->type = 255;
    if (!walk_message(bytes, size, &count, &start) || count == 0) {
        return KF_ERR_MESSAGE;
    }
    zcbor_state_t state = {0};
    zcbor_new_decode_state(&state, 1, bytes + start, size - start, count, NULL, 0);
    uint32_t type;
    if (!zcbor_uint32_decode(&state, &type)) {
        return bytes[start] >> 5 == 0 ? KF_ERR_UNSUPPORTED : KF_ERR_MESSAGE; /* a type of 64 bits */
    }
    if (type >= KF_MSG_TYPES) {
        out->type = (uint8_t)(type > 255 ? 255 : type);
        return KF_ERR_UNSUPPORTED;
    }
    out->type = (uint8_t)type;
    const field_t *field = fields_of(out->type);
    for (uint8_t left = field_counts[type]; left > 0; left--, field++) {
        if (is_optional(field) && state.elem_count == 0) {
            break;
        }
        if (!field_decode(&state, field, (uint8_t *)&out->as + field->at)) {
            return KF_ERR_MESSAGE;
        }
    }
    return is_whole(out) ? KF_OK : KF_ERR_MESSAGE;
}

/* ---- encoding -------------------------------------------------------------------------------------------------- */

static kf_status_t field_encode(zcbor_state_t *state, const field_t *field, const uint8_t *from) {
    switch (field->kind) {
    case NULLABLE:
        if (from[0] == 0) {
            return zcbor_nil_put(state, NULL) ? KF_OK : KF_ERR_MEMORY;
        }
        from += offsetof(kf_hash_or_null_t, bytes);
        /* fall through */
    case HASH:
        return zcbor_bstr_encode_ptr(state, (const char *)from, KF_HASH_BYTES) ? KF_OK : KF_ERR_MEMORY;
    case BYTES:
    case PROOF:
    case TEXT:
    case OPTIONAL: {
        kf_span_t span;
        memcpy(&span, from, sizeof span);
        if (span.at == NULL || !in_range(field, span.size)) {
            return KF_ERR_MESSAGE;
        }
        const struct zcbor_string string = {span.at, span.size};
        return (field->kind == BYTES || field->kind == PROOF ? zcbor_bstr_encode(state, &string)
                                                              : zcbor_tstr_encode(state, &string))
                   ? KF_OK
                   : KF_ERR_MEMORY;
    }
    default: {
        uint32_t value;
        uint16_t value16;
        if (field->kind == U8) {
            value = *from;
        } else if (field->kind == U32) {
            memcpy(&value, from, sizeof value);
        } else {
            memcpy(&value16, from, sizeof value16);
            value = value16;
        }
        if (!in_range(field, value)) {
            return KF_ERR_MESSAGE;
        }
        return zcbor_uint32_put(state, value) ? KF_OK : KF_ERR_MEMORY;
    }
    }
}

kf_status_t kf_message_encode(const kf_message_t *message, uint8_t *out, size_t capacity, size_t *size) {
    if (message->type >= KF_MSG_TYPES || !is_whole(message)) {
        return KF_ERR_MESSAGE;
    }
    if (capacity == 0) {
        return KF_ERR_MEMORY;
    }
    const field_t *field = fields_of(message->type);
    uint8_t count = field_counts[message->type];
    if ((message->type == KF_MSG_ERROR && message->as.error.text.at == NULL) ||
        (message->type == KF_MSG_WELCOME && message->as.welcome.proof.at == NULL)) {
        count--;
    }
    /* At most 14 elements: the array's head is this one byte. (zcbor's own needs a backup state to count them.) */
    out[0] = (uint8_t)(0x80u + count + 1u);
    zcbor_state_t state = {0};
    zcbor_new_encode_state(&state, 1, out + 1, capacity - 1, 0);
    if (!zcbor_uint32_put(&state, message->type)) {
        return KF_ERR_MEMORY;
    }
    for (; count > 0; count--, field++) {
        const kf_status_t status = field_encode(&state, field, (const uint8_t *)&message->as + field->at);
        if (status != KF_OK) {
            return status;
        }
    }
    *size = (size_t)(state.payload - out);
    return KF_OK;
}
