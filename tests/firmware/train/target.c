/* The vector rounds on a real instruction set: a bare image for an emulated Cortex-M, 16 KB of RAM, no startup library.
 *
 * Prints over semihosting, a line a round: its number, the update and the personal head in hex, and how many instructions the
 * training took. ROUNDS comes from the header that the test writes from training.json.
 */
#include <stdint.h>
#include <string.h>

#include "kilofed/params.h"
#include "kilofed/ring.h"
#include "kilofed/train.h"
#include "rounds.h"

/* ---- the machine ----------------------------------------------------------------------------------------------- */

void reset(void);
void fault(void);
extern uint32_t stack_top;
__attribute__((section(".vectors"), used)) static const void *const VECTORS[16] = {&stack_top, (void *)reset, (void *)fault,
                                                                                   (void *)fault};

static uint32_t semihost(uint32_t what, const void *with) {
    register uint32_t r0 __asm__("r0") = what;
    register const void *r1 __asm__("r1") = with;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void print(const char *text) {
    semihost(4, text);
}

static void leave(void) {
    semihost(0x18, (const void *)0x20026u);
    for (;;) {
    }
}

void fault(void) {
    print("fault\n");
    leave();
}

static void print_hex(const uint8_t *bytes, size_t count) {
    static const char DIGITS[] = "0123456789abcdef";
    char text[33];
    for (size_t i = 0; i < count;) {
        unsigned at = 0;
        for (; at < 32 && i < count; i++) {
            text[at++] = DIGITS[bytes[i] >> 4];
            text[at++] = DIGITS[bytes[i] & 15];
        }
        text[at] = 0;
        print(text);
    }
    print(" ");
}

static void print_number(uint32_t v) {
    const uint8_t bytes[4] = {(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
    print_hex(bytes, 4);
}

/* A free-running counter under -icount: see the test for how ticks become instructions. */
static volatile uint32_t *const TIMER = (volatile uint32_t *)TIMER_BASE;

static void start_clock(void) {
#if TIMER_IS_NRF
    TIMER[0x508 / 4] = 3; /* 32 bits */
    TIMER[0x510 / 4] = 0; /* 16 MHz */
    TIMER[0x000 / 4] = 1;
#else
    TIMER[2] = UINT32_MAX; /* reload */
    TIMER[1] = UINT32_MAX;
    TIMER[0] = 1;
#endif
}

static uint32_t clock_ticks(void) {
#if TIMER_IS_NRF
    TIMER[0x040 / 4] = 1;
    return TIMER[0x540 / 4];
#else
    return UINT32_MAX - TIMER[1];
#endif
}

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
    start_clock();
    for (unsigned i = 0; i < sizeof ROUNDS / sizeof ROUNDS[0]; i++) {
        run(&ROUNDS[i]);
    }
    leave();
}
