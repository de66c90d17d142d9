/* What the headers promise about order, memory and refusals, call by call. Prints each broken promise; exit status 1 then. */
#include <stdio.h>
#include <string.h>

#include "kilofed/params.h"
#include "kilofed/ring.h"
#include "kilofed/train.h"

static int failures;

#define CHECK(condition)                                                                                                       \
    do {                                                                                                                       \
        if (!(condition)) {                                                                                                    \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);                                                             \
            failures++;                                                                                                        \
        }                                                                                                                      \
    } while (0)

enum { C = 3, F = 4, SLOTS = 10, HOLDOUT = 5, BATCH = 4 };

static const kf_train_config_t CONFIG = {
    .seed = 1, .batch = BATCH, .epochs = 2, .x_zp = -128, .lr_w = {20000, 25}, .lr_b = {20000, 15}};

/* A device with room for everything, aligned. */
typedef struct device {
    uint32_t ring_mem[32], params_mem[16], train_mem[48], residual_mem[16];
    uint8_t head_blob[64], update[64];
    kf_ring_t ring;
    kf_params_t params;
    kf_residual_t residual;
    kf_head_view_t head;
    kf_train_t t;
} device_t;

static void make(device_t *d, unsigned samples) {
    memset(d, 0, sizeof *d);
    CHECK(kf_ring_init(&d->ring, F, C, SLOTS, HOLDOUT, d->ring_mem, sizeof d->ring_mem) == KF_OK);
    for (unsigned i = 0; i < samples; i++) {
        const int8_t q[F] = {(int8_t)i, (int8_t)(3 * i), 7, (int8_t)(100 - 9 * (int)i)};
        CHECK(kf_ring_push(&d->ring, q, sizeof q, (uint16_t)(i % C)) == KF_OK);
    }
    CHECK(kf_params_init(&d->params, C, F, d->params_mem, sizeof d->params_mem) == KF_OK);
    CHECK(kf_residual_init(&d->residual, C, F, d->residual_mem, sizeof d->residual_mem) == KF_OK);
    CHECK(kf_head_encode(&d->params, 0, d->head_blob, sizeof d->head_blob) == KF_OK);
    CHECK(kf_head_parse(&d->head, d->head_blob, kf_head_bytes(KF_CODEC_INT8, C, F)) == KF_OK);
}

static kf_status_t begin(device_t *d, const kf_train_config_t *cfg) {
    return kf_train_begin(&d->t, cfg, &d->ring, &d->params, &d->head, d->train_mem, sizeof d->train_mem);
}

static void the_ring(void) {
    device_t d;
    make(&d, 0);
    const size_t need = kf_ring_bytes(F, C, SLOTS);
    kf_ring_t ring;
    CHECK(kf_ring_init(NULL, F, C, SLOTS, 0, d.ring_mem, need) == KF_ERR_ARG);
    CHECK(kf_ring_init(&ring, F, C, SLOTS, 0, NULL, need) == KF_ERR_ARG);
    CHECK(kf_ring_init(&ring, F, C, SLOTS, 0, d.ring_mem, need - 1) == KF_ERR_MEMORY);
    CHECK(kf_ring_init(&ring, F, C, SLOTS, 1, d.ring_mem, need) == KF_ERR_ARG);
    CHECK(kf_ring_init(&ring, F, C, SLOTS, 4, d.ring_mem, need) == KF_ERR_ARG);
    CHECK(kf_ring_init(&ring, F, C, SLOTS, 0, (uint8_t *)d.ring_mem + 1, need) == KF_OK); /* needs no alignment */

    const int8_t q[F] = {1, 2, 3, 4};
    CHECK(kf_ring_push(&d.ring, q, F - 1, 0) == KF_ERR_SHAPE);
    CHECK(kf_ring_push(&d.ring, NULL, F, 0) == KF_ERR_ARG);
    CHECK(kf_ring_push(&d.ring, q, F, C) == KF_ERR_ARG);
    CHECK(kf_ring_push(NULL, q, F, 0) == KF_ERR_ARG);
    CHECK(d.ring.count == 0 && kf_ring_train_count(&d.ring) == 0 && kf_ring_held_out_count(&d.ring) == 0);

    /* Full, then over the oldest; a slot keeps its part. */
    for (unsigned i = 0; i < SLOTS + 3; i++) {
        const int8_t sample[F] = {(int8_t)i, 0, 0, 0};
        CHECK(kf_ring_push(&d.ring, sample, F, (uint16_t)(i % C)) == KF_OK);
        const unsigned count = i < SLOTS ? i + 1 : SLOTS;
        CHECK(d.ring.count == count && kf_ring_held_out_count(&d.ring) == count / HOLDOUT);
        CHECK(kf_ring_train_count(&d.ring) == count - count / HOLDOUT);
    }
    CHECK(d.ring.next == 3);
    CHECK(kf_ring_features(&d.ring, 2)[0] == SLOTS + 2 && kf_ring_label(&d.ring, 2) == (SLOTS + 2) % C);
    CHECK(kf_ring_features(&d.ring, 3)[0] == 3 && kf_ring_label(&d.ring, 3) == 0);
    CHECK(!kf_ring_is_held_out(&d.ring, 3) && kf_ring_is_held_out(&d.ring, 4) && kf_ring_is_held_out(&d.ring, 9));

    /* The memory outlives the ring. */
    CHECK(kf_ring_init(&ring, F, C, SLOTS, HOLDOUT, d.ring_mem, need) == KF_OK);
    CHECK(kf_ring_restore(&ring, SLOTS + 1, 0) == KF_ERR_ARG);
    CHECK(kf_ring_restore(&ring, SLOTS, SLOTS) == KF_ERR_ARG);
    CHECK(kf_ring_restore(&ring, 4, 3) == KF_ERR_ARG);
    CHECK(kf_ring_restore(NULL, 0, 0) == KF_ERR_ARG);
    d.ring.labels[9] = C;
    CHECK(kf_ring_restore(&ring, SLOTS, 3) == KF_ERR_ARG && ring.count == 0);
    d.ring.labels[9] = 0;
    CHECK(kf_ring_restore(&ring, SLOTS, 3) == KF_OK && ring.count == SLOTS && ring.next == 3);
    CHECK(kf_ring_features(&ring, 2)[0] == SLOTS + 2);
    CHECK(kf_ring_restore(&ring, SLOTS, 3) == KF_ERR_ARG); /* only right after init */

    CHECK(kf_ring_clear(&d.ring) == KF_OK && d.ring.count == 0 && d.ring.next == 0);
    CHECK(kf_ring_clear(NULL) == KF_ERR_ARG);
    for (size_t i = 0; i < need; i++) {
        CHECK(((uint8_t *)d.ring_mem)[i] == 0);
    }
}

static void wide_labels(void) {
    static uint8_t mem[8 * (2 + 2)];
    kf_ring_t ring;
    const int8_t q[2] = {-1, 1};
    CHECK(kf_ring_bytes(2, 256, 8) == 8 * 3 && kf_ring_bytes(2, 257, 8) == sizeof mem);
    CHECK(kf_ring_init(&ring, 2, 1024, 8, 0, mem, sizeof mem) == KF_OK);
    for (uint16_t i = 0; i < 8; i++) {
        CHECK(kf_ring_push(&ring, q, 2, (uint16_t)(1023 - 100 * i)) == KF_OK);
    }
    for (uint16_t i = 0; i < 8; i++) {
        CHECK(kf_ring_label(&ring, i) == 1023 - 100 * i);
    }
    CHECK(kf_ring_held_out_count(&ring) == 0 && kf_ring_train_count(&ring) == 8);
}

static void placing_memory(void) {
    uint32_t mem[64];
    kf_params_t params;
    kf_residual_t residual;
    uint8_t *odd = (uint8_t *)mem + 1;
    CHECK(kf_params_init(&params, C, F, mem, kf_params_bytes(C, F)) == KF_OK);
    CHECK(kf_params_init(&params, C, F, mem, kf_params_bytes(C, F) - 1) == KF_ERR_MEMORY);
    CHECK(kf_params_init(&params, C, F, odd, sizeof mem - 1) == KF_ERR_ARG);
    CHECK(kf_params_init(&params, C, F, NULL, sizeof mem) == KF_ERR_ARG);
    CHECK(kf_params_init(&params, 0, F, mem, sizeof mem) == KF_ERR_ARG);
    CHECK(kf_params_init(NULL, C, F, mem, sizeof mem) == KF_ERR_ARG);
    CHECK(kf_residual_init(&residual, C, F, mem, kf_residual_bytes(C, F)) == KF_OK);
    CHECK(kf_residual_init(&residual, C, F, mem, kf_residual_bytes(C, F) - 1) == KF_ERR_MEMORY);
    CHECK(kf_residual_init(&residual, C, F, odd, sizeof mem - 1) == KF_ERR_ARG);
    CHECK(kf_residual_init(&residual, C, F, NULL, sizeof mem) == KF_ERR_ARG);
    CHECK(kf_residual_init(&residual, C, KF_MAX_FEATURES + 1, mem, sizeof mem) == KF_ERR_ARG);
    CHECK(kf_residual_init(NULL, C, F, mem, sizeof mem) == KF_ERR_ARG);
}

static void training_refuses(void) {
    static const struct {
        const char *what;
        kf_train_config_t cfg;
    } WRONG[] = {
        {"batch 0", {.seed = 1, .batch = 0, .epochs = 1}},
        {"batch 257", {.seed = 1, .batch = 257, .epochs = 1}},
        {"epochs 0", {.seed = 1, .batch = 4, .epochs = 0}},
        {"mantissa too small", {.seed = 1, .batch = 4, .epochs = 1, .lr_w = {16383, 20}}},
        {"mantissa too large", {.seed = 1, .batch = 4, .epochs = 1, .lr_b = {32768, 20}}},
        {"shift 0", {.seed = 1, .batch = 4, .epochs = 1, .prox = {16384, 0}}},
        {"shift 39", {.seed = 1, .batch = 4, .epochs = 1, .lr_w = {16384, 39}}},
    };
    device_t d;
    make(&d, SLOTS);
    for (size_t i = 0; i < sizeof WRONG / sizeof WRONG[0]; i++) {
        const kf_status_t s = begin(&d, &WRONG[i].cfg);
        if (s != KF_ERR_ARG || d.ring.locks != 0 || kf_train_step(&d.t, 1) != KF_ERR_STATE) {
            printf("training with %s: status %d\n", WRONG[i].what, s);
            failures++;
        }
    }

    const size_t need = kf_train_bytes(C, BATCH, SLOTS, HOLDOUT);
    kf_train_t *t = &d.t;
    CHECK(kf_train_begin(NULL, &CONFIG, &d.ring, &d.params, &d.head, d.train_mem, need) == KF_ERR_ARG);
    CHECK(kf_train_begin(t, NULL, &d.ring, &d.params, &d.head, d.train_mem, need) == KF_ERR_ARG);
    CHECK(kf_train_begin(t, &CONFIG, NULL, &d.params, &d.head, d.train_mem, need) == KF_ERR_ARG);
    CHECK(kf_train_begin(t, &CONFIG, &d.ring, NULL, &d.head, d.train_mem, need) == KF_ERR_ARG);
    CHECK(kf_train_begin(t, &CONFIG, &d.ring, &d.params, &d.head, NULL, need) == KF_ERR_ARG);
    CHECK(kf_train_begin(t, &CONFIG, &d.ring, &d.params, &d.head, (uint8_t *)d.train_mem + 2, need) == KF_ERR_ARG);
    CHECK(kf_train_begin(t, &CONFIG, &d.ring, &d.params, &d.head, d.train_mem, need - 1) == KF_ERR_MEMORY);
    CHECK(kf_train_begin(t, &CONFIG, &d.ring, &d.params, NULL, d.train_mem, need) == KF_OK); /* no base without prox */
    kf_train_cancel(t);
    kf_train_config_t prox = CONFIG;
    prox.prox = (kf_rate_t){20000, 20};
    CHECK(kf_train_begin(t, &prox, &d.ring, &d.params, NULL, d.train_mem, need) == KF_ERR_ARG);

    kf_head_view_t other = d.head;
    other.features = F + 1;
    CHECK(kf_train_begin(t, &CONFIG, &d.ring, &d.params, &other, d.train_mem, need) == KF_ERR_SHAPE);
    kf_params_t params = d.params;
    params.classes = C - 1;
    CHECK(kf_train_begin(t, &CONFIG, &d.ring, &params, NULL, d.train_mem, need) == KF_ERR_SHAPE);
    CHECK(d.ring.locks == 0);

    make(&d, 0);
    CHECK(begin(&d, &CONFIG) == KF_ERR_STATE); /* no sample */
    CHECK(kf_train_step(NULL, 1) == KF_ERR_STATE);
}

static void training_in_order(void) {
    device_t d;
    make(&d, SLOTS);
    const int8_t q[F] = {0};
    CHECK(kf_train_step(&d.t, 100) == KF_ERR_STATE); /* never begun */
    CHECK(kf_train_progress(&d.t).total == 0);
    CHECK(begin(&d, &CONFIG) == KF_OK);
    CHECK(kf_train_progress(&d.t).total == 2 * 8 && kf_train_progress(&d.t).done == 0);
    CHECK(d.t.loss_q12 == UINT16_MAX);
    CHECK(kf_ring_push(&d.ring, q, F, 0) == KF_ERR_BUSY); /* the samples of a round are one fixed set */
    CHECK(kf_ring_clear(&d.ring) == KF_ERR_BUSY);

    uint32_t last = 0, slices = 0;
    kf_status_t s;
    while ((s = kf_train_step(&d.t, 1)) == KF_MORE) {
        const kf_train_progress_t p = kf_train_progress(&d.t);
        CHECK(p.done >= last && p.done <= p.total && p.epoch == p.done / 8);
        last = p.done;
        slices++;
    }
    /* Two epochs of a shuffle and two batches; a batch's four samples share a unit for each class, have one each, and share another. */
    CHECK(s == KF_OK && slices + 1 == 2 * (1 + 2 * (C + BATCH + C)));
    CHECK(kf_train_progress(&d.t).done == 16 && kf_train_progress(&d.t).epoch == 2);
    CHECK(kf_train_step(&d.t, 1) == KF_OK); /* stays finished */
    CHECK(d.ring.locks == 0 && kf_ring_push(&d.ring, q, F, 0) == KF_OK);
    CHECK(d.t.loss_q12 > 0 && d.t.loss_q12 < UINT16_MAX);

    CHECK(begin(&d, &CONFIG) == KF_OK);
    CHECK(kf_train_step(&d.t, 1) == KF_MORE);
    kf_train_cancel(&d.t);
    kf_train_cancel(&d.t);
    CHECK(d.ring.locks == 0 && kf_train_step(&d.t, 1) == KF_ERR_STATE && kf_train_progress(&d.t).total == 0);

    /* After a finished training a cancel unlocks nothing twice. */
    CHECK(begin(&d, &CONFIG) == KF_OK);
    CHECK(kf_train_step(&d.t, UINT32_MAX) == KF_OK);
    kf_train_cancel(&d.t);
    CHECK(d.ring.locks == 0);
}

static void evaluation(void) {
    device_t d;
    kf_eval_t e;
    make(&d, SLOTS);
    CHECK(kf_eval_begin(NULL, &d.ring, 0, &d.params, NULL) == KF_ERR_ARG);
    CHECK(kf_eval_begin(&e, NULL, 0, &d.params, NULL) == KF_ERR_ARG);
    CHECK(kf_eval_begin(&e, &d.ring, 0, NULL, NULL) == KF_ERR_ARG);
    kf_params_t params = d.params;
    params.features = F - 1;
    CHECK(kf_eval_begin(&e, &d.ring, 0, &params, NULL) == KF_ERR_SHAPE);
    kf_head_view_t head = d.head;
    head.classes = C + 1;
    CHECK(kf_eval_begin(&e, &d.ring, 0, NULL, &head) == KF_ERR_SHAPE);
    CHECK(kf_eval_step(&e, 1) == KF_ERR_STATE && kf_eval_step(NULL, 1) == KF_ERR_STATE);

    /* All logits are 0: the answer is class 0. Slots 4 and 9 are held out, with labels 1 and 0. */
    CHECK(kf_eval_begin(&e, &d.ring, 0, &d.params, &d.head) == KF_OK && d.ring.locks == 1);
    kf_status_t s;
    unsigned slices = 0;
    while ((s = kf_eval_step(&e, 1)) == KF_MORE) {
        slices++;
    }
    CHECK(s == KF_OK && slices == 2 * 2 * C - 1);
    CHECK(e.total == 2 && e.params_correct == 1 && e.head_correct == 1 && d.ring.locks == 0);
    CHECK(kf_eval_step(&e, 1) == KF_OK);
    kf_eval_cancel(&e);
    CHECK(d.ring.locks == 0);

    CHECK(kf_eval_begin(&e, &d.ring, 0, NULL, &d.head) == KF_OK);
    CHECK(kf_eval_step(&e, 1) == KF_MORE);
    kf_eval_cancel(&e);
    CHECK(d.ring.locks == 0 && kf_eval_step(&e, 1) == KF_ERR_STATE);

    make(&d, HOLDOUT - 1); /* nothing held out yet */
    CHECK(kf_eval_begin(&e, &d.ring, 0, &d.params, NULL) == KF_OK);
    CHECK(kf_eval_step(&e, 1) == KF_OK && e.total == 0 && d.ring.locks == 0);
}

static void heads(void) {
    device_t d;
    make(&d, 0);
    kf_head_view_t view;
    int8_t expanded[C * F];
    const size_t need = kf_head_bytes(KF_CODEC_INT8, C, F);
    CHECK(kf_head_parse(NULL, d.head_blob, need) == KF_ERR_ARG);
    CHECK(kf_head_parse(&view, NULL, need) == KF_ERR_BLOB && view.weights == NULL);
    CHECK(kf_head_load(&view, &d.params) == KF_ERR_ARG); /* a view of nothing */
    CHECK(kf_head_expand(&view, expanded, sizeof expanded) == KF_ERR_ARG);
    CHECK(kf_head_expand(&d.head, expanded, sizeof expanded - 1) == KF_ERR_MEMORY);
    CHECK(kf_head_expand(&d.head, expanded, sizeof expanded) == KF_OK);
    kf_params_t other = d.params;
    other.features = F - 1;
    CHECK(kf_head_load(&d.head, &other) == KF_ERR_SHAPE);
    CHECK(kf_head_load(&d.head, NULL) == KF_ERR_ARG);
    CHECK(kf_head_encode(&d.params, 0, d.head_blob, need - 1) == KF_ERR_MEMORY);
    CHECK(kf_head_encode(&d.params, 0, NULL, need) == KF_ERR_ARG);
    CHECK(kf_head_encode(NULL, 0, d.head_blob, need) == KF_ERR_ARG);

    /* Every peak gives a scale that a parser takes: 2^-12 at the least. */
    for (uint64_t peak = 0; peak <= UINT32_MAX; peak = 3 * peak + 1) {
        CHECK(kf_head_encode(&d.params, (uint32_t)peak, d.head_blob, need) == KF_OK);
        CHECK(kf_head_parse(&view, d.head_blob, need) == KF_OK && view.out_scale_bits >= (UINT32_C(115) << 23));
    }

    /* Read at any alignment. */
    uint8_t shifted[80];
    memcpy(shifted + 1, d.head_blob, need);
    CHECK(kf_head_parse(&view, shifted + 1, need) == KF_OK && kf_head_load(&view, &d.params) == KF_OK);

    /* int32 weights are no overlay. */
    const uint8_t exact[16 + 4 + 4] = {1, 1, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0x3f, 5, 0, 0, 0, 6};
    CHECK(kf_head_parse(&view, exact, sizeof exact) == KF_OK);
    CHECK(kf_head_weight(&view, 0, 0) == 5 && kf_head_bias(&view, 0) == 6);
    CHECK(kf_head_expand(&view, expanded, sizeof expanded) == KF_ERR_UNSUPPORTED);
}

static void updates(void) {
    device_t d;
    make(&d, 0);
    kf_update_t u;
    const size_t need = kf_update_bytes(KF_CODEC_INT8, C, F);
    memset(&u, 0, sizeof u);
    CHECK(kf_update_step(&u, 1) == KF_ERR_STATE && kf_update_step(NULL, 1) == KF_ERR_STATE);
    CHECK(kf_update_begin(NULL, KF_CODEC_INT8, &d.params, &d.head, NULL, d.update, need) == KF_ERR_ARG);
    CHECK(kf_update_begin(&u, (kf_codec_t)4, &d.params, &d.head, NULL, d.update, need) == KF_ERR_ARG);
    CHECK(kf_update_begin(&u, KF_CODEC_INT8, NULL, &d.head, NULL, d.update, need) == KF_ERR_ARG);
    CHECK(kf_update_begin(&u, KF_CODEC_INT8, &d.params, NULL, NULL, d.update, need) == KF_ERR_ARG);
    CHECK(kf_update_begin(&u, KF_CODEC_INT8, &d.params, &d.head, NULL, NULL, need) == KF_ERR_ARG);
    CHECK(kf_update_begin(&u, KF_CODEC_INT8, &d.params, &d.head, NULL, d.update, need - 1) == KF_ERR_MEMORY);
    kf_residual_t residual = d.residual;
    residual.features = F - 1;
    CHECK(kf_update_begin(&u, KF_CODEC_INT8, &d.params, &d.head, &residual, d.update, need) == KF_ERR_SHAPE);
    kf_head_view_t head = d.head;
    head.classes = C - 1;
    CHECK(kf_update_begin(&u, KF_CODEC_INT8, &d.params, &head, NULL, d.update, need) == KF_ERR_SHAPE);
    CHECK(kf_update_step(&u, 1) == KF_ERR_STATE);

    /* Two phases: encoding changes no residual, acceptance does, and a residual at rest encodes as none. */
    for (unsigned i = 0; i < C * F; i++) {
        d.params.weights[i] = (int32_t)(1000 * i) - 3333;
    }
    CHECK(kf_update_encode(KF_CODEC_INT4, &d.params, &d.head, &d.residual, d.update, sizeof d.update) == KF_OK);
    uint8_t plain[64];
    CHECK(kf_update_encode(KF_CODEC_INT4, &d.params, &d.head, NULL, plain, sizeof plain) == KF_OK);
    const size_t bytes = kf_update_bytes(KF_CODEC_INT4, C, F);
    CHECK(memcmp(plain, d.update, bytes) == 0);
    for (unsigned i = 0; i < C * F; i++) {
        CHECK(d.residual.weights[i] == 0);
    }
    CHECK(kf_update_accept(&d.params, &d.head, &residual, d.update, bytes) == KF_ERR_SHAPE);
    CHECK(kf_update_accept(&d.params, &d.head, NULL, d.update, bytes) == KF_ERR_ARG);
    CHECK(kf_update_accept(&d.params, &d.head, &d.residual, NULL, bytes) == KF_ERR_ARG);
    CHECK(kf_update_accept(&d.params, &d.head, &d.residual, d.update, bytes - 1) == KF_ERR_BLOB);
    CHECK(d.residual.weights[0] == 0);
    CHECK(kf_update_accept(&d.params, &d.head, &d.residual, d.update, bytes) == KF_OK);
    int moved = 0;
    for (unsigned i = 0; i < C * F; i++) {
        moved |= d.residual.weights[i] != 0;
    }
    CHECK(moved);
    kf_residual_clear(&d.residual);
    CHECK(d.residual.weights[0] == 0 && d.residual.weights[C * F - 1] == 0 && d.residual.bias[0] == 0);
}

int main(void) {
    the_ring();
    wide_labels();
    placing_memory();
    training_refuses();
    training_in_order();
    evaluation();
    heads();
    updates();
    return failures != 0;
}
