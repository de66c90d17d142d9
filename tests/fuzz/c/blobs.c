/* Fuzz target: what a device reads as one block: head and update blobs, the settings page, placed samples.
 *
 *     u8 what % 4: 0 head | 1 update | 2 settings page | 3 placed samples; then the bytes
 *
 * The sums of pages and samples are mended first, unless bit 7 of `what` is set: a CRC is no defence against who can count.
 * Promised by params.h, settings.h and device.h: a blob that parses also loads, expands and encodes; every weight is in
 * range; placed samples end up in the ring or are refused whole. */
#include "input.h"
#include "kilofed/kilofed.h"
#include "src/link/crc32.h"

enum { WEIGHTS_MOST = 1 << 14, KEEP_SUM = 0x80 };

static const kf_codec_t codecs[] = {KF_CODEC_INT32, KF_CODEC_INT8, KF_CODEC_INT4, KF_CODEC_TERNARY};

static void check_params(const kf_params_t *params) {
    for (size_t i = 0; i < (size_t)params->classes * params->features; i++) {
        PROMISE(params->weights[i] <= KF_WEIGHT_MAX && params->weights[i] >= -KF_WEIGHT_MAX);
    }
    for (uint16_t c = 0; c < params->classes; c++) {
        PROMISE(params->bias[c] <= KF_BIAS_MAX && params->bias[c] >= -KF_BIAS_MAX);
    }
}

static void check_head(const uint8_t *blob, size_t size) {
    kf_head_view_t view;
    const kf_status_t status = kf_head_parse(&view, blob, size);
    PROMISE(status == KF_OK || status == KF_ERR_BLOB);
    if (status != KF_OK) {
        PROMISE(view.weights == NULL && view.classes == 0);
        return;
    }
    const size_t weights = (size_t)view.classes * view.features;
    PROMISE(kf_head_bytes((kf_codec_t)view.codec, view.classes, view.features) == size);
    if (weights > WEIGHTS_MOST) {
        return;
    }
    const size_t bytes = kf_params_bytes(view.classes, view.features);
    uint8_t *memory = block(bytes);
    kf_params_t params;
    PROMISE(kf_params_init(&params, view.classes, view.features, memory, bytes) == KF_OK);
    PROMISE(kf_head_load(&view, &params) == KF_OK);
    check_params(&params);

    int8_t *expanded = block(weights);
    PROMISE(kf_head_expand(&view, expanded, weights) == (view.codec == KF_CODEC_INT32 ? KF_ERR_UNSUPPORTED : KF_OK));
    free(expanded);

    const size_t again_bytes = kf_head_bytes(KF_CODEC_INT8, view.classes, view.features);
    uint8_t *again = block(again_bytes);
    kf_head_view_t twin;
    PROMISE(kf_head_encode(&params, blob[size - 1] * 4096u, again, again_bytes) == KF_OK);
    PROMISE(kf_head_parse(&twin, again, again_bytes) == KF_OK && twin.codec == KF_CODEC_INT8);

    /* As the base of an update to what the int8 rounding made of it: every codec encodes it and takes it back. */
    const size_t rest_bytes = kf_residual_bytes(view.classes, view.features);
    uint8_t *rest_memory = block(rest_bytes);
    kf_residual_t rest;
    PROMISE(kf_residual_init(&rest, view.classes, view.features, rest_memory, rest_bytes) == KF_OK);
    kf_residual_clear(&rest);
    PROMISE(kf_head_load(&twin, &params) == KF_OK);
    for (size_t i = 0; i < sizeof codecs / sizeof *codecs; i++) {
        const size_t update_bytes = kf_update_bytes(codecs[i], view.classes, view.features);
        uint8_t *update = block(update_bytes);
        PROMISE(kf_update_encode(codecs[i], &params, &view, &rest, update, update_bytes) == KF_OK);
        PROMISE(kf_update_accept(&params, &view, &rest, update, update_bytes) == KF_OK);
        free(update);
    }
    free(rest_memory);
    free(again);
    free(memory);
}

static void check_update(const uint8_t *blob, size_t size) {
    if (size < KF_BLOB_HEADER_BYTES) {
        return;
    }
    /* The device knows the shape; here the blob itself says which device it is for. */
    const uint16_t classes = (uint16_t)(blob[4] | blob[5] << 8), features = (uint16_t)(blob[6] | blob[7] << 8);
    const size_t bytes = kf_params_bytes(classes, features);
    const size_t rest_bytes = kf_residual_bytes(classes, features);
    const size_t head_bytes = kf_head_bytes(KF_CODEC_INT8, classes, features);
    if (bytes == 0 || (size_t)classes * features > WEIGHTS_MOST) {
        return;
    }
    uint8_t *memory = block(bytes), *rest_memory = block(rest_bytes), *head = block(head_bytes);
    kf_params_t params;
    kf_residual_t rest;
    kf_head_view_t view;
    PROMISE(kf_params_init(&params, classes, features, memory, bytes) == KF_OK);
    PROMISE(kf_head_encode(&params, 0, head, head_bytes) == KF_OK);
    PROMISE(kf_head_parse(&view, head, head_bytes) == KF_OK);
    PROMISE(kf_residual_init(&rest, classes, features, rest_memory, rest_bytes) == KF_OK);
    kf_residual_clear(&rest);
    const kf_status_t status = kf_update_accept(&params, &view, &rest, blob, size);
    PROMISE(status == KF_OK || status == KF_ERR_BLOB);
    if (status != KF_OK) {
        for (size_t i = 0; i < rest_bytes; i++) {
            PROMISE(rest_memory[i] == 0);
        }
    }
    free(memory);
    free(rest_memory);
    free(head);
}

static void put_sum(uint8_t *at, uint32_t sum) {
    for (unsigned i = 0; i < 4; i++) {
        at[i] = (uint8_t)(sum >> (8 * i));
    }
}

static void check_settings(uint8_t *page, size_t size, int mend) {
    if (size != KF_SETTINGS_BYTES) {
        return;
    }
    if (mend) {
        put_sum(page + 60, kf_crc32(0, page, 60));
    }
    static const kf_identity_t nobody;
    kf_identity_t identity;
    memset(&identity, 0xA5, sizeof identity);
    const kf_status_t status = kf_settings_read(&identity, page);
    PROMISE(status == KF_OK ? memcmp(identity.id, page + 8, 8) == 0
                            : status == KF_ERR_PORT && memcmp(&identity, &nobody, sizeof nobody) == 0);
}

/* ---- placed samples -------------------------------------------------------------------------------------------- */

__asm__(".pushsection .rodata\n.global fuzz_model\nfuzz_model:\n.incbin \"" FUZZ_MODEL
        "\"\n.global fuzz_model_end\nfuzz_model_end:\n.popsection\n");
extern const uint8_t fuzz_model[], fuzz_model_end[];

static uint32_t clock_ms;

static uint32_t millis(void *context) {
    (void)context;
    return clock_ms;
}

static size_t write_nothing(void *context, const uint8_t *bytes, size_t size) {
    (void)context;
    (void)bytes;
    return size;
}

static void check_samples(uint8_t *samples, size_t size, int mend) {
    static const kf_identity_t identity = {.id = "fuzzing"};
    const uint32_t model_bytes = (uint32_t)(fuzz_model_end - fuzz_model);
    kf_model_t model;
    PROMISE(kf_model_open(&model, fuzz_model, model_bytes) == KF_OK);
    if (mend && size >= 16) {
        kf_input_t in = {samples + 4, 4};
        const uint64_t all = (uint64_t)take_number(&in, 4) * (model.input_bytes + 2u);
        put_sum(samples + 12, kf_crc32(0, samples + 16, all < size - 16 ? (size_t)all : size - 16));
    }
    const kf_device_config_t config = {
        .model = fuzz_model, .model_bytes = model_bytes, .identity = &identity, .board = "fuzz", .firmware = KF_VERSION,
        .max_frame = 64, .window = 64, .ring_slots = 20, .held_out_every = 5, .max_batch = 4,
        .samples = {samples, (uint32_t)size}, .port = {.write = write_nothing, .millis = millis},
    };
    const size_t bytes = kf_device_bytes(&model, &config);
    uint8_t *memory = block(bytes);
    kf_device_t *device = block(sizeof *device);
    const kf_status_t status = kf_device_init(device, &config, memory, bytes);
    PROMISE(status == KF_OK);
    /* A sample takes a poll to begin and one to end; no more fit the bytes. */
    for (size_t i = 0; device->state == KF_STATE_COLLECTING; i++) {
        PROMISE(i < 8 + 4 * size);
        clock_ms += kf_poll(device, 1 << 16);
    }
    PROMISE(device->state == KF_STATE_IDLE);
    PROMISE(device->fault == KF_OK || (device->ring.count == 0 && (device->fault == KF_ERR_BLOB || device->fault == KF_ERR_SHAPE)));
    for (uint32_t slot = 0; slot < device->ring.count; slot++) {
        PROMISE(kf_ring_label(&device->ring, slot) < model.head.classes);
    }
    free(device);
    free(memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    kf_input_t in = {data, size};
    const uint32_t what = take_number(&in, 1);
    size_t bytes;
    uint8_t *rest = take_block(&in, in.left, &bytes);
    switch (what & 3u) {
    case 0:
        check_head(rest, bytes);
        break;
    case 1:
        check_update(rest, bytes);
        break;
    case 2:
        check_settings(rest, bytes, !(what & KEEP_SUM));
        break;
    default:
        check_samples(rest, bytes, !(what & KEEP_SUM));
    }
    free(rest);
    return 0;
}
