/* A child process that runs a device, and the link below it, on requests from a pipe, under the sanitizers.
 *
 * Request and answer: u32 length, then that many bytes, little endian. The first byte of a request says what is asked. The
 * clock is the caller's, so that hours take no time and every run is the same. Every buffer that the core sees is its own heap
 * block of the exact size: a byte too far is a crash.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../firmware/src/link/cipher.h"
#include "kilofed/kilofed.h"

/* ---- bytes in and out ------------------------------------------------------------------------------------------ */

static const uint8_t *in;
static size_t in_left;
static uint8_t *out;
static size_t out_bytes, out_room;

static void *block(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (p == NULL) {
        abort();
    }
    memset(p, 0xA5, bytes); /* poison: nothing may count on zeros */
    return p;
}

static const uint8_t *take(size_t bytes) {
    if (bytes > in_left) {
        fprintf(stderr, "runner: the request is too short\n");
        exit(2);
    }
    const uint8_t *p = in;
    in += bytes;
    in_left -= bytes;
    return p;
}

static uint32_t take_number(unsigned bytes) {
    const uint8_t *p = take(bytes);
    uint32_t v = 0;
    for (unsigned i = 0; i < bytes; i++) {
        v |= (uint32_t)p[i] << (8 * i);
    }
    return v;
}

static uint8_t *take_copy(size_t bytes) {
    uint8_t *p = block(bytes);
    memcpy(p, take(bytes), bytes);
    return p;
}

static void give(const void *p, size_t bytes) {
    if (out_bytes + bytes > out_room) {
        out_room = 2 * (out_bytes + bytes);
        out = realloc(out, out_room);
        if (out == NULL) {
            abort();
        }
    }
    if (bytes > 0) {
        memcpy(out + out_bytes, p, bytes);
    }
    out_bytes += bytes;
}

static void give_number(int64_t v) {
    give(&v, sizeof v);
}

/* ---- the device under test ------------------------------------------------------------------------------------- */

static kf_device_t *device;
static kf_device_config_t *config;
static kf_identity_t *identity;
static uint8_t *memory, *model, *samples;
static char *board;
static uint32_t clock_ms, entropy_state;
static int has_entropy;
static size_t port_room; /* bytes the line takes until the next request */
static uint8_t *line, *strays;
static size_t line_bytes, line_size, stray_bytes, stray_size;

static void append(uint8_t **to, size_t *bytes, size_t *size, const uint8_t *from, size_t count) {
    if (*bytes + count > *size) {
        *size = 2 * (*bytes + count);
        *to = realloc(*to, *size);
        if (*to == NULL) {
            abort();
        }
    }
    memcpy(*to + *bytes, from, count);
    *bytes += count;
}

static size_t port_write(void *context, const uint8_t *bytes, size_t size) {
    (void)context;
    const size_t taken = size < port_room ? size : port_room;
    append(&line, &line_bytes, &line_size, bytes, taken);
    port_room -= taken;
    return taken;
}

static uint32_t port_millis(void *context) {
    (void)context;
    return clock_ms;
}

static kf_status_t port_entropy(void *context, uint8_t *to, size_t size) {
    (void)context;
    if (!has_entropy) {
        return KF_ERR_UNSUPPORTED;
    }
    for (size_t i = 0; i < size; i++) {
        entropy_state = entropy_state * 1664525u + 1013904223u;
        to[i] = (uint8_t)(entropy_state >> 24);
    }
    return KF_OK;
}

static void port_stray(void *context, const uint8_t *bytes, size_t size) {
    (void)context;
    append(&strays, &stray_bytes, &stray_size, bytes, size);
}

static void device_drop(void) {
    free(device);
    free(config);
    free(identity);
    free(memory);
    free(model);
    free(samples);
    free(board);
    device = NULL;
    config = NULL;
    identity = NULL;
    memory = model = samples = NULL;
    board = NULL;
    line_bytes = stray_bytes = 0;
}

static void ask_init(void) {
    device_drop();
    clock_ms = take_number(4);
    const uint32_t memory_bytes = take_number(4);
    config = block(sizeof *config);
    memset(config, 0, sizeof *config);
    config->max_frame = (uint16_t)take_number(2);
    config->window = (uint16_t)take_number(2);
    config->ring_slots = (uint16_t)take_number(2);
    config->held_out_every = (uint8_t)take_number(1);
    config->exact_updates = (uint8_t)take_number(1);
    config->max_batch = (uint16_t)take_number(2);
    has_entropy = (int)take_number(1);
    entropy_state = take_number(4);
    config->firmware = take_number(4);
    identity = block(sizeof *identity);
    memset(identity, 0, sizeof *identity);
    memcpy(identity->id, take(8), 8);
    memcpy(identity->key, take(32), 32);
    config->identity = identity;
    const size_t name = take_number(1);
    board = block(name + 1);
    memcpy(board, take(name), name);
    board[name] = 0;
    config->board = board;
    config->model_bytes = take_number(4);
    model = take_copy(config->model_bytes);
    config->model = model;
    config->samples.bytes = take_number(4);
    samples = config->samples.bytes ? take_copy(config->samples.bytes) : NULL;
    config->samples.data = samples;
    config->port = (kf_port_t){NULL, port_write, port_millis, port_entropy, port_stray};

    kf_device_parts_t parts = {0};
    kf_model_t *opened = block(sizeof *opened);
    size_t exact = 0;
    if (kf_model_open(opened, model, config->model_bytes) == KF_OK) {
        exact = kf_device_bytes(opened, config);
        if (kf_device_parts(&parts, opened, config) != KF_OK && parts.total != 0) {
            abort();
        }
    }
    free(opened);
    size_t bytes = memory_bytes ? memory_bytes : exact;
    if (bytes == 0) {
        bytes = 2u * config->max_frame + 8u;
    }
    memory = block(bytes);
    device = block(sizeof *device);
    give_number(kf_device_init(device, config, memory, bytes));
    give_number((int64_t)exact);
    give_number(device->needed_bytes);
    give_number(device->fault);
    give_number(device->fault_detail);
    give_number(sizeof *device);
    give(&parts, sizeof parts);
}

static void ask_receive(void) {
    clock_ms = take_number(4);
    const size_t size = in_left;
    uint8_t *bytes = take_copy(size);
    give_number(kf_receive(device, bytes, size));
    free(bytes);
}

static void ask_poll(void) {
    clock_ms = take_number(4);
    const uint32_t max_macs = take_number(4);
    uint32_t polls = take_number(4);
    port_room = take_number(4);
    uint32_t wait = 0;
    uint32_t made = 0;
    while (wait == 0 && polls-- > 0) {
        wait = kf_poll(device, max_macs);
        made++;
    }
    give_number(wait);
    give_number(made);
    give_number(device->state);
    give_number((int64_t)stray_bytes);
    give(strays, stray_bytes);
    give(line, line_bytes);
    line_bytes = stray_bytes = 0;
}

static void ask_observe(int features) {
    const uint16_t label = (uint16_t)take_number(2);
    const size_t size = in_left;
    uint8_t *bytes = take_copy(size);
    give_number(features ? kf_observe_features(device, (const int8_t *)bytes, size, label)
                         : kf_observe(device, (const int8_t *)bytes, size, label));
    free(bytes);
}

static void ask_classify(void) {
    const size_t size = in_left;
    uint8_t *bytes = take_copy(size);
    uint16_t label = 0xFFFF;
    const kf_status_t status = kf_classify(device, (const int8_t *)bytes, size, &label);
    free(bytes);
    give_number(status);
    give_number(label);
    if (status == KF_OK) {
        give(kf_nn_output(&device->nn), device->model.output_bytes);
    }
}

static void ask_state(void) {
    give_number(device->state);
    give_number(device->head_in_use);
    give_number(device->ring.count);
    give_number(device->session.frames_in);
    give_number(device->session.frames_out);
    give_number(device->session.damaged);
    give_number(device->ring.locks);
    give_number(device->session.unproven);
    const size_t features = (size_t)device->ring.capacity * device->ring.width;
    const size_t residual = kf_residual_bytes(device->ring.classes, device->ring.width);
    give_number((int64_t)residual);
    give(device->residual.bias, residual);
    give_number((int64_t)features);
    give(device->ring.features, features);
}

static void ask_settings(void) {
    uint8_t *page = take_copy(KF_SETTINGS_BYTES);
    kf_identity_t read;
    give_number(kf_settings_read(&read, page));
    give(&read, sizeof read);
    free(page);
}

/* ---- the link alone -------------------------------------------------------------------------------------------- */

/* session, number, open, sender, encrypted, and a key if it is. */
static kf_frame_channel_t take_channel(void) {
    kf_frame_channel_t channel;
    memset(&channel, 0xA5, sizeof channel);
    channel.session = take_number(4);
    channel.number = take_number(4);
    channel.open = (uint8_t)take_number(1);
    channel.sender = (uint8_t)take_number(1);
    channel.encrypted = (uint8_t)take_number(1);
    if (channel.encrypted) {
        memcpy(channel.key, take(sizeof channel.key), sizeof channel.key);
    }
    return channel;
}

static void ask_frames(void) {
    const size_t buffer_bytes = take_number(2);
    kf_frame_channel_t channel = take_channel();
    const size_t cut = take_number(2); /* bytes a call, 0: all */
    const size_t size = in_left;
    uint8_t *bytes = take_copy(size);
    uint8_t *buffer = block(buffer_bytes);
    kf_frame_decoder_t decoder;
    kf_frame_decoder_init(&decoder, buffer, buffer_bytes);
    for (size_t at = 0; at < size;) {
        const size_t piece = cut && cut < size - at ? cut : size - at;
        for (size_t done = 0; done < piece;) {
            kf_frame_outcome_t outcome;
            kf_frame_t frame;
            done += kf_frame_feed(&decoder, &channel, bytes + at + done, piece - done, &outcome, &frame);
            if (outcome != KF_FRAME_WAITING) {
                give_number(outcome);
                give_number(frame.type);
                give_number(frame.number);
                give_number(frame.wire_bytes);
                give_number(frame.size);
                give(frame.bytes, frame.size);
            }
        }
        at += piece;
    }
    free(buffer);
    free(bytes);
}

static void ask_seal(void) {
    const size_t max_frame = take_number(2);
    const int clear = take_number(1) == 0;
    kf_frame_channel_t channel = take_channel(); /* its number is the one before */
    const size_t size = in_left;
    const kf_frame_type_t type = clear ? KF_FRAME_CLEAR : channel.encrypted ? KF_FRAME_ENCRYPTED : KF_FRAME_SESSION;
    give_number((int64_t)kf_frame_message_max(max_frame, type));
    if (size == 0 || size > kf_frame_message_max(max_frame, type)) {
        return;
    }
    uint8_t *buffer = block(KF_FRAME_SEND_BYTES(max_frame));
    memcpy(kf_frame_message_at(buffer, max_frame), take(size), size);
    size_t wire;
    const uint8_t *frame = clear ? kf_frame_seal_clear(buffer, max_frame, size, (kf_sender_t)channel.sender, &wire)
                                 : kf_frame_seal(buffer, max_frame, size, &channel, &wire);
    give(frame, wire);
    free(buffer);
}

static void ask_keys(void) {
    uint8_t *key = take_copy(KF_FRAME_KEY_BYTES);
    const size_t hello_bytes = take_number(2);
    uint8_t *hello = take_copy(hello_bytes);
    const size_t welcome_bytes = in_left;
    uint8_t *welcome = take_copy(welcome_bytes);
    uint8_t *from_host = block(KF_FRAME_KEY_BYTES), *from_device = block(KF_FRAME_KEY_BYTES), *proof = block(KF_PROOF_BYTES);
    kf_keys_derive(key, hello, hello_bytes, welcome, welcome_bytes, from_host, from_device, proof);
    give(from_host, KF_FRAME_KEY_BYTES);
    give(from_device, KF_FRAME_KEY_BYTES);
    give(proof, KF_PROOF_BYTES);
    kf_key_next(key, key);
    give(key, KF_FRAME_KEY_BYTES);
    free(proof);
    free(from_device);
    free(from_host);
    free(welcome);
    free(hello);
    free(key);
}

/* Any number of messages, each u16 length and bytes. Answers status, type, and the message encoded again. */
static void ask_messages(void) {
    while (in_left > 0) {
        const size_t size = take_number(2);
        uint8_t *bytes = take_copy(size);
        kf_message_t message;
        const kf_status_t status = kf_message_decode(&message, bytes, size);
        give_number(status);
        give_number(message.type);
        size_t again = 0;
        uint8_t *encoded = block(1100);
        if (status == KF_OK) {
            if (kf_message_encode(&message, encoded, 1100, &again) != KF_OK) {
                abort();
            }
            /* Exactly enough room is enough, one byte less is not, and nothing behind it is touched. */
            uint8_t *exact = block(again);
            size_t same;
            if (kf_message_encode(&message, exact, again, &same) != KF_OK || same != again ||
                memcmp(exact, encoded, again) != 0) {
                abort();
            }
            free(exact);
            uint8_t *tight = block(again - 1);
            if (kf_message_encode(&message, tight, again - 1, &same) != KF_ERR_MEMORY) {
                abort();
            }
            free(tight);
        }
        give_number((int64_t)again);
        give(encoded, again);
        free(encoded);
        free(bytes);
    }
}

/* ---- requests -------------------------------------------------------------------------------------------------- */

static void answer(uint8_t what) {
    switch (what) {
    case 'I':
        ask_init();
        break;
    case 'R':
        ask_receive();
        break;
    case 'P':
        ask_poll();
        break;
    case 'O':
        ask_observe(0);
        break;
    case 'F':
        ask_observe(1);
        break;
    case 'C':
        ask_classify();
        break;
    case 'G':
        ask_state();
        break;
    case 'B':
        kf_busy(device, take_number(4));
        break;
    case 'L':
        kf_leave(device, (kf_reason_t)take_number(1));
        break;
    case 'S':
        ask_settings();
        break;
    case 'D':
        ask_frames();
        break;
    case 'E':
        ask_seal();
        break;
    case 'K':
        ask_keys();
        break;
    case 'M':
        ask_messages();
        break;
    default:
        fprintf(stderr, "runner: no request %c\n", what);
        exit(2);
    }
}

int main(void) {
    uint8_t head[4];
    while (fread(head, 1, sizeof head, stdin) == sizeof head) {
        in = head;
        in_left = sizeof head;
        const size_t size = take_number(4);
        uint8_t *request = block(size);
        if (fread(request, 1, size, stdin) != size) {
            return 2;
        }
        in = request;
        in_left = size;
        out_bytes = 0;
        answer((uint8_t)take_number(1));
        if (in_left != 0) {
            fprintf(stderr, "runner: %zu bytes of the request were not asked for\n", in_left);
            return 2;
        }
        const uint8_t length[4] = {(uint8_t)out_bytes, (uint8_t)(out_bytes >> 8), (uint8_t)(out_bytes >> 16),
                                   (uint8_t)(out_bytes >> 24)};
        fwrite(length, 1, sizeof length, stdout);
        fwrite(out, 1, out_bytes, stdout);
        fflush(stdout);
        free(request);
    }
    device_drop();
    free(out);
    free(line);
    free(strays);
    return 0;
}
