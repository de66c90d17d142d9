/* A process that runs the engine for the tests: requests on stdin, answers on stdout, both little endian.
 *
 * Request: u32 command, u32 a, u32 b, u32 length of the payload, payload. Answer: i32 status, u32 length, payload.
 * The model is copied to an odd address and the arena to a block of exactly the announced size, so that the address
 * sanitizer sees every byte read or written beyond either.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kilofed/model.h"
#include "kilofed/nn.h"
#include "nn/f32.h"
#include "nn/fixed.h"
#include "nn/op.h"
#include "nn/requant.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

enum { OPEN = 1, RUN = 2, OVERLAY = 3, REQUANT = 4, FLOAT = 5, FIXED = 6, WORK = 7 };
enum { POISON = 0xA5 };

static uint8_t *block; /* the model at block + 1 */
static kf_model_t model;
static kf_head_overlay_t overlay;
static uint8_t *overlay_block;
static int have_overlay;

static void read_exactly(void *to, size_t bytes) {
    if (bytes != 0 && fread(to, 1, bytes, stdin) != bytes) {
        exit(0); /* the test closed the pipe */
    }
}

static void answer(int32_t status, const void *data, uint32_t bytes) {
    fwrite(&status, 4, 1, stdout);
    fwrite(&bytes, 4, 1, stdout);
    if (bytes != 0) {
        fwrite(data, 1, bytes, stdout);
    }
    fflush(stdout);
}

static void forget_model(void) {
    if (block != NULL) {
        ASAN_UNPOISON_MEMORY_REGION(block, 1);
        free(block);
    }
    block = NULL;
    have_overlay = 0;
}

static void do_open(const uint8_t *data, uint32_t bytes) {
    forget_model();
    block = malloc((size_t)bytes + 1);
    memcpy(block + 1, data, bytes);
    ASAN_POISON_MEMORY_REGION(block, 1);
    kf_status_t status = kf_model_open(&model, block + 1, bytes);
    const kf_model_head_t *h = &model.head;
    uint32_t facts[] = {
        model.arena_bytes, model.tensor_bytes, model.ops,        model.tensors, model.input_bytes, model.output_bytes,
        model.plan_from_file, model.fault,     model.error_op,   model.error_tensor, h->op,        h->classes,
        h->features,       (uint32_t)h->x_zp,  h->x_scale_f32,   h->weights_at, h->bias_at,        h->w_scale_f32,
        h->out_scale_f32,  (uint32_t)h->out_zp, status == KF_OK ? kf_nn_macs(&model, 0) : 0,
    };
    answer(status, facts, sizeof facts);
}

static void do_overlay(const uint8_t *data, uint32_t bytes) {
    /* f32 weight scale, f32 output scale, i32 output zero point, weights, biases */
    uint32_t weights = (uint32_t)model.head.classes * model.head.features;
    if (bytes != 12 + weights + 4u * model.head.classes) {
        answer(KF_ERR_SHAPE, NULL, 0);
        return;
    }
    free(overlay_block);
    overlay_block = malloc(bytes);
    memcpy(overlay_block, data + 12 + weights, 4u * model.head.classes); /* aligned biases first */
    memcpy(overlay_block + 4u * model.head.classes, data + 12, weights);
    memcpy(&overlay.w_scale_f32, data, 4);
    memcpy(&overlay.out_scale_f32, data + 4, 4);
    memcpy(&overlay.out_zp, data + 8, 4);
    overlay.bias = (const int32_t *)(void *)overlay_block;
    overlay.weights = (const int8_t *)overlay_block + 4u * model.head.classes;
    have_overlay = 1;
    answer(KF_OK, NULL, 0);
}

static uint8_t *arena;
static kf_nn_t nn;

static kf_status_t begin(void) {
    size_t arena_bytes = kf_nn_arena_bytes(&model);
    free(arena);
    arena = malloc(arena_bytes == 0 ? 1 : arena_bytes);
    memset(arena, POISON, arena_bytes);
    memset(&nn, 0, sizeof nn);
    return kf_nn_begin(&nn, &model, arena, arena_bytes, have_overlay ? &overlay : NULL);
}

/* a: budget of a step; b: 0 to the end, 1 stop at the features, 2 features and then on to the end; 4 to the end with what the
 * last run left behind, for models that keep a state. */
static void do_run(uint32_t a, uint32_t b, const uint8_t *data, uint32_t bytes) {
    kf_status_t status = KF_OK;
    if (b == 4) {
        kf_nn_restart(&nn);
        b = 0;
    } else {
        status = begin();
    }
    if (status == KF_OK && b != 0) {
        status = kf_nn_stop_at_features(&nn);
    }
    if (status == KF_OK && bytes != model.input_bytes) {
        status = KF_ERR_SHAPE;
    }
    if (status == KF_OK) {
        memcpy(kf_nn_input(&nn), data, bytes);
        do {
            status = kf_nn_step(&nn, a);
        } while (status == KF_MORE);
    }
    if (status == KF_OK && b == 2) {
        kf_nn_continue(&nn);
        do {
            status = kf_nn_step(&nn, a);
        } while (status == KF_MORE);
    }
    if (status != KF_OK) {
        answer(status, NULL, 0);
    } else if (b == 1) {
        answer(status, kf_nn_features(&nn), model.head.features);
    } else {
        answer(status, kf_nn_output(&nn), model.output_bytes);
    }
}

/* How every operator works, for the memory plan's test. */
static void do_work(void) {
    enum { FACTS = 9 };
    static uint32_t facts[FACTS * KF_MODEL_OPS_MAX];
    for (uint16_t op = 0; op < model.ops; op++) {
        kf_node_t node;
        kf_work_t work;
        if (kf_op_work(&model, op, NULL, &node, &work) != KF_FAULT_NONE) {
            answer(KF_ERR_MODEL, NULL, 0);
            return;
        }
        const uint32_t found[FACTS] = {work.slices, work.macs, work.scratch_bytes, work.in_place, work.walk.inputs,
                                       (uint32_t)work.walk.reach, work.walk.stride, (uint32_t)work.walk.pad,
                                       work.walk.pace};
        memcpy(facts + FACTS * op, found, sizeof found);
    }
    answer(KF_OK, facts, (uint32_t)sizeof(uint32_t) * FACTS * model.ops);
}

/* a: 0 product in double, 1 product in float32, 2 ratio. Payload: triples of float32 bits. Answer: pairs mult, shift. */
static void do_requant(uint32_t a, const uint8_t *data, uint32_t bytes) {
    uint32_t count = bytes / 12;
    int32_t *out = malloc((size_t)count * 8 + 1);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t v[3];
        memcpy(v, data + 12 * i, 12);
        kf_requant_t by = a == 0   ? kf_requant_product(v[0], v[1], v[2])
                          : a == 1 ? kf_requant_product_f32(v[0], v[1], v[2])
                                   : kf_requant_scales(v[0], v[1]);
        out[2 * i] = by.mult;
        out[2 * i + 1] = by.shift;
    }
    answer(KF_OK, out, count * 8);
    free(out);
}

/* a: 0 product, 1 rounded quotient, 2 the first operand as float32 times the second as an int. Payload: pairs. */
static void do_float(uint32_t a, const uint8_t *data, uint32_t bytes) {
    uint32_t count = bytes / 8;
    uint32_t *out = malloc((size_t)count * 4 + 1);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t v[2];
        memcpy(v, data + 8 * i, 8);
        kf_f32_t f = kf_f32_split(v[0]);
        out[i] = a == 0 ? kf_f32_mul(v[0], v[1]) : a == 1 ? (uint32_t)kf_f32_div_round(v[0], v[1])
                                                          : kf_f32_pack((uint64_t)f.m * v[1], f.e);
    }
    answer(KF_OK, out, count * 4);
    free(out);
}

/* a: 4 or 5, exp() with so many integer bits; 0 the inverse; 32 + n a requantization by shift n of pairs x, mult. */
static void do_fixed(uint32_t a, uint32_t b, const uint8_t *data, uint32_t bytes) {
    uint32_t count = bytes / 4;
    int32_t *out = malloc((size_t)count * 4 + 1);
    for (uint32_t i = 0; i < count; i++) {
        int32_t x;
        memcpy(&x, data + 4 * i, 4);
        if (a == 0) {
            out[i] = kf_fixed_inverse(x);
        } else if (a == 4 || a == 5) {
            out[i] = kf_fixed_exp(x, (int32_t)a);
        } else {
            kf_requant_t by = {(int32_t)b, (int32_t)a - 64};
            out[i] = kf_requant(x, by);
        }
    }
    answer(KF_OK, out, count * 4);
    free(out);
}

int main(void) {
    for (;;) {
        uint32_t head[4];
        read_exactly(head, sizeof head);
        uint8_t *data = malloc((size_t)head[3] + 1);
        read_exactly(data, head[3]);
        switch (head[0]) {
        case OPEN:
            do_open(data, head[3]);
            break;
        case RUN:
            do_run(head[1], head[2], data, head[3]);
            break;
        case OVERLAY:
            do_overlay(data, head[3]);
            break;
        case REQUANT:
            do_requant(head[1], data, head[3]);
            break;
        case FLOAT:
            do_float(head[1], data, head[3]);
            break;
        case FIXED:
            do_fixed(head[1], head[2], data, head[3]);
            break;
        case WORK:
            do_work();
            break;
        default:
            free(data);
            return 2;
        }
        free(data);
    }
}
