/* The vector rounds on a real instruction set: a bare image for an emulated Cortex-M, 16 KB of RAM, no startup library.
 *
 * Prints over semihosting, a line a round: its number, the update and the personal head in hex, and how many instructions the
 * training took. ROUNDS comes from the header that the test writes from training.json.
 */
#include <stdint.h>
#include <string.h>

#include "bare.h"
#include "kilofed/params.h"
#include "kilofed/ring.h"
#include "kilofed/train.h"
#include "rounds.h"

/* ---- the rounds ------------------------------------------------------------------------------------------------ */

static uint32_t memory[3000]; /* what a 16 KB board could spare */
static uint32_t used;

static void *take(size_t bytes) {
    void *p = memory + used;
    used += (uint32_t)(bytes + 3) / 4;
    if (used > sizeof memory / 4) {
        print("out of memory\n");
        leave();
    }
    return p;
}

static void must(int status) {
    if (status != KF_OK) {
        print("refused ");
        print_number((uint32_t)status);
        print("\n");
        leave();
    }
}

static void run(const round_t *r) {
    used = 0;
    kf_ring_t ring;
    kf_params_t params;
    kf_head_view_t head;
    kf_train_t t;
    const size_t ring_bytes = kf_ring_bytes(r->features, r->classes, r->capacity);
    const size_t params_bytes = kf_params_bytes(r->classes, r->features);
    const size_t train_bytes = kf_train_bytes(r->classes, r->cfg.batch, r->capacity, r->holdout);
    const size_t update_bytes = kf_update_bytes(KF_CODEC_INT8, r->classes, r->features);
    const size_t head_bytes = kf_head_bytes(KF_CODEC_INT8, r->classes, r->features);

    must(kf_ring_init(&ring, r->features, r->classes, r->capacity, r->holdout, take(ring_bytes), ring_bytes));
    for (uint32_t i = 0; i < r->samples; i++) {
        must(kf_ring_push(&ring, r->q + i * r->features, r->features, r->labels[i]));
    }
    must(kf_head_parse(&head, r->head, head_bytes));
    must(kf_params_init(&params, r->classes, r->features, take(params_bytes), params_bytes));
    must(kf_head_load(&head, &params));
    must(kf_train_begin(&t, &r->cfg, &ring, &params, &head, take(train_bytes), train_bytes));

    const uint32_t before = clock_ticks();
    must(kf_train_step(&t, UINT32_MAX));
    const uint32_t ticks = clock_ticks() - before;

    uint8_t *update = take(update_bytes), *personal = take(head_bytes);
    must(kf_update_encode(KF_CODEC_INT8, &params, &head, NULL, update, update_bytes));
    must(kf_head_encode(&params, t.peak_q12, personal, head_bytes));
    print_hex(update, update_bytes);
    print_hex(personal, head_bytes);
    print_number(ticks);
    print("\n");
}

void reset(void) {
    enable_fpu();
    start_clock();
    for (unsigned i = 0; i < sizeof ROUNDS / sizeof ROUNDS[0]; i++) {
        run(&ROUNDS[i]);
    }
    leave();
}
