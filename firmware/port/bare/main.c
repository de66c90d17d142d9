/* The device on a board without an operating system: its identity, its model, its samples, and the loop that serves the line. */

#include <stddef.h>
#include <stdint.h>

#include "board.h"
#include "chip.h"
#include "cpu.h"
#include "header.h"
#include "kilofed/device.h"
#include "kilofed/settings.h"
#include "line.h"
#include "pipe.h"

/* Multiply-accumulates between two looks at the line: about 20 ms on a Cortex-M0 at 16 MHz (some 30 instructions
 * each), in which 115200 baud bring 230 bytes: less than any board's receive ring. */
#define SLICE_MACS 10000u

/* A board that cannot start says why, and says it again for whoever opens the line later. */
#define REPEAT_MS 2000u

static size_t port_write(void *context, const uint8_t *bytes, size_t size) {
    (void)context;
    return kf_pipe_write(bytes, size);
}

static uint32_t port_millis(void *context) {
    (void)context;
    return kf_chip_millis();
}

static kf_status_t port_entropy(void *context, uint8_t *out, size_t size) {
    (void)context;
    return kf_chip_entropy(out, size);
}

static kf_identity_t identity;
static kf_device_config_t config;
static kf_device_t device;

/* Sleep until the pipe wants the loop or `ms` have passed, to within a tick. */
static void sleep_for(uint32_t ms) {
    const uint32_t from = kf_chip_millis();

    while (kf_chip_millis() - from < ms) {
        const uint32_t mask = kf_cpu_mask();
        const int pending = kf_pipe_pending();

        if (!pending) {
            kf_cpu_sleep();
        }
        kf_cpu_unmask(mask);
        if (pending) {
            return;
        }
    }
}

static void say(const char *text) {
    size_t size = 0;

    while (text[size] != '\0') {
        size++;
    }
    while (size > 0) {
        const size_t taken = kf_line_write((const uint8_t *)text, size);

        text += taken;
        size -= taken;
        sleep_for(taken == 0);
    }
}

/* What arrives meanwhile is dropped, so that it does not keep the core awake. */
static void say_forever(const char *text) {
    uint8_t bytes[16];
    uint32_t from;

    for (;;) {
        say(text);
        from = kf_chip_millis();
        while (kf_chip_millis() - from < REPEAT_MS) {
            while (kf_line_read(bytes, sizeof bytes) > 0) {
            }
            sleep_for(REPEAT_MS);
        }
    }
}

void kf_main(void) {
    uint8_t bytes[32];
    size_t size, taken;
    uint32_t work_ms, pipe_ms;
    const char *trouble;

    (void)kf_cpu_mask();
    kf_chip_start();
    kf_cpu_unmask(0);
    say("\r\nkilofed " KF_FIRMWARE_TEXT " on " KF_BOARD_NAME "\r\n");

    if (kf_settings_read(&identity, (const uint8_t *)KF_BOARD_SETTINGS_ADDRESS) != KF_OK) {
        say_forever("no settings page: flash this board with `kilofed flash`\r\n");
    }
    if (kf_header.model_start == kf_header.model_end) {
        say_forever("no model in this image: build one with `kilofed build --model MODEL.tflite`\r\n");
    }
    trouble = kf_pipe_start(&identity);
    if (trouble != NULL) {
        say_forever(trouble);
    }
    config.model = kf_header.model_start;
    config.model_bytes = (uint32_t)(kf_header.model_end - kf_header.model_start);
    config.identity = &identity;
    config.board = KF_BOARD_NAME;
    config.firmware = KF_FIRMWARE_VERSION;
    config.max_frame = KF_BOARD_MAX_FRAME;
    config.window = KF_BOARD_RX_RING;
    config.ring_slots = KF_BOARD_RING_SLOTS;
    config.held_out_every = KF_BOARD_HELD_OUT_EVERY;
    config.exact_updates = KF_BOARD_EXACT_UPDATES;
    config.max_batch = KF_BOARD_MAX_BATCH;
    config.samples.data = (const uint8_t *)KF_BOARD_SAMPLES_ADDRESS;
    config.samples.bytes = KF_BOARD_SAMPLES_BYTES;
    config.port.write = port_write;
    config.port.millis = port_millis;
    config.port.entropy = port_entropy;
    /* The one failure a device cannot report over its link is that it has no room for the link. */
    if (kf_device_init(&device, &config, kf_header.pool_start,
                       (size_t)(kf_header.pool_end - kf_header.pool_start)) == KF_ERR_ARG) {
        say_forever("this image's pool does not hold the link: build it with `kilofed build`\r\n");
    }

    for (;;) {
        /* At most a ring's worth, so that a busy line cannot keep the device from its work. */
        for (size = 0; size < KF_BOARD_RX_RING; size += taken) {
            taken = kf_pipe_read(bytes, sizeof bytes);
            if (taken == 0) {
                break;
            }
            (void)kf_receive(&device, bytes, taken);
        }
        work_ms = kf_poll(&device, SLICE_MACS);
        pipe_ms = kf_pipe_poll();
        sleep_for(work_ms < pipe_ms ? work_ms : pipe_ms);
    }
}
