/* A camera that reads digits, and learns from whoever presses the button of the right one: an application with kilofed in
 * it.
 *
 *     sensor HOST:PORT NAME FRAMES [MILLISECONDS]
 *
 * The application owns everything: the model, the memory, the line, the clock, the main loop. kilofed is called from that
 * loop and nowhere else: kf_receive() with what the line brought, kf_show() for the application's own purpose and for who watches,
 * kf_observe() where a label is known, kf_poll() to go on.
 *
 * It looks at all its frames once and learns their labels; then it calls its host, goes on looking, and says how many it
 * reads rightly. When the host has hung up it looks at all of them once more, and ends. With MILLISECONDS it shows each frame for
 * so long, calls its host at once, and ends with it: time enough for a person to say what was seen (`kilofed label`). */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "camera.h"
#include "kilofed/kilofed.h"
#include "line.h"

#define RING_SLOTS 200u    /* samples kept: the newest ones */
#define FRAME_MS 20u       /* from one look through the camera to the next */
#define SLICE_MACS 20000u  /* of work between two looks at the line */
#define FEATURES_MOST 2048u /* kilofed's own limit; the model at hand has 32 */
#define MEMORY_BYTES 16384u /* `sensor` says at its start how much of it is used */

extern const uint8_t sensor_model[], sensor_model_end[]; /* model.S */

typedef struct sensor {
    kf_identity_t identity;
    kf_device_config_t config;
    kf_device_t device;
    uint32_t memory[MEMORY_BYTES / 4u];
    int8_t shown[FEATURES_MOST];
    line_t line;
    camera_t camera;
    frame_t frame;
    int waiting; /* the frame has a label that kilofed has not taken yet */
    uint32_t frame_ms; /* when to look again */
    uint32_t slow_ms;  /* from one look to the next, when a person is to follow; else 0 */
    uint32_t right, seen; /* of this pass through the camera's file */
} sensor_t;

static sensor_t sensor; /* static, as on a board: nothing is allocated */

/* Start the device. Only a config outside its limits cannot go on: of a bad model or too little memory kilofed tells the
 * host, with the numbers. */
static int device_start(sensor_t *s, const char *name) {
    /* On a board kf_settings_read() fills this in, from the page that `kilofed flash` wrote. */
    strncpy((char *)s->identity.name, name, sizeof s->identity.name - 1);
    memcpy(s->identity.id, s->identity.name, sizeof s->identity.id);
    s->config = (kf_device_config_t){
        .model = sensor_model,
        .model_bytes = (uint32_t)(sensor_model_end - sensor_model),
        .identity = &s->identity,
        .board = "sensor",
        .firmware = KF_VERSION,
        .max_frame = 256,
        .window = 1024,
        .ring_slots = RING_SLOTS,
        .held_out_every = 5,
        .max_batch = 16,
        .shown = s->shown,
        .port = line_port(&s->line),
    };
    const kf_status_t status = kf_device_init(&s->device, &s->config, s->memory, sizeof s->memory);
    if (status == KF_ERR_ARG) {
        fputs("sensor: the config is outside kilofed's limits: see kilofed/device.h\n", stderr);
        return -1;
    }
    fprintf(stderr, "sensor: %s uses %u of %u bytes, status %d\n", name, (unsigned)s->device.needed_bytes, MEMORY_BYTES,
            (int)status);
    return 0;
}

/* One look through the camera: what is it? And if somebody said what it is, it is to be learned. */
static int look(sensor_t *s) {
    const uint32_t pass = s->camera.pass;
    if (camera_look(&s->camera, &s->frame) != 0) {
        return -1;
    }
    if (s->camera.pass != pass) { /* all frames were seen */
        fprintf(stderr, "sensor: %u of %u right, %u samples kept\n", (unsigned)s->right, (unsigned)s->seen,
                (unsigned)s->device.ring.count);
        s->right = s->seen = 0;
    }
    uint16_t answer;
    if (kf_show(&s->device, s->frame.pixels, sizeof s->frame.pixels, &answer) == KF_OK) {
        s->seen++;
        s->right += answer == s->frame.truth;
    }
    s->waiting = s->frame.button != CAMERA_NO_BUTTON;
    return 0;
}

/* Give kilofed the frame with its label. While a round holds the samples it says busy: then the frame waits. */
static void learn(sensor_t *s) {
    const kf_status_t status = kf_observe(&s->device, s->frame.pixels, sizeof s->frame.pixels, s->frame.button);
    if (status != KF_ERR_BUSY) {
        s->waiting = 0;
    }
}

static int run(sensor_t *s, const char *host) {
    const kf_port_t *port = &s->config.port;
    uint32_t passes = UINT32_MAX; /* of the camera's file, until the end */
    int called = s->slow_ms > 0;
    if (called && line_open(&s->line, host) != 0) {
        return 1;
    }
    s->frame_ms = port->millis(port->context);
    while (s->camera.pass < passes) {
        if (!called && s->camera.pass > 0) {
            called = 1;
            if (line_open(&s->line, host) != 0) {
                return 1;
            }
        }
        uint8_t bytes[256];
        const int size = line_read(&s->line, bytes, sizeof bytes);
        if (size > 0) {
            (void)kf_receive(&s->device, bytes, (size_t)size);
        } else if (size < 0) {
            line_close(&s->line);
            passes = s->slow_ms > 0 ? s->camera.pass : s->camera.pass + 2;
        }
        const uint32_t now = port->millis(port->context);
        if (!s->waiting && kf_time_reached(now, s->frame_ms)) {
            s->frame_ms = now + (s->slow_ms > 0 ? s->slow_ms : FRAME_MS);
            if (look(s) != 0) {
                return 1;
            }
        }
        if (s->waiting) {
            learn(s);
        }
        const uint32_t poll_ms = kf_poll(&s->device, SLICE_MACS);
        const uint32_t look_ms = kf_time_left(now, s->frame_ms);
        line_wait(&s->line, poll_ms < look_ms ? poll_ms : look_ms);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 5) {
        fputs("usage: sensor HOST:PORT NAME FRAMES [MILLISECONDS]\n", stderr);
        return 2;
    }
    if (argc == 5) {
        const unsigned long ms = strtoul(argv[4], NULL, 10);
        if (ms < 1 || ms > 60000) {
            fputs("sensor: a frame is shown for 1 to 60000 milliseconds\n", stderr);
            return 2;
        }
        sensor.slow_ms = (uint32_t)ms;
    }
    if (camera_open(&sensor.camera, argv[3]) != 0) {
        return 1;
    }
    sensor.line = (line_t)LINE_DOWN;
    const int result = device_start(&sensor, argv[2]) != 0 ? 1 : run(&sensor, argv[1]);
    line_close(&sensor.line);
    camera_close(&sensor.camera);
    return result;
}
