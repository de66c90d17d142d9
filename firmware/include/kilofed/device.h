/* kilofed: the device: a model, its samples, its training and its link, in one memory block and one loop.
 *
 *     static kf_device_t device;
 *     static uint32_t memory[POOL_BYTES / 4];
 *
 *     status = kf_device_init(&device, &config, memory, sizeof memory);   keep going whatever it says: the host is told
 *     for (;;) {
 *         size = line_read(bytes, sizeof bytes);
 *         if (size > 0) { kf_receive(&device, bytes, size); }
 *         wait_ms = kf_poll(&device, 2000);
 *         sleep_until_bytes_or(wait_ms);
 *     }
 *
 * An application adds kf_observe() where it knows a label, and kf_classify() where it wants an answer. No call may be made
 * from an ISR, or from two threads at once. Nothing blocks; what is long is cut into slices by kf_poll()'s budget.
 *
 * Memory. kf_device_t is the fixed part. Everything whose size depends on the model or on the config is in one block of the
 * caller's, of exactly kf_device_bytes(): kf_device_parts_t lists the parts, and kilofed_tools.memory computes the same
 * numbers on the host. With too little memory the device still runs its link, if the block holds that, and answers every
 * order with error(2, needed bytes): so a model too big for a board is refused by the device itself, with the number. */
#ifndef KILOFED_DEVICE_H
#define KILOFED_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/blob.h"
#include "kilofed/model.h"
#include "kilofed/nn.h"
#include "kilofed/params.h"
#include "kilofed/port.h"
#include "kilofed/ring.h"
#include "kilofed/session.h"
#include "kilofed/settings.h"
#include "kilofed/status.h"
#include "kilofed/train.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Samples that were put into memory before the start, in place of a sensor: fed through kf_observe's way at boot, one by
 * one, while the device reports `collecting`. Little endian, any address:
 *
 *   0 magic "KFS1" | 4 u32 count | 8 u32 input_bytes | 12 u32 CRC-32 of all that follows
 *   16 int8 inputs [count][input_bytes], then u16 labels [count]
 *
 * Other bytes than the magic mean that there are none. `bytes` is the room, not the length: it bounds every read. */
typedef struct kf_samples {
    const uint8_t *data; /* NULL: none */
    uint32_t bytes;
} kf_samples_t;

typedef struct kf_device_config {
    const uint8_t *model; /* a .tflite, in flash; see kilofed/model.h for what is accepted */
    uint32_t model_bytes;
    const kf_identity_t *identity; /* kf_settings_read() fills one; with a key in it, sessions are encrypted */
    const char *board;             /* name of the board's data file, 1 to 24 bytes */
    uint32_t firmware;             /* major << 16 | minor << 8 | patch */
    uint16_t max_frame;            /* longest frame, bytes on the wire, 64 (with a key: 72) to 1024; two are in the block */
    uint16_t window;               /* bytes on the wire the port buffers unasked, 64 or more: its receive ring */
    uint16_t ring_slots;           /* samples kept, 1 to 65535; a multiple of held_out_every */
    uint8_t held_out_every;        /* every so many-th slot measures and is never trained on; 0: none, else 2 or more */
    uint8_t exact_updates;         /* 1: the block has room for an int32 update too (4 C F bytes in place of C F) */
    uint16_t max_batch;            /* largest batch a training may ask for, 1 to 256 */
    kf_samples_t samples;
    int8_t *shown; /* F bytes that outlive the device, for kf_show(); NULL: the application does not show what it sees */
    kf_port_t port;
} kf_device_config_t;

/* The parts of the memory block, in their order, in bytes; each a multiple of 4. C classes, F features. */
typedef struct kf_device_parts {
    uint32_t receive;   /* max_frame: the frame that is coming */
    uint32_t send;      /* max_frame + 1: the frame that is going */
    uint32_t ring;      /* ring_slots * (F + label): epochs cost only the head; raw data is never kept */
    uint32_t master;    /* 4 C (F + 1): int32 head; steps too small for int8 must add up */
    uint32_t work;      /* the larger of kf_train_bytes() (logits, the errors of a batch, the order of the samples) and of the
                           update blob (a chunk asked for again must be the same bytes): one is over when the other begins */
    uint32_t residual;  /* 2 C F + 4 C: what rounding left out of one update goes into the next */
    uint32_t base;      /* int8 head blob: start of training, base of the update, overlay of inference */
    uint32_t incoming;  /* the same: a new head arrives while the old one is in use */
    uint32_t personal;  /* the same: the head personalised on this device's samples */
    uint32_t arena;     /* activations and operator scratch: kf_nn_arena_bytes() */
    uint32_t total;
} kf_device_parts_t;

/* What a device does with its head when it is not training one. */
typedef enum kf_head_in_use {
    KF_HEAD_OF_FILE = 0, /* no head was received yet */
    KF_HEAD_OF_HOST = 1,
    KF_HEAD_PERSONAL = 2 /* trained on from the received one, kept until another one is received */
} kf_head_in_use_t;

/* A device. Complete so that it can be placed; fields marked "read" may be read, the rest is private to src/device. */
typedef struct kf_device {
    const kf_device_config_t *config;
    kf_session_t session; /* read: frames_in, frames_out, damaged */
    kf_model_t model;     /* read, after KF_OK */
    kf_nn_t nn;           /* read: kf_nn_output() after kf_classify() */
    kf_ring_t ring;       /* read: count */
    kf_params_t master;
    kf_residual_t residual;

    /* heads */
    kf_head_view_t base;      /* weights NULL: none received */
    kf_head_overlay_t overlay;
    kf_blob_receiver_t incoming;
    uint8_t *base_blob, *personal_blob, *arena;
    uint8_t *work; /* of the trainer; then the update blob */
    uint8_t base_hash[KF_HASH_BYTES];

    /* the round under way, or the last one */
    kf_order_t order;
    kf_result_t result;
    kf_blob_sender_t sender;
    union {
        kf_train_t train;
        kf_eval_t eval;
        kf_update_t update;
    } job; /* of `phase` */
    uint32_t order_ms;

    /* samples on their way into the ring */
    const uint8_t *placed_inputs;
    uint32_t placed_count, placed_next;

    /* what has to be said, and when */
    kf_accept_t accept;
    kf_error_t error;
    uint32_t result_ms, status_ms, info_ms, busy_ms;

    uint32_t needed_bytes; /* read: the block this model and config need, also after KF_ERR_MEMORY; 0: no sound model */
    uint32_t fault_detail; /* read: see kf_device_init() */
    uint32_t arena_bytes;
    uint32_t watch_ms, seen_ms; /* until when the host watches; when it may be told again */
    kf_seen_t seen;        /* read: the newest window; number 0: none yet */
    kf_seen_t answer;      /* to the host's newest label */
    uint32_t labelled;     /* the newest window that has its label */
    uint16_t label;        /* of the inference under way */
    uint16_t say;          /* messages that wait for the line */
    int16_t fault;         /* read: kf_status_t of kf_device_init(), or of the placed samples */
    uint8_t state;         /* read: kf_state_t */
    uint8_t phase;
    uint8_t head_in_use;   /* read: kf_head_in_use_t */
    uint8_t inferring;     /* an inference is under way, for a sample */
    uint8_t overlay_stale; /* the interpreter has to take the overlay anew */
    uint8_t answered;      /* the host has heard of the result */
    uint8_t refusals;      /* of this round's update */
    uint8_t info_stale;    /* the last info is no longer true */
    uint8_t watched;       /* a host watches, until watch_ms */
    uint8_t seen_stale;    /* and has not heard of the newest window */
    uint8_t leaving;       /* reason of the bye, plus 1 */
    uint8_t model_hash[KF_HASH_BYTES], labels_hash[KF_HASH_BYTES];
} kf_device_t;

/* The parts, and the one number: bytes of the memory block. KF_ERR_ARG for a config outside its ranges; KF_ERR_HEAD for a
 * model without a head; all parts are then 0. */
KF_MUST_CHECK kf_status_t kf_device_parts(kf_device_parts_t *parts, const kf_model_t *model,
                                          const kf_device_config_t *config);
size_t kf_device_bytes(const kf_model_t *model, const kf_device_config_t *config);

/* Start a device in `memory` (aligned to 4; exactly kf_device_bytes() is enough, more is left alone). config, what it
 * points to, and memory must outlive the device. Reads the model once for its hash: 0.1 s for 24 kB on a Cortex-M0 at 16 MHz.
 *
 * KF_OK. KF_ERR_ARG: a config outside its ranges, or a block that does not even hold the link's two frames: the device must
 * not be used. Every other failure leaves a device that kf_receive() and kf_poll() may be called on, and which reports
 * state `failed` and error(code, detail):
 *   KF_ERR_MEMORY       detail: bytes needed, as in needed_bytes
 *   KF_ERR_MODEL,
 *   KF_ERR_UNSUPPORTED  detail: kf_model_fault_t << 16 | operator
 *   KF_ERR_HEAD         detail: 0
 * Placed samples that are damaged or made for another model are not a failure of the device: it starts without them, and
 * reports error(KF_ERR_BLOB, 0) or error(KF_ERR_SHAPE, their input_bytes) in every session. */
KF_MUST_CHECK kf_status_t kf_device_init(kf_device_t *device, const kf_device_config_t *config, void *memory,
                                         size_t memory_bytes);

/* Bytes from the line, any number, cut anywhere. Handles every message among them, but sends nothing: kf_poll() does.
 * Never fails on bytes; KF_ERR_ARG for a null pointer. */
kf_status_t kf_receive(kf_device_t *device, const uint8_t *bytes, size_t size);

/* Send what waits, then do a slice of work of about max_macs multiply-accumulates (0 counts as 1; one row of a tensor or one
 * unit of the trainer more). Not cut are single passes over the C x F weights of the head: loading it, quantising the trained
 * one, hashing a blob, and, in kf_receive(), accepting a head or a commit. On the 10 x 32 head of the zoo that is a few
 * milliseconds of a Cortex-M0; it grows with the head, so give a device that must answer sooner a smaller one. Returns the milliseconds until it wants to be called again, 0: at once. Call it also
 * whenever bytes were received, and when a full port has room again. */
uint32_t kf_poll(kf_device_t *device, uint32_t max_macs);

/* Give the device a labelled sample: `input_bytes` int8 values as the model's input takes them. They are copied; kf_poll()
 * turns them into features, which is all that is kept.
 * KF_ERR_SHAPE: wrong size. KF_ERR_ARG: null, or a label >= C. KF_ERR_BUSY: the last sample is still being worked on, or a
 * training holds the ring: give it again later. KF_ERR_STATE: the device has failed. */
KF_MUST_CHECK kf_status_t kf_observe(kf_device_t *device, const int8_t *input, size_t input_bytes, uint16_t label);

/* The same for an application that runs its own engine: F int8 features, as the head's input takes them. */
KF_MUST_CHECK kf_status_t kf_observe_features(kf_device_t *device, const int8_t *features, size_t feature_bytes,
                                              uint16_t label);

/* Run the whole model with the head in use (kf_head_in_use_t) and set *label to its class: the lowest of those with the
 * largest output. Runs to the end of the inference, and before that of a sample's that is under way. The scores are
 * then at kf_nn_output(&device->nn). KF_ERR_SHAPE: wrong size. KF_ERR_STATE: the device has failed. */
KF_MUST_CHECK kf_status_t kf_classify(kf_device_t *device, const int8_t *input, size_t input_bytes, uint16_t *label);

/* kf_classify() for a window of a sensor that somebody may put a label on: its features are kept in config.shown until the next
 * one, and a host that watches (`kilofed label`) is told what it was taken for, at most four times a second. The label
 * that it sends makes a sample of the newest window, as kf_observe() does; a label for an older one is refused. So what is shown
 * should change as slowly as a person can answer. KF_ERR_ARG also when config.shown is NULL. */
KF_MUST_CHECK kf_status_t kf_show(kf_device_t *device, const int8_t *input, size_t input_bytes, uint16_t *label);

/* Put a label on the window that was shown last: a button's way. KF_ERR_STATE: none was shown, or it has its label. Else as
 * kf_observe_features(). */
KF_MUST_CHECK kf_status_t kf_label_shown(kf_device_t *device, uint16_t label);

/* Tell the host that the device will not answer for so long (a flash erase stalls small chips). Takes effect when kf_poll()
 * has sent it. */
void kf_busy(kf_device_t *device, uint32_t ms);

/* Say bye with kf_poll()'s next free frame. Afterwards the device says hello again: stop polling it when that is not meant. */
void kf_leave(kf_device_t *device, kf_reason_t reason);

#ifdef __cplusplus
}
#endif
#endif
