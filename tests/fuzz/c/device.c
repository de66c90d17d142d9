/* Fuzz target: everything a host, or who says it is one, can do to a device, with the application's calls between.
 *
 * The input is a little program: u8 set-up, then steps of u8 step and what it takes (see `step`). Frames are sealed here
 * with the session's real id, key and number, blobs get their real hash, and a welcome the real nonce and proof: sums, nonces and
 * keys must stop accidents and strangers; here everything behind them is tried. Bit 7 of the set-up gives the device a key.
 *
 * Promised by device.h and PROTOCOL.md: no byte outside the announced memory is touched; kf_poll() does not go on for ever;
 * the ring is never overfull and holds no label that the model does not have; and what the device says is itself sound:
 * frames that a decoder takes, with messages that decode. */
#include "../../../firmware/src/link/cipher.h"
#include "input.h"
#include "kilofed/kilofed.h"

__asm__(".pushsection .rodata\n.global fuzz_model\nfuzz_model:\n.incbin \"" FUZZ_MODEL
        "\"\n.global fuzz_model_end\nfuzz_model_end:\n.popsection\n");
extern const uint8_t fuzz_model[], fuzz_model_end[];

enum { STEPS_MOST = 400, POLLS_MOST = 3000, INPUT_MOST = 64, FRAME_MOST = 1024 };

/* ---- the line, and a host that listens ------------------------------------------------------------------------- */

typedef struct kf_line {
    kf_device_t *device;
    uint32_t clock_ms;
    size_t room;
    uint32_t entropy;
    int no_entropy;
    kf_frame_decoder_t decoder;
    kf_frame_channel_t channel;
    uint8_t buffer[FRAME_MOST];
    int crossing; /* the frame under way may be of the session before */
} kf_line_t;

/* Another session has begun: what comes from here on is of it, but for a frame that is under way. Called before every
 * kf_poll(), which alone makes frames: so none is made under keys that were never seen here. */
static void follow(kf_line_t *line) {
    const kf_frame_channel_t *now = &line->device->session.out;
    const int same = now->encrypted ? memcmp(line->channel.key, now->key, sizeof now->key) == 0
                                    : line->channel.session == now->session;
    if (now->open && !(same && line->channel.open)) {
        line->crossing = 1;
        line->channel = *now;
    }
}

/* What the device has written must be frames of its session (or in the clear) with sound messages. A frame that was
 * under way when the session changed belongs to the old one and is let pass as damaged. */
static void listen_to(kf_line_t *line, const uint8_t *bytes, size_t size) {
    for (size_t at = 0; at < size;) {
        kf_frame_outcome_t outcome;
        kf_frame_t frame;
        at += kf_frame_feed(&line->decoder, &line->channel, bytes + at, size - at, &outcome, &frame);
        if (outcome == KF_FRAME_READY) {
            kf_message_t message;
            PROMISE(kf_message_decode(&message, frame.bytes, frame.size) == KF_OK);
            PROMISE((frame.type == KF_FRAME_CLEAR) == (message.type == KF_MSG_HELLO));
        } else if (outcome != KF_FRAME_WAITING) {
            PROMISE(outcome == KF_FRAME_DAMAGED && line->crossing);
        }
        line->crossing = line->crossing && outcome == KF_FRAME_WAITING;
    }
}

static size_t line_write(void *context, const uint8_t *bytes, size_t size) {
    kf_line_t *line = context;
    const size_t taken = size < line->room ? size : line->room;
    line->room -= taken;
    listen_to(line, bytes, taken);
    return taken;
}

static uint32_t line_millis(void *context) {
    return ((const kf_line_t *)context)->clock_ms;
}

static kf_status_t line_entropy(void *context, uint8_t *out, size_t size) {
    kf_line_t *line = context;
    if (line->no_entropy) {
        return KF_ERR_UNSUPPORTED;
    }
    for (size_t i = 0; i < size; i++) {
        line->entropy = line->entropy * 1664525u + 1013904223u;
        out[i] = (uint8_t)(line->entropy >> 24);
    }
    return KF_OK;
}

static void line_stray(void *context, const uint8_t *bytes, size_t size) {
    static volatile uint8_t last;
    (void)context;
    for (size_t i = 0; i < size; i++) {
        last = bytes[i]; /* they can be read */
    }
    (void)last;
}

/* ---- a host that speaks ---------------------------------------------------------------------------------------- */

typedef struct kf_scene {
    kf_line_t line;
    kf_device_t *device;
    const kf_device_config_t *config;
    uint8_t *head; /* the blob offered last */
    size_t head_bytes;
    uint8_t head_hash[KF_HASH_BYTES];
    unsigned polls;
} kf_scene_t;

static void feed(kf_scene_t *s, const uint8_t *bytes, size_t size) {
    uint8_t *exact = block(size);
    memcpy(exact, bytes, size);
    PROMISE(kf_receive(s->device, exact, size) == KF_OK);
    free(exact);
}

static void send_bytes(kf_scene_t *s, const uint8_t *message, size_t size, kf_frame_type_t type) {
    if (size == 0 || size > kf_frame_message_max(FRAME_MOST, KF_FRAME_ENCRYPTED)) {
        return;
    }
    uint8_t buffer[KF_FRAME_SEND_BYTES(FRAME_MOST)];
    memcpy(kf_frame_message_at(buffer, FRAME_MOST), message, size);
    kf_frame_channel_t to = s->device->session.in;
    size_t wire;
    const uint8_t *frame = type == KF_FRAME_CLEAR ? kf_frame_seal_clear(buffer, FRAME_MOST, size, KF_FROM_HOST, &wire)
                                                  : kf_frame_seal(buffer, FRAME_MOST, size, &to, &wire);
    feed(s, frame, wire);
}

static void send(kf_scene_t *s, const kf_message_t *message, kf_frame_type_t type) {
    uint8_t bytes[FRAME_MOST];
    size_t size;
    if (kf_message_encode(message, bytes, sizeof bytes, &size) == KF_OK) {
        send_bytes(s, bytes, size, type);
    }
}

/* The hello that the device has said, as PROTOCOL.md has it. */
static size_t hello_of(const kf_scene_t *s, uint8_t *bytes) {
    const kf_session_t *session = &s->device->session;
    kf_message_t m = {.type = KF_MSG_HELLO};
    m.as.hello = (kf_hello_t){.version = KF_FRAME_VERSION, .board = {(const uint8_t *)s->config->board, 4},
                              .firmware = s->config->firmware, .max_frame = s->config->max_frame,
                              .window = s->config->window,
                              .flags = (session->no_entropy ? KF_HELLO_NO_ENTROPY : 0u) | KF_HELLO_ENCRYPTED};
    memcpy(m.as.hello.device_id, s->config->identity->id, 8);
    memcpy(m.as.hello.device_nonce, session->nonce, 8);
    size_t size = 0;
    PROMISE(kf_message_encode(&m, bytes, FRAME_MOST, &size) == KF_OK);
    return size;
}

/* The proof of a welcome that is to begin an encrypted session. */
static void prove(const kf_scene_t *s, kf_message_t *welcome, uint8_t proof[KF_PROOF_BYTES]) {
    uint8_t hello[FRAME_MOST], bytes[FRAME_MOST], keys[2][KF_FRAME_KEY_BYTES];
    size_t size;
    welcome->as.welcome.proof = (kf_span_t){proof, KF_PROOF_BYTES};
    PROMISE(kf_message_encode(welcome, bytes, sizeof bytes, &size) == KF_OK);
    kf_keys_derive(s->config->identity->key, hello, hello_of(s, hello), bytes, size - KF_PROOF_BYTES - 1u, keys[0], keys[1],
                   proof);
}

static void welcome(kf_scene_t *s, kf_input_t *in) {
    kf_message_t m = {.type = KF_MSG_WELCOME};
    m.as.welcome = (kf_welcome_t){.version = KF_FRAME_VERSION,
                                  .max_frame = (uint16_t)(KF_FRAME_MIN + take_number(in, 2) % 961),
                                  .heartbeat_ms = (uint16_t)(100 + take_number(in, 2) % 65436)};
    memcpy(m.as.welcome.device_nonce, s->device->session.nonce, 8);
    memset(m.as.welcome.host_nonce, (int)take_number(in, 1), 8);
    uint8_t proof[KF_PROOF_BYTES] = {0};
    if (s->device->session.encrypted) {
        if (m.as.welcome.max_frame < KF_FRAME_MIN_ENCRYPTED) {
            m.as.welcome.max_frame = KF_FRAME_MIN_ENCRYPTED;
        }
        prove(s, &m, proof);
    }
    send(s, &m, KF_FRAME_CLEAR);
    follow(&s->line);
}

/* A head of the model's shape, its content the input's. */
static void offer(kf_scene_t *s, kf_input_t *in) {
    const kf_model_head_t *h = &s->device->model.head;
    free(s->head);
    s->head_bytes = kf_head_bytes(KF_CODEC_INT8, h->classes, h->features);
    s->head = block(s->head_bytes);
    memset(s->head, 0, s->head_bytes);
    const uint8_t fixed[] = {KF_BLOB_VERSION, KF_BLOB_HEAD, KF_CODEC_INT8, (uint8_t)take_number(in, 1),
                             (uint8_t)h->classes, (uint8_t)(h->classes >> 8), (uint8_t)h->features,
                             (uint8_t)(h->features >> 8)};
    memcpy(s->head, fixed, sizeof fixed);
    const uint32_t step = take_number(in, 4), scale = take_number(in, 4);
    memcpy(s->head + 8, &step, 4);
    memcpy(s->head + 12, &scale, 4);
    for (size_t i = KF_BLOB_HEADER_BYTES, n = take_number(in, 1); i < s->head_bytes && n > 0; i++, n--) {
        s->head[i] = (uint8_t)take_number(in, 1);
    }
    kf_blob_hash(s->head_hash, s->head, s->head_bytes);
    kf_message_t m = {.type = KF_MSG_OFFER};
    m.as.offer = (kf_offer_t){.kind = KF_BLOB_HEAD, .size = (uint32_t)s->head_bytes};
    memcpy(m.as.offer.hash, s->head_hash, KF_HASH_BYTES);
    send(s, &m, KF_FRAME_SESSION);
}

/* Some chunks of it, from where the device is, or from where the input says. */
static void chunks(kf_scene_t *s, kf_input_t *in) {
    const uint32_t size = take_number(in, 1) + 1, elsewhere = take_number(in, 1);
    for (uint32_t n = take_number(in, 1) % 16 + 1; n > 0 && s->head != NULL; n--) {
        const uint32_t at = elsewhere ? elsewhere : s->device->incoming.offset;
        if (at >= s->head_bytes) {
            return;
        }
        const uint32_t left = (uint32_t)s->head_bytes - at;
        kf_message_t m = {.type = KF_MSG_CHUNK};
        m.as.chunk = (kf_chunk_t){.id = kf_blob_id(s->head_hash), .offset = at,
                                  .data = {s->head + at, (uint16_t)(size < left ? size : left)}};
        send(s, &m, KF_FRAME_SESSION);
    }
}

static kf_multiplier_t multiplier(kf_input_t *in) {
    const uint32_t v = take_number(in, 3);
    return (kf_multiplier_t){.mantissa = (uint16_t)(v & 0x8000u ? 0x4000u | (v & 0x3FFFu) : 0), .shift = (uint8_t)(v >> 16)};
}

static void order(kf_scene_t *s, kf_input_t *in) {
    kf_message_t m = {.type = KF_MSG_TRAIN};
    kf_order_t *o = &m.as.train;
    o->round = take_number(in, 1);
    memcpy(o->head, s->device->base_hash, KF_HASH_BYTES);
    o->seed = take_number(in, 1);
    o->epochs = (uint8_t)(take_number(in, 1) % 8);
    o->batch = (uint16_t)take_number(in, 1);
    o->lr_weights = multiplier(in);
    o->lr_bias = multiplier(in);
    o->prox = multiplier(in);
    o->codec = (uint8_t)take_number(in, 1);
    o->flags = (uint8_t)take_number(in, 1);
    send(s, &m, KF_FRAME_SESSION);
}

static void answer_update(kf_scene_t *s, kf_input_t *in) {
    const uint32_t at = take_number(in, 2);
    kf_message_t m = {.type = KF_MSG_ACCEPT};
    m.as.accept = (kf_accept_t){.id = kf_blob_id(s->device->sender.hash),
                                .offset = at == 0xFFFFu ? s->device->sender.next : at,
                                .verdict = (uint8_t)(take_number(in, 1) % 3)};
    send(s, &m, KF_FRAME_SESSION);
}

static void end_round(kf_scene_t *s, kf_input_t *in) {
    const uint32_t what = take_number(in, 1);
    kf_message_t m = {.type = what & 1u ? KF_MSG_CANCEL : KF_MSG_COMMIT};
    if (what & 1u) {
        m.as.cancel.round = what & 2u ? s->device->order.round : what >> 2;
    } else {
        m.as.commit = (kf_commit_t){.round = what & 2u ? s->device->order.round : what >> 3, .verdict = (uint8_t)(what >> 2 & 1u)};
    }
    send(s, &m, KF_FRAME_SESSION);
}

static void poll(kf_scene_t *s, kf_input_t *in) {
    const uint32_t count = take_number(in, 1) + 1, macs = take_number(in, 1) * 64u;
    const uint32_t room = take_number(in, 1), ms = take_number(in, 1);
    for (uint32_t i = 0; i < count && s->polls < POLLS_MOST; i++, s->polls++) {
        s->line.room = room == 255 ? FRAME_MOST : room;
        follow(&s->line);
        const uint32_t wait = kf_poll(s->device, macs);
        if (wait > 0 && room == 255) {
            break; /* nothing to do before then */
        }
        s->line.clock_ms += ms * 8;
    }
}

static void observe(kf_scene_t *s, kf_input_t *in, int features) {
    const uint16_t label = (uint16_t)take_number(in, 1);
    size_t size;
    uint8_t *bytes = take_block(in, take_number(in, 1) % INPUT_MOST, &size);
    uint16_t answer = 0;
    kf_status_t status;
    if (features == 2) {
        status = kf_classify(s->device, (const int8_t *)bytes, size, &answer);
        PROMISE(status != KF_OK || answer < s->device->model.head.classes);
    } else if (features) {
        status = kf_observe_features(s->device, (const int8_t *)bytes, size, label);
    } else {
        status = kf_observe(s->device, (const int8_t *)bytes, size, label);
    }
    PROMISE(status == KF_OK || status == KF_ERR_SHAPE || status == KF_ERR_ARG || status == KF_ERR_BUSY);
    free(bytes);
}

static void step(kf_scene_t *s, kf_input_t *in) {
    const uint32_t what = take_number(in, 1);
    size_t size;
    uint8_t *bytes;
    switch (what & 15u) {
    case 0: /* bytes as they are */
        bytes = take_block(in, take_number(in, 1), &size);
        feed(s, bytes, size);
        free(bytes);
        break;
    case 1: /* a message of any bytes, in a sound frame */
    case 2:
        bytes = take_block(in, take_number(in, 1), &size);
        send_bytes(s, bytes, size, (what & 15u) == 1 ? KF_FRAME_SESSION : KF_FRAME_CLEAR);
        free(bytes);
        break;
    case 3:
        welcome(s, in);
        break;
    case 4:
        offer(s, in);
        break;
    case 5:
        chunks(s, in);
        break;
    case 6:
        order(s, in);
        break;
    case 8:
    case 9:
    case 10:
        observe(s, in, (int)(what & 15u) - 8);
        break;
    case 11:
        answer_update(s, in);
        break;
    case 12:
        end_round(s, in);
        break;
    case 13:
        kf_busy(s->device, take_number(in, 4));
        break;
    case 14:
        if (what & 16u) {
            kf_leave(s->device, (kf_reason_t)(take_number(in, 1) % 9));
        } else {
            s->line.clock_ms += take_number(in, 4);
        }
        break;
    default: /* 7 and 15: time goes on more often than anything else happens */
        poll(s, in);
    }
}

static void check_state(const kf_scene_t *s) {
    const kf_device_t *d = s->device;
    PROMISE(d->state <= KF_STATE_FAILED && d->head_in_use <= KF_HEAD_PERSONAL);
    PROMISE(d->ring.count <= d->ring.capacity && d->ring.locks <= 1);
    for (uint32_t slot = 0; slot < d->ring.count; slot++) {
        PROMISE(kf_ring_label(&d->ring, slot) < d->model.head.classes);
    }
    PROMISE(d->session.sending_bytes <= KF_SESSION_SEND_BYTES(d->config->max_frame));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const kf_identity_t identities[] = {{.id = "fuzzing"}, {.id = "fuzzing", .key = "known to both"}};
    static const uint16_t frames[][4] = {{64, 65, 128, 1024}, {72, 73, 128, 1024}};
    kf_input_t in = {data, size};
    const uint32_t setup = take_number(&in, 1);
    const uint32_t keyed = setup >> 7 & 1u;
    kf_scene_t scene;
    memset(&scene, 0, sizeof scene);
    scene.line.no_entropy = (int)(setup & 1u);
    scene.line.room = FRAME_MOST;
    kf_frame_decoder_init(&scene.line.decoder, scene.line.buffer, FRAME_MOST);
    scene.line.channel.sender = KF_FROM_DEVICE;

    const uint32_t model_bytes = (uint32_t)(fuzz_model_end - fuzz_model);
    uint8_t *model = block(model_bytes);
    memcpy(model, fuzz_model, model_bytes);
    const kf_device_config_t config = {
        .model = model, .model_bytes = model_bytes, .identity = &identities[keyed], .board = "fuzz", .firmware = KF_VERSION,
        .max_frame = frames[keyed][setup >> 1 & 3u], .window = (uint16_t)(setup & 8u ? 64 : 4096),
        .ring_slots = (uint16_t)(setup & 16u ? 15 : 5), .held_out_every = setup & 32u ? 0 : 5,
        .exact_updates = (uint8_t)(setup >> 6 & 1u), .max_batch = 7,
        .port = {&scene.line, line_write, line_millis, line_entropy, line_stray},
    };
    kf_model_t opened;
    PROMISE(kf_model_open(&opened, model, model_bytes) == KF_OK);
    const size_t bytes = kf_device_bytes(&opened, &config);
    uint8_t *memory = block(bytes);
    kf_device_t *device = block(sizeof *device);
    scene.device = scene.line.device = device;
    scene.config = &config;
    PROMISE(kf_device_init(device, &config, memory, bytes) == KF_OK);
    for (unsigned steps = 0; in.left > 0 && steps < STEPS_MOST; steps++) {
        step(&scene, &in);
        check_state(&scene);
    }

    /* Whatever it was: a host that comes now is heard, and welcomed with an info. */
    scene.line.room = SIZE_MAX;
    const uint8_t end[] = {0};
    feed(&scene, end, sizeof end);
    kf_message_t m = {.type = KF_MSG_PROBE};
    m.as.probe.version = KF_FRAME_VERSION;
    send(&scene, &m, KF_FRAME_CLEAR);
    (void)kf_poll(device, 1);
    kf_input_t none = {NULL, 0};
    welcome(&scene, &none);
    PROMISE(kf_session_is_open(&device->session));
    (void)kf_poll(device, 1);
    check_state(&scene);
    free(scene.head);
    free(device);
    free(memory);
    free(model);
    return 0;
}
