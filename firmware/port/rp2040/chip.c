/* RP2040: crystal and PLL, UART0, the microsecond timer, SysTick, the ring oscillator's random bit.
 *
 * Registers: RP2040 datasheet, sections 2.14 (resets), 2.15 (clocks), 2.16 (XOSC), 2.17 (ROSC), 2.18 (PLL), 2.19.6 (pins),
 * 4.2 (UART), 4.6 (timer), 4.7 (watchdog, whose tick the timer counts). Address + 0x2000 sets the bits written, + 0x3000
 * clears them (2.1.2). Pins: Pico datasheet, figure "pinout": GP0 and GP1 are UART0. The second core stays in the boot ROM.
 */

#include "board.h"
#include "chip.h"
#include "cpu.h"
#include "line.h"

#define RESETS_CLEAR KF_REG(0x4000F000u) /* RESETS_RESET, bits to clear */
#define RESETS_DONE KF_REG(0x4000C008u)
enum { RESET_IO_BANK0 = 1u << 5, RESET_PADS_BANK0 = 1u << 8, RESET_PLL_SYS = 1u << 12, RESET_TIMER = 1u << 21, RESET_UART0 = 1u << 22 };

#define CLK_REF_CTRL KF_REG(0x40008030u)
#define CLK_REF_SELECTED KF_REG(0x40008038u)
#define CLK_SYS_CTRL KF_REG(0x4000803Cu)
#define CLK_SYS_SELECTED KF_REG(0x40008044u)
#define CLK_PERI_CTRL KF_REG(0x40008048u)

#define XOSC_CTRL KF_REG(0x40024000u)
#define XOSC_STATUS KF_REG(0x40024004u)
#define XOSC_STARTUP KF_REG(0x4002400Cu)

#define PLL_CS KF_REG(0x40028000u)
#define PLL_PWR_CLEAR KF_REG(0x4002B004u)
#define PLL_FBDIV KF_REG(0x40028008u)
#define PLL_PRIM KF_REG(0x4002800Cu)

#define GPIO0_CTRL KF_REG(0x40014004u)
#define GPIO1_CTRL KF_REG(0x4001400Cu)
enum { FUNCTION_UART = 2 };

#define UART_DR KF_REG(0x40034000u)
#define UART_FR KF_REG(0x40034018u)
#define UART_IBRD KF_REG(0x40034024u)
#define UART_FBRD KF_REG(0x40034028u)
#define UART_LCR_H KF_REG(0x4003402Cu)
#define UART_CR KF_REG(0x40034030u)
#define UART_IFLS KF_REG(0x40034034u)
#define UART_IMSC KF_REG(0x40034038u)
#define UART_ICR KF_REG(0x40034044u)
enum { FR_RXFE = 1u << 4, FR_TXFF = 1u << 5 };
enum { INT_RX = 1u << 4, INT_TX = 1u << 5, INT_RX_TIMEOUT = 1u << 6 };

#define TIMER_RAW_LOW KF_REG(0x40054028u)
#define WATCHDOG_TICK KF_REG(0x4005802Cu)
#define ROSC_RANDOMBIT KF_REG(0x4006001Cu)

#define SYST_CSR KF_REG(0xE000E010u)
#define SYST_RVR KF_REG(0xE000E014u)
#define SYST_CVR KF_REG(0xE000E018u)

enum { IRQ_UART0 = 20 };

#define CRYSTAL_HZ 12000000u
#define TICK_US 10000u
/* Of a ready bit. The slowest is the crystal, 1 ms (2.16.3), from a core at 6.5 MHz at most a few thousand looks. */
#define POLLS 100000u

_Static_assert(KF_BOARD_CLOCK_HZ == 125000000u, "clock_hz of the board's data file: change the PLL's dividers below with it");
/* 4.2.7.1: the divisor in 64ths, rounded. */
#define BAUD_64THS ((KF_BOARD_CLOCK_HZ * 4u + KF_BOARD_BAUD / 2u) / KF_BOARD_BAUD)

static volatile uint32_t now_ms;
static uint32_t ticked_us;

void kf_tick_irq(void);
static void uart_irq(void);

KF_CHIP_VECTORS static const kf_vector_t vectors[] = {[IRQ_UART0].handler = uart_irq};

/* SysTick only wakes the core: the timer counts, so that ticks which came while interrupts were masked are not lost. */
void kf_tick_irq(void) {
    const uint32_t us = TIMER_RAW_LOW;

    while (us - ticked_us >= 1000u) {
        ticked_us += 1000u;
        now_ms++;
    }
}

/* The transmit interrupt comes when the FIFO falls through its mark (4.2.6): only wanted while more waits than it holds. */
void kf_chip_tx_start(void) {
    uint8_t byte;

    while (!(UART_FR & FR_TXFF)) {
        if (!kf_line_tx_get(&byte)) {
            UART_IMSC &= ~(uint32_t)INT_TX;
            return;
        }
        UART_DR = byte;
    }
    UART_IMSC |= INT_TX;
}

static void uart_irq(void) {
    UART_ICR = INT_TX;
    kf_chip_tx_start();
    while (!(UART_FR & FR_RXFE)) {
        if (!kf_line_rx_room()) {
            UART_IMSC &= ~(uint32_t)(INT_RX | INT_RX_TIMEOUT); /* the bytes stay where they are until kf_chip_rx_resume() */
            return;
        }
        kf_line_rx_put((uint8_t)UART_DR);
    }
}

void kf_chip_rx_resume(void) {
    /* Masked, the conditions remain: the FIFO filled beyond its mark, or bytes in it for longer than 32 bits take. */
    UART_IMSC |= INT_RX | INT_RX_TIMEOUT;
}

void kf_chip_panic_put(uint8_t byte) {
    uint32_t polls;

    for (polls = 0; (UART_FR & FR_TXFF) && polls < POLLS; polls++) {
    }
    UART_DR = byte;
}

uint32_t kf_chip_millis(void) {
    return now_ms;
}

/* 2.17.5: the random bit is biased and neighbours resemble each other. So of two bits, taken some time apart, only a
 * difference counts, and its direction is the bit (von Neumann). A bit that never changes is no source: an emulator's, or an
 * oscillator that stands. */
kf_status_t kf_chip_entropy(uint8_t *out, size_t size) {
    size_t i;
    uint32_t bits, tries, wait, first;

    for (i = 0; i < size; i++) {
        uint32_t value = 0;

        for (bits = 0, tries = 0; bits < 8u; tries++) {
            if (tries == 4096u) {
                return KF_ERR_PORT;
            }
            first = ROSC_RANDOMBIT & 1u;
            for (wait = 0; wait < 16u; wait++) {
                __asm__ volatile("nop");
            }
            if (first != (ROSC_RANDOMBIT & 1u)) {
                value = value << 1 | first;
                bits++;
            }
        }
        out[i] = (uint8_t)value;
    }
    return KF_OK;
}

const kf_flash_t *kf_chip_storage(void) {
    return NULL;
}

static void wait_for(volatile uint32_t *reg, uint32_t bits) {
    uint32_t polls;

    for (polls = 0; (*reg & bits) != bits && polls < POLLS; polls++) {
    }
}

static void start_clocks(void) {
    XOSC_STARTUP = 47;       /* 2.16.3: 12 MHz / 256 for a millisecond */
    XOSC_CTRL = 0x00FABAA0u; /* enable, 1 to 15 MHz */
    wait_for(&XOSC_STATUS, 1u << 31);

    /* Off the PLL before it is touched, if the fault handler starts all this again; CLK_SYS SRC 0 is clk_ref. */
    CLK_REF_CTRL = 2; /* XOSC */
    wait_for(&CLK_REF_SELECTED, 1u << 2);
    CLK_SYS_CTRL = 0;
    wait_for(&CLK_SYS_SELECTED, 1u << 0);

    /* 2.18.2: 12 MHz / 1 x 125 = 1500 MHz, / 6 / 2 = 125 MHz. */
    RESETS_CLEAR = RESET_PLL_SYS;
    wait_for(&RESETS_DONE, RESET_PLL_SYS);
    PLL_CS = 1;
    PLL_FBDIV = 125;
    PLL_PWR_CLEAR = 1u << 0 | 1u << 5; /* PLL and VCO on */
    wait_for(&PLL_CS, 1u << 31);
    PLL_PRIM = 6u << 16 | 2u << 12;
    PLL_PWR_CLEAR = 1u << 3; /* post dividers on */

    CLK_SYS_CTRL = 1; /* AUX 0: the PLL */
    wait_for(&CLK_SYS_SELECTED, 1u << 1);
    CLK_PERI_CTRL = 1u << 11; /* enable; AUX 0: clk_sys */
    WATCHDOG_TICK = 1u << 9 | CRYSTAL_HZ / 1000000u;
}

void kf_chip_start(void) {
    const uint32_t blocks = RESET_IO_BANK0 | RESET_PADS_BANK0 | RESET_TIMER | RESET_UART0;

    start_clocks();
    RESETS_CLEAR = blocks;
    wait_for(&RESETS_DONE, blocks);

    UART_CR = 0;
    UART_IBRD = BAUD_64THS / 64u;
    UART_FBRD = BAUD_64THS % 64u;
    UART_LCR_H = 3u << 5 | 1u << 4; /* 8 bits, FIFOs; this write takes the divisor over */
    UART_IFLS = 0;                  /* marks: an eighth to receive, an eighth left to send */
    UART_IMSC = INT_RX | INT_RX_TIMEOUT;
    UART_CR = 1u << 9 | 1u << 8 | 1u << 0;
    GPIO0_CTRL = FUNCTION_UART;
    GPIO1_CTRL = FUNCTION_UART;
    kf_cpu_irq_enable(IRQ_UART0);

    ticked_us = TIMER_RAW_LOW;
    SYST_RVR = KF_BOARD_CLOCK_HZ / (1000000u / TICK_US) - 1u;
    SYST_CVR = 0;
    SYST_CSR = 7; /* the core's clock, its interrupt, on */
}
