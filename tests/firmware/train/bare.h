/* A bare Cortex-M in QEMU: vectors, printing over semihosting, and a free-running counter. Included by one file of an image. */
#ifndef KILOFED_TESTS_BARE_H
#define KILOFED_TESTS_BARE_H

#include <stddef.h>
#include <stdint.h>

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

/* Coprocessors 10 and 11, where there are any: the compiler may keep values in their registers. */
static inline void enable_fpu(void) {
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20;
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
}

/* A free-running counter under -icount: see the test for how ticks become instructions. */
static volatile uint32_t *const TIMER = (volatile uint32_t *)TIMER_BASE;

static inline void start_clock(void) {
#if TIMER_KIND == 0
    TIMER[2] = UINT32_MAX; /* reload */
    TIMER[1] = UINT32_MAX;
    TIMER[0] = 1;
#elif TIMER_KIND == 1
    TIMER[0x508 / 4] = 3; /* 32 bits */
    TIMER[0x510 / 4] = 0; /* 16 MHz */
    TIMER[0x000 / 4] = 1;
#else
    TIMER[0x01C / 4] = 0; /* no prescaler */
#endif
}

static inline uint32_t clock_ticks(void) {
#if TIMER_KIND == 0
    return UINT32_MAX - TIMER[1];
#elif TIMER_KIND == 1
    TIMER[0x040 / 4] = 1;
    return TIMER[0x540 / 4];
#else
    return TIMER[0x018 / 4];
#endif
}

#endif
