/* From reset to kf_main(): vectors, header, memory. */

#include <stdint.h>

#include "board.h"
#include "chip.h"
#include "cpu.h"
#include "header.h"

/* Set by board.ld. Only their addresses mean something. */
extern uint32_t kf_data_load[], kf_data_start[], kf_data_end[], kf_bss_start[], kf_bss_end[];
extern uint32_t kf_stack_limit[], kf_stack_top[];
extern const uint8_t kf_model_start[], kf_model_end[];
extern uint8_t kf_pool_start[], kf_pool_end[];

/* What the stack holds before it is used; kilofed.boards.emulator counts how much of it is left. */
#define PAINT 0xC5C5C5C5u

const kf_header_t kf_header __attribute__((section(".header"), used)) = {
    .magic = KF_HEADER_MAGIC,
    .version = KF_HEADER_VERSION,
    .bytes = sizeof(kf_header_t),
    .board = KF_BOARD_NAME,
    .firmware = KF_FIRMWARE_VERSION,
    .model_start = kf_model_start,
    .model_end = kf_model_end,
    .pool_start = kf_pool_start,
    .pool_end = kf_pool_end,
    .settings_address = KF_BOARD_SETTINGS_ADDRESS,
};
_Static_assert(sizeof(KF_BOARD_NAME) <= sizeof kf_header.board, "name of the board's data file: at most 23 bytes");
_Static_assert(sizeof(kf_header_t) == 56, "kilofed.boards.image reads this layout");

void kf_reset(void);
void kf_tick_irq(void);

/* Armv7-M ARM table B1-4. Index 8 is reserved there and holds the header's address. */
__attribute__((section(".vectors"), used)) static const kf_vector_t vectors[16] = {
    [0].address = kf_stack_top,
    [1].handler = kf_reset,
    [2].handler = kf_fault, /* NMI */
    [3].handler = kf_fault, /* HardFault */
    [4].handler = kf_fault, /* MemManage, BusFault, UsageFault: Armv7-M only, never enabled, so they escalate */
    [5].handler = kf_fault,
    [6].handler = kf_fault,
    [8].address = &kf_header,
    [11].handler = kf_fault, /* SVCall */
    [12].handler = kf_fault, /* DebugMonitor */
    [14].handler = kf_fault, /* PendSV */
    [15].handler = kf_tick_irq,
};

void kf_reset(void) {
    uint32_t *here;
    const uint32_t *load = kf_data_load;

    /* Below this function's own frame, which is at most a few words: 64 bytes are left alone. */
    for (here = kf_stack_limit; here < (uint32_t *)__builtin_frame_address(0) - 16; here++) {
        *here = PAINT;
    }
    for (here = kf_data_start; here < kf_data_end; here++) {
        *here = *load++;
    }
    for (here = kf_bss_start; here < kf_bss_end; here++) {
        *here = 0;
    }
#ifdef __ARM_FP
    /* CPACR: full access to CP10 and CP11 (Armv7-M ARM B3.2.20); the core never uses the FPU, an application may. */
    KF_REG(0xE000ED88u) |= 0xFu << 20;
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
    kf_main();
}
