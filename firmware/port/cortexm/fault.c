/* The last words of a board: where it was when it could not go on. Then it stops, for good.
 *
 * Stopping is a fault inside the fault handler, which locks the core up (Armv7-M ARM B1.5.15). A debugger sees it, a
 * watchdog or an nRF51 resets from it, and QEMU ends with status 134: an emulated board that crashed cannot be taken
 * for a slow one.
 */

#include <stdint.h>

#include "board.h"
#include "chip.h"
#include "cpu.h"

void kf_fault_report(const uint32_t *frame);

static void put_text(const char *text) {
    while (*text != '\0') {
        kf_chip_panic_put((uint8_t)*text++);
    }
}

static void put_hex(uint32_t value) {
    int shift;

    for (shift = 28; shift >= 0; shift -= 4) {
        kf_chip_panic_put((uint8_t)"0123456789abcdef"[(value >> shift) & 15u]);
    }
}

/* frame: what the core stacked on entry: r0-r3, r12, lr, pc, xpsr (Armv7-M ARM B1.5.6). */
__attribute__((used)) void kf_fault_report(const uint32_t *frame) {
    kf_chip_start(); /* it may have come before main() did that */
    put_text("\r\nkilofed: fault on " KF_BOARD_NAME " at pc ");
    put_hex(frame[6]);
    put_text(" lr ");
    put_hex(frame[5]);
    put_text(" vector ");
    put_hex(KF_REG(0xE000ED04u) & 0x1FFu); /* ICSR.VECTACTIVE */
#if __ARM_ARCH > 6
    put_text(" cfsr ");
    put_hex(KF_REG(0xE000ED28u));
    put_text(" bfar ");
    put_hex(KF_REG(0xE000ED38u));
#endif
    put_text("\r\n");
    for (;;) {
        __asm__ volatile("udf #0");
    }
}

/* The stack may be the very thing that is broken, but it is the only one there is. */
__attribute__((naked)) void kf_fault(void) {
    __asm__ volatile("cpsid i\n\t"
                     "mov r0, sp\n\t"
                     "ldr r1, =kf_fault_report\n\t"
                     "bx r1\n\t"
                     ".ltorg");
}
