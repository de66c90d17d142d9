/* An application whose backbone another engine runs: kilofed gets features, and has only the head.
 *
 *     engine.py BACKBONE FRAMES | foreign HOST:PORT NAME
 *
 * Where features come from is the application's affair: here TensorFlow Lite Micro computes them in a process of its own, and a
 * pipe brings records of a label and F int8 features. On a board it is the other engine's output tensor.
 *
 * The device model is the head alone. So kf_observe_features() is all that learning takes, and kf_classify(), whose input
 * are the features, answers with what was learnt. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "kilofed/kilofed.h"
#include "line.h"

#define RING_SLOTS 200u     /* samples kept: the newest ones */
#define SLICE_MACS 20000u   /* of work between two looks at the line */
#define MEMORY_BYTES 16384u /* of which `foreign` says how much it uses */
#define FEATURES_MOST 2048u /* kilofed's own limit */

extern const uint8_t foreign_head[], foreign_head_end[]; /* model.S */

typedef struct record {
    uint8_t label;
    int8_t features[FEATURES_MOST];
} record_t;

typedef struct foreign {
    kf_identity_t identity;
    kf_device_config_t config;
    kf_device_t device;
    uint32_t memory[MEMORY_BYTES / 4u];
    line_t line;
    record_t records[RING_SLOTS]; /* kept only to say at the end how many of them are told rightly */
    uint32_t count, features;
} foreign_t;

static foreign_t foreign; /* static, as on a board: nothing is allocated */

static int device_start(foreign_t *f, const char *name) {
    /* On a board kf_settings_read() fills this in, from the page that `kilofed flash` wrote. */
    strncpy((char *)f->identity.name, name, sizeof f->identity.name - 1);
    memcpy(f->identity.id, f->identity.name, sizeof f->identity.id);
    f->config = (kf_device_config_t){
        .model = foreign_head,
        .model_bytes = (uint32_t)(foreign_head_end - foreign_head),
        .identity = &f->identity,
        .board = "foreign",
        .firmware = KF_VERSION,
        .max_frame = 256,
        .window = 1024,
        .ring_slots = RING_SLOTS,
        .held_out_every = 5,
        .exact_updates = 1,
        .max_batch = 16,
        .port = line_port(&f->line),
    };
    const kf_status_t status = kf_device_init(&f->device, &f->config, f->memory, sizeof f->memory);
    fprintf(stderr, "foreign: %s uses %u of %u bytes for a head of %u bytes, status %d\n", name,
            (unsigned)f->device.needed_bytes, MEMORY_BYTES, (unsigned)f->config.model_bytes, (int)status);
    f->features = f->device.ring.width;
    return status == KF_OK ? 0 : -1;
}

/* Everything that the other engine gives, into the ring. A label it does not know, or half a record, ends the program: that
 * engine runs another model. */
static int learn(foreign_t *f) {
    while (f->count < RING_SLOTS) {
        record_t *record = &f->records[f->count];
        const size_t got = fread(&record->label, 1, 1 + f->features, stdin);
        if (got == 0) {
            break;
        }
        if (got != 1 + f->features) {
            fprintf(stderr, "foreign: a record has %u bytes and not 1 + %u: run engine.py with this head's backbone\n",
                    (unsigned)got, (unsigned)f->features);
            return -1;
        }
        const kf_status_t status = kf_observe_features(&f->device, record->features, f->features, record->label);
        if (status != KF_OK) {
            fprintf(stderr, "foreign: label %u was refused (status %d): run engine.py with this head's backbone\n",
                    (unsigned)record->label, (int)status);
            return -1;
        }
        f->count++;
    }
    fprintf(stderr, "foreign: %u samples\n", (unsigned)f->count);
    return f->count > 0 ? 0 : -1;
}

static void tell(foreign_t *f) {
    uint32_t right = 0;
    for (uint32_t i = 0; i < f->count; i++) {
        uint16_t answer;
        if (kf_classify(&f->device, f->records[i].features, f->features, &answer) == KF_OK) {
            right += answer == f->records[i].label;
        }
    }
    fprintf(stderr, "foreign: %u of %u right\n", (unsigned)right, (unsigned)f->count);
}

static void serve(foreign_t *f) {
    uint8_t bytes[256];
    int size;
    while ((size = line_read(&f->line, bytes, sizeof bytes)) >= 0) {
        if (size > 0) {
            (void)kf_receive(&f->device, bytes, (size_t)size);
        }
        line_wait(&f->line, kf_poll(&f->device, SLICE_MACS));
    }
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fputs("usage: engine.py BACKBONE FRAMES | foreign HOST:PORT NAME\n", stderr);
        return 2;
    }
    foreign.line = (line_t)LINE_DOWN;
    if (device_start(&foreign, argv[2]) != 0 || learn(&foreign) != 0) {
        return 1;
    }
    tell(&foreign);
    if (line_open(&foreign.line, argv[1]) != 0) {
        return 1;
    }
    serve(&foreign);
    line_close(&foreign.line);
    tell(&foreign);
    return 0;
}
