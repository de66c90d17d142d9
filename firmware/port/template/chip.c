/* A chip family with every gap marked: copy this folder, fill the gaps, delete the marks. PORTING.md explains each by
 * its number. It compiles as it is, for every core, and does nothing.
 */

#include "board.h"
#include "chip.h"
#include "cpu.h"
#include "line.h"

/* GAP 1: the UART's registers. KF_REG(address) is one; cite the manual's section. */

/* GAP 2: interrupt numbers of the UART and, if the core has no SysTick, of a timer. */
enum { IRQ_UART = 0 };

static volatile uint32_t now_ms;

void kf_tick_irq(void);
static void uart_irq(void);

/* GAP 3: the chip's vectors, up to the last interrupt that is enabled. */
KF_CHIP_VECTORS static const kf_vector_t vectors[] = {[IRQ_UART].handler = uart_irq};

/* GAP 4: how long a tick is. This is SysTick's handler; a timer's needs its flag cleared, too. */
void kf_tick_irq(void) {
    now_ms += 10u;
}

static void uart_irq(void) {
    /* GAP 5: while a byte has been received: stop if !kf_line_rx_room(), masking this interrupt; else clear its flag
     * and kf_line_rx_put() it. */

    /* GAP 6: if the transmitter has become free: clear its flag and kf_chip_tx_start(). */
}

void kf_chip_tx_start(void) {
    /* GAP 7: while the transmitter takes a byte and kf_line_tx_get() gives one: send it. */
}

void kf_chip_rx_resume(void) {
    /* GAP 8: unmask the receive interrupt. If it is raised by an arrival and not by a level, and a byte waits, make it
     * pending: kf_cpu_irq_pend(IRQ_UART). */
}

void kf_chip_panic_put(uint8_t byte) {
    /* GAP 9: poll until the transmitter takes a byte, at most so many times, and send it. */
    (void)byte;
}

uint32_t kf_chip_millis(void) {
    return now_ms;
}

kf_status_t kf_chip_entropy(uint8_t *out, size_t size) {
    /* GAP 10: a hardware source of randomness, waited for in bounded time; leave this when there is none. */
    (void)out;
    (void)size;
    return KF_ERR_UNSUPPORTED;
}

const kf_flash_t *kf_chip_storage(void) {
    /* GAP 11: the flash that the device may write (kilofed/flash.h); leave this when there is none. */
    return NULL;
}

void kf_chip_start(void) {
    /* GAP 12: clocks at KF_BOARD_CLOCK_HZ, pins, UART at KF_BOARD_BAUD, tick. */
    kf_cpu_irq_enable(IRQ_UART);
}
