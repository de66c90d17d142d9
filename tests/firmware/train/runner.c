/* A child process that runs the training core on requests from a pipe, under the sanitizers.
 *
 * Request and answer: u32 length, then that many bytes, little endian. The first byte of a request says what is asked; the
 * rest is read in the order of the function that answers. Every buffer that the core sees is its own heap block of the exact
 * size, so that a byte too far is a crash.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../firmware/src/train/fixed.h"
#include "../../../firmware/src/train/kernels.h"
#include "../../../firmware/src/train/prng.h"
#include "../../../firmware/src/train/softmax.h"
#include "kilofed/params.h"
#include "kilofed/ring.h"
#include "kilofed/train.h"

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

static uint8_t *take_block(size_t bytes) {
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
    memcpy(out + out_bytes, p, bytes);
    out_bytes += bytes;
}

static void give_number(int64_t v) {
    give(&v, sizeof v);
}

/* ---- the answers ----------------------------------------------------------------------------------------------- */

static kf_rate_t take_rate(void) {
    kf_rate_t rate;
    rate.mantissa = (uint16_t)take_number(2);
    rate.shift = (uint8_t)take_number(1);
    return rate;
}

/* A round on a device: samples into a ring, a head, training in slices, evaluation, an update, its acceptance.
 * Ends at the first status that is not KF_OK and says where (stage) and which. */
static void answer_round(void) {
    kf_train_config_t cfg;
    cfg.seed = take_number(4);
    cfg.batch = (uint16_t)take_number(2);
    cfg.epochs = (uint8_t)take_number(1);
    cfg.x_zp = (int8_t)take_number(1);
    cfg.lr_w = take_rate();
    cfg.lr_b = take_rate();
    cfg.prox = take_rate();
    const uint16_t classes = (uint16_t)take_number(2), features = (uint16_t)take_number(2);
    const uint16_t capacity = (uint16_t)take_number(2), holdout = (uint16_t)take_number(2);
    const uint32_t samples = take_number(4), max_macs = take_number(4);
    const kf_codec_t codec = (kf_codec_t)take_number(1);
    const size_t head_bytes = take_number(4);
    uint8_t *head_blob = take_block(head_bytes);

    kf_ring_t ring;
    kf_params_t params;
    kf_residual_t residual;
    kf_head_view_t head;
    kf_train_t t;
    kf_eval_t before, after;
    const size_t ring_bytes = kf_ring_bytes(features, classes, capacity);
    const size_t train_bytes = kf_train_bytes(classes, cfg.batch, capacity, holdout);
    const size_t params_bytes = kf_params_bytes(classes, features), residual_bytes = kf_residual_bytes(classes, features);
    const size_t update_bytes = kf_update_bytes(codec, classes, features);
    const size_t personal_bytes = kf_head_bytes(KF_CODEC_INT8, classes, features);
    void *ring_mem = block(ring_bytes), *train_mem = block(train_bytes), *params_mem = block(params_bytes);
    void *residual_mem = block(residual_bytes);
    uint8_t *update = block(update_bytes), *personal = block(personal_bytes);
    uint32_t slices = 0, update_slices = 0;
    int stage = 0;

    kf_status_t s = kf_ring_init(&ring, features, classes, capacity, holdout, ring_mem, ring_bytes);
    for (uint32_t i = 0; i < samples; i++) {
        const uint16_t label = (uint16_t)take_number(2);
        int8_t *q = (int8_t *)take_block(features);
        if (s == KF_OK) {
            s = kf_ring_push(&ring, q, features, label);
        }
        free(q);
    }
    if (s == KF_OK) {
        stage = 1;
        s = kf_residual_init(&residual, classes, features, residual_mem, residual_bytes);
    }
    for (uint32_t i = 0; s == KF_OK && i < classes; i++) {
        residual.bias[i] = (int32_t)take_number(4);
    }
    for (uint32_t i = 0; s == KF_OK && i < (uint32_t)classes * features; i++) {
        residual.weights[i] = (int16_t)take_number(2);
    }
    if (s == KF_OK) {
        stage = 2;
        s = kf_head_parse(&head, head_blob, head_bytes);
    }
    if (s == KF_OK) {
        s = kf_params_init(&params, classes, features, params_mem, params_bytes);
    }
    if (s == KF_OK) {
        s = kf_head_load(&head, &params);
    }
    if (s == KF_OK) {
        stage = 3;
        s = kf_train_begin(&t, &cfg, &ring, &params, &head, train_mem, train_bytes);
    }
    if (s == KF_OK) {
        while ((s = kf_train_step(&t, max_macs)) == KF_MORE) {
            slices++;
        }
    }
    if (s == KF_OK) {
        stage = 4;
        s = kf_eval_begin(&before, &ring, cfg.x_zp, NULL, &head);
        while (s == KF_OK && (s = kf_eval_step(&before, max_macs)) == KF_MORE) {
            s = KF_OK;
        }
    }
    if (s == KF_OK) {
        s = kf_eval_begin(&after, &ring, cfg.x_zp, &params, &head);
        while (s == KF_OK && (s = kf_eval_step(&after, max_macs)) == KF_MORE) {
            s = KF_OK;
        }
    }
    if (s == KF_OK && (before.total != after.total || before.head_correct != after.head_correct)) {
        abort();
    }
    if (s == KF_OK) {
        stage = 5;
        kf_update_t u;
        s = kf_update_begin(&u, codec, &params, &head, &residual, update, update_bytes);
        while (s == KF_OK && (s = kf_update_step(&u, max_macs)) == KF_MORE) {
            update_slices++;
            s = KF_OK;
        }
    }
    if (s == KF_OK) {
        s = kf_head_encode(&params, t.peak_q12, personal, personal_bytes);
    }
    if (s == KF_OK) {
        stage = 6;
        s = kf_update_accept(&params, &head, &residual, update, update_bytes);
    }

    give_number(stage);
    give_number(s);
    if (s == KF_OK) {
        give_number(ring.locks);
        give_number(t.samples);
        give_number(t.loss_q12);
        give_number(t.peak_q12);
        give_number(slices);
        give_number(update_slices);
        give_number(after.total);
        give_number(after.head_correct);
        give_number(after.params_correct);
        give(params.weights, 4u * (size_t)classes * features);
        give(params.bias, 4u * (size_t)classes);
        give(update, update_bytes);
        give(residual.weights, 2u * (size_t)classes * features);
        give(residual.bias, 4u * (size_t)classes);
        give(personal, personal_bytes);
    }
    free(head_blob);
    free(ring_mem);
    free(train_mem);
    free(params_mem);
    free(residual_mem);
    free(update);
    free(personal);
}

static void answer_softmax(void) {
    const uint32_t classes = take_number(2), label = take_number(2);
    int32_t *z = block(4 * (size_t)classes * KF_TILE); /* one sample of a tile, its last */
    for (uint32_t c = 0; c < classes; c++) {
        z[(c + 1) * KF_TILE - 1] = (int32_t)take_number(4);
    }
    int16_t *errors = block(2 * (size_t)classes);
    uint32_t peak = 0;
    give_number(kf_softmax_errors(z + KF_TILE - 1, classes, label, errors, 1, &peak));
    give(errors, 2 * (size_t)classes);
    free(z);
    free(errors);
}

static void answer_scale(void) {
    const kf_rate_t rate = take_rate();
    const uint32_t n = take_number(4);
    for (uint32_t i = 0; i < n; i++) {
        const int32_t v = (int32_t)take_number(4);
        give_number(scale32(v, rate));
        give_number(scale64(v, rate));
    }
}

static void answer_head(void) {
    const size_t bytes = take_number(4);
    uint8_t *blob = take_block(bytes);
    kf_head_view_t head;
    kf_params_t params;
    kf_status_t s = kf_head_parse(&head, blob, bytes);
    give_number(s);
    if (s == KF_OK) {
        const size_t n = (size_t)head.classes * head.features, params_bytes = kf_params_bytes(head.classes, head.features);
        void *mem = block(params_bytes);
        int8_t *expanded = block(n);
        if (kf_params_init(&params, head.classes, head.features, mem, params_bytes) != KF_OK
            || kf_head_load(&head, &params) != KF_OK) {
            abort();
        }
        give_number(head.classes);
        give_number(head.features);
        give_number(head.step);
        give_number(head.out_scale_bits);
        give_number(head.out_zp);
        give_number(kf_head_expand(&head, expanded, n));
        give(params.weights, 4 * n);
        give(params.bias, 4 * (size_t)head.classes);
        give(expanded, n);
        free(mem);
        free(expanded);
    }
    free(blob);
}

/* Whatever the blob says, an acceptance reads inside it and writes inside the residual. */
static void answer_accept(void) {
    const uint16_t classes = (uint16_t)take_number(2), features = (uint16_t)take_number(2);
    const size_t head_bytes = take_number(4);
    uint8_t *head_blob = take_block(head_bytes);
    const size_t bytes = take_number(4);
    uint8_t *blob = take_block(bytes);
    const size_t params_bytes = kf_params_bytes(classes, features), residual_bytes = kf_residual_bytes(classes, features);
    void *params_mem = block(params_bytes), *residual_mem = block(residual_bytes);
    kf_head_view_t head;
    kf_params_t params;
    kf_residual_t residual;
    if (kf_head_parse(&head, head_blob, head_bytes) != KF_OK
        || kf_params_init(&params, classes, features, params_mem, params_bytes) != KF_OK
        || kf_residual_init(&residual, classes, features, residual_mem, residual_bytes) != KF_OK) {
        abort();
    }
    kf_residual_clear(&residual);
    give_number(kf_update_accept(&params, &head, &residual, blob, bytes));
    give(residual.weights, 2u * (size_t)classes * features);
    give(residual.bias, 4u * (size_t)classes);
    free(head_blob);
    free(blob);
    free(params_mem);
    free(residual_mem);
}

static void answer_sizes(void) {
    const uint16_t classes = (uint16_t)take_number(2), features = (uint16_t)take_number(2);
    const uint16_t batch = (uint16_t)take_number(2), capacity = (uint16_t)take_number(2);
    const uint16_t holdout = (uint16_t)take_number(2);
    give_number((int64_t)kf_params_bytes(classes, features));
    give_number((int64_t)kf_residual_bytes(classes, features));
    give_number((int64_t)kf_ring_bytes(features, classes, capacity));
    give_number((int64_t)kf_train_bytes(classes, batch, capacity, holdout));
    for (int codec = 0; codec < 5; codec++) {
        give_number((int64_t)kf_head_bytes((kf_codec_t)codec, classes, features));
        give_number((int64_t)kf_update_bytes((kf_codec_t)codec, classes, features));
    }
}

static void answer_random(void) {
    uint32_t state = prng_seed(take_number(4));
    const uint32_t n = take_number(4);
    give_number(state);
    for (uint32_t i = 0; i < n; i++) {
        give_number(prng_next(&state));
    }
}

int main(void) {
    uint8_t length[4];
    while (fread(length, 1, sizeof length, stdin) == sizeof length) {
        const size_t bytes = length[0] | (size_t)length[1] << 8 | (size_t)length[2] << 16 | (size_t)length[3] << 24;
        uint8_t *request = block(bytes);
        if (bytes == 0 || fread(request, 1, bytes, stdin) != bytes) {
            return 2;
        }
        in = request + 1;
        in_left = bytes - 1;
        out_bytes = 0;
        switch (request[0]) {
        case 'r': answer_round(); break;
        case 's': answer_softmax(); break;
        case 'm': answer_scale(); break;
        case 'h': answer_head(); break;
        case 'a': answer_accept(); break;
        case 'z': answer_sizes(); break;
        case 'p': answer_random(); break;
        default: return 2;
        }
        free(request);
        const uint32_t n = (uint32_t)out_bytes;
        const uint8_t header[4] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), (uint8_t)(n >> 24)};
        fwrite(header, 1, sizeof header, stdout);
        fwrite(out, 1, out_bytes, stdout);
        fflush(stdout);
    }
    free(out);
    return 0;
}
