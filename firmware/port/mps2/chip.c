/* Arm MPS2 and MPS3 (AN385, AN386, AN500, AN505, AN547): CMSDK APB UART 0 and the core's SysTick.
 *
 * Registers: Cortex-M System Design Kit TRM (DDI 0479), "APB UART". Its address and its receive interrupt come from the
 * board's data file; the transmit interrupt is the next one on all of them. The Armv8-M cores start in the secure state, in
 * which every interrupt is theirs until somebody gives it away (Armv8-M ARM, NVIC_ITNS), and nobody here does.
 */

#include "board.h"
#include "chip.h"
#include "cpu.h"
#include "line.h"

#define UART KF_BOARD_UART_ADDRESS
#define UART_DATA KF_REG(UART + 0x00u)
#define UART_STATE KF_REG(UART + 0x04u)
#define UART_CTRL KF_REG(UART + 0x08u)
#define UART_INTCLEAR KF_REG(UART + 0x0Cu)
#define UART_BAUDDIV KF_REG(UART + 0x10u)

enum { STATE_TX_FULL = 1, STATE_RX_FULL = 2 };
enum { CTRL_TX = 1, CTRL_RX = 2, CTRL_TX_IRQ = 4, CTRL_RX_IRQ = 8 };
enum { INT_TX = 1, INT_RX = 2 };
enum { IRQ_RX = KF_BOARD_UART_IRQ, IRQ_TX = IRQ_RX + 1 };

/* SysTick, Armv7-M ARM B3.3. */
#define SYST_CSR KF_REG(0xE000E010u)
#define SYST_RVR KF_REG(0xE000E014u)
#define SYST_CVR KF_REG(0xE000E018u)

/* Each tick wakes the core; 32 emulated boards at 100 Hz take a quarter of a PC's core, at 1 kHz all of it. */
#define TICK_MS 10u

/* The UART wants a divider of at least 16 (DDI 0479, BAUDDIV). */
_Static_assert(KF_BOARD_UART_CLOCK_HZ / KF_BOARD_BAUD >= 16, "baud of the board's data file is too fast for its clock");
/* SysTick's reload is a 24-bit register. */
_Static_assert(KF_BOARD_CLOCK_HZ / 1000u * TICK_MS - 1u < (1u << 24), "clock_hz is too fast for a tick of TICK_MS");

static volatile uint32_t now_ms;

void kf_tick_irq(void);
void kf_ether_irq(void); /* port/lan9118, in images that reach their host over Ethernet */
static void rx_irq(void);
static void tx_irq(void);

/* Up to the last one used: nothing else is enabled. */
KF_CHIP_VECTORS static const kf_vector_t vectors[] = {
    [IRQ_RX].handler = rx_irq,
    [IRQ_TX].handler = tx_irq,
#if KF_BOARD_ETHERNET_ADDRESS
    [KF_BOARD_ETHERNET_IRQ].handler = kf_ether_irq,
#endif
};

void kf_tick_irq(void) {
    now_ms += TICK_MS;
}

static void rx_irq(void) {
    while (UART_STATE & STATE_RX_FULL) {
        if (!kf_line_rx_room()) {
            /* The byte stays where it is until kf_chip_rx_resume(). What is latched already must go too, or it raises the
             * interrupt for ever and nobody comes to make room. */
            UART_CTRL = CTRL_TX | CTRL_RX | CTRL_TX_IRQ;
            UART_INTCLEAR = INT_RX;
            return;
        }
        /* Cleared before the read: a byte that arrives in between raises it anew. */
        UART_INTCLEAR = INT_RX;
        kf_line_rx_put((uint8_t)UART_DATA);
    }
    UART_INTCLEAR = INT_RX;
    /* A byte may have come between the loop's last look and that clear; its interrupt would be lost. */
    if (UART_STATE & STATE_RX_FULL) {
        kf_cpu_irq_pend(IRQ_RX);
    }
}

/* The interrupt says that the transmit buffer became empty. */
static void tx_irq(void) {
    UART_INTCLEAR = INT_TX;
    kf_chip_tx_start();
}

void kf_chip_tx_start(void) {
    uint8_t byte;

    while (!(UART_STATE & STATE_TX_FULL) && kf_line_tx_get(&byte)) {
        UART_DATA = byte;
    }
}

void kf_chip_rx_resume(void) {
    UART_CTRL = CTRL_TX | CTRL_RX | CTRL_TX_IRQ | CTRL_RX_IRQ;
    /* The interrupt is raised by an arrival, and the waiting byte has arrived long ago. */
    if (UART_STATE & STATE_RX_FULL) {
        kf_cpu_irq_pend(IRQ_RX);
    }
}

void kf_chip_panic_put(uint8_t byte) {
    uint32_t polls;

    for (polls = 0; (UART_STATE & STATE_TX_FULL) && polls < 1000000u; polls++) {
    }
    UART_DATA = byte;
}

uint32_t kf_chip_millis(void) {
    return now_ms;
}

/* Neither the application note nor QEMU's model has a source of randomness. */
kf_status_t kf_chip_entropy(uint8_t *out, size_t size) {
    (void)out;
    (void)size;
    return KF_ERR_UNSUPPORTED;
}

const kf_flash_t *kf_chip_storage(void) {
    return NULL;
}

void kf_chip_start(void) {
    UART_BAUDDIV = KF_BOARD_UART_CLOCK_HZ / KF_BOARD_BAUD; /* first: QEMU's model refuses to transmit below 16 */
    UART_CTRL = CTRL_TX | CTRL_RX | CTRL_TX_IRQ | CTRL_RX_IRQ;
    kf_cpu_irq_enable(IRQ_RX);
    kf_cpu_irq_enable(IRQ_TX);

    SYST_RVR = KF_BOARD_CLOCK_HZ / 1000u * TICK_MS - 1u;
    SYST_CVR = 0;
    SYST_CSR = 7u; /* core clock, interrupt, on */
}
