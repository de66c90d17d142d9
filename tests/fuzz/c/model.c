/* Fuzz target: a .tflite that came from anywhere. The input is the file.
 *
 * Promised by model.h, nn.h and device.h, and checked here: no byte outside the file or the announced arena is touched; a
 * file that opens also runs; how a run is cut into slices, and what the arena held before, changes no byte of the result;
 * the features are the same when the run stops at them; and a device starts from the file or says why not. */
#include "input.h"
#include "kilofed/kilofed.h"

enum { ARENA_MOST = 1 << 18, MACS_MOST = 1 << 18, MEMORY_MOST = 1 << 20, RING = 5 };

/* One inference in an arena poisoned with `poison`, `max_macs` a slice; the output in a block of its own. */
static uint8_t *run(const kf_model_t *model, uint8_t poison, uint32_t max_macs, int by_features) {
    uint8_t *arena = block(model->arena_bytes);
    memset(arena, poison, model->arena_bytes);
    kf_nn_t nn;
    PROMISE(kf_nn_begin(&nn, model, arena, model->arena_bytes, NULL) == KF_OK);
    if (by_features) {
        PROMISE(kf_nn_stop_at_features(&nn) == KF_OK);
    }
    for (uint32_t i = 0; i < model->input_bytes; i++) {
        kf_nn_input(&nn)[i] = (int8_t)(i * 37 + 11);
    }
    kf_status_t status;
    while ((status = kf_nn_step(&nn, max_macs)) == KF_MORE) {
    }
    PROMISE(status == KF_OK);
    if (by_features) {
        PROMISE(kf_nn_features(&nn) != NULL);
        kf_nn_continue(&nn);
        while ((status = kf_nn_step(&nn, max_macs)) == KF_MORE) {
        }
        PROMISE(status == KF_OK);
    }
    uint8_t *output = block(model->output_bytes);
    memcpy(output, kf_nn_output(&nn), model->output_bytes);
    free(arena);
    return output;
}

static size_t write_nothing(void *context, const uint8_t *bytes, size_t size) {
    (void)context;
    (void)bytes;
    return size;
}

static uint32_t clock_ms;

static uint32_t millis(void *context) {
    (void)context;
    return clock_ms;
}

/* A device with this file: the head's contract, the labels' metadata, the way of a sample into the ring. */
static void start_device(const kf_model_t *model) {
    static const kf_identity_t identity = {.id = "fuzzing"};
    const kf_device_config_t config = {
        .model = model->data, .model_bytes = model->size, .identity = &identity, .board = "fuzz", .firmware = KF_VERSION,
        .max_frame = 64, .window = 64, .ring_slots = RING, .held_out_every = 5, .max_batch = 2,
        .port = {.write = write_nothing, .millis = millis},
    };
    const size_t bytes = kf_device_bytes(model, &config);
    PROMISE((bytes == 0) == (kf_model_need_head(model) != KF_OK));
    if (bytes > MEMORY_MOST) {
        return;
    }
    const size_t given = bytes ? bytes : 2u * config.max_frame + 16u;
    uint8_t *memory = block(given);
    kf_device_t *device = block(sizeof *device);
    const kf_status_t status = kf_device_init(device, &config, memory, given);
    PROMISE(status == KF_OK || status == KF_ERR_HEAD || status == KF_ERR_MEMORY || status == KF_ERR_UNSUPPORTED);
    PROMISE(bytes == 0 || status != KF_ERR_MEMORY);
    if (status == KF_OK) {
        int8_t *input = block(model->input_bytes);
        PROMISE(kf_observe(device, input, model->input_bytes, model->head.classes) == KF_ERR_ARG);
        PROMISE(kf_observe(device, input, model->input_bytes, (uint16_t)(model->head.classes - 1)) == KF_OK);
        uint16_t label;
        PROMISE(kf_classify(device, input, model->input_bytes, &label) == KF_OK);
        PROMISE(label < model->head.classes && device->ring.count == 1);
        free(input);
    }
    for (unsigned i = 0; i < 4; i++, clock_ms += 700) {
        (void)kf_poll(device, 1000);
    }
    free(device);
    free(memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *file = block(size + 1); /* an odd address: no alignment is assumed */
    memcpy(file + 1, data, size);
    kf_model_t model;
    const kf_status_t status = kf_model_open(&model, file + 1, (uint32_t)size);
    PROMISE(status == KF_OK || status == KF_ERR_MODEL || status == KF_ERR_UNSUPPORTED);
    PROMISE((status == KF_OK) == (model.fault == KF_FAULT_NONE));
    if (status == KF_OK) {
        PROMISE(model.arena_bytes % 4 == 0 && kf_nn_arena_bytes(&model) == model.arena_bytes);
        if (model.arena_bytes <= ARENA_MOST && kf_nn_macs(&model, 0) <= MACS_MOST) {
            uint8_t *whole = run(&model, 0x00, UINT32_MAX, 0);
            uint8_t *sliced = run(&model, 0xFF, (uint32_t)(size % 997 + 1), kf_model_need_head(&model) == KF_OK);
            PROMISE(memcmp(whole, sliced, model.output_bytes) == 0);
            free(whole);
            free(sliced);
            start_device(&model);
        }
    }
    free(file);
    return 0;
}
