/* nRF51822: UART0, TIMER0 as the tick (its Cortex-M0 has no SysTick), RNG.
 *
 * Registers: nRF51 series reference manual 3.0, chapters CLOCK, GPIO, TIMER, RNG and UART. A peripheral's interrupt
 * number is bits 12-16 of its address (chapter "Peripheral interface"). Pins: micro:bit v1 schematic.
 */

#include "board.h"
#include "chip.h"
#include "cpu.h"
#include "line.h"

#define CLOCK_HFCLKSTART KF_REG(0x40000000u)
#define CLOCK_HFCLKSTARTED KF_REG(0x40000100u)

#define UART_STARTRX KF_REG(0x40002000u)
#define UART_STARTTX KF_REG(0x40002008u)
#define UART_RXDRDY KF_REG(0x40002108u)
#define UART_TXDRDY KF_REG(0x4000211Cu)
#define UART_INTENSET KF_REG(0x40002304u)
#define UART_INTENCLR KF_REG(0x40002308u)
#define UART_ENABLE KF_REG(0x40002500u)
#define UART_PSELTXD KF_REG(0x4000250Cu)
#define UART_PSELRXD KF_REG(0x40002514u)
#define UART_RXD KF_REG(0x40002518u)
#define UART_TXD KF_REG(0x4000251Cu)
#define UART_BAUDRATE KF_REG(0x40002524u)

#define TIMER_START KF_REG(0x40008000u)
#define TIMER_COMPARE0 KF_REG(0x40008140u)
#define TIMER_SHORTS KF_REG(0x40008200u)
#define TIMER_INTENSET KF_REG(0x40008304u)
#define TIMER_BITMODE KF_REG(0x40008508u)
#define TIMER_PRESCALER KF_REG(0x40008510u)
#define TIMER_CC0 KF_REG(0x40008540u)

#define RNG_START KF_REG(0x4000D000u)
#define RNG_STOP KF_REG(0x4000D004u)
#define RNG_VALRDY KF_REG(0x4000D100u)
#define RNG_CONFIG KF_REG(0x4000D504u)
#define RNG_VALUE KF_REG(0x4000D508u)

#define GPIO_OUTSET KF_REG(0x50000508u)
#define GPIO_DIRSET KF_REG(0x50000518u)
#define GPIO_PIN_CNF(pin) KF_REG(0x50000700u + 4u * (pin))

enum { PIN_TX = 24, PIN_RX = 25 };
enum { IRQ_UART = 2, IRQ_TIMER0 = 8 };
enum { INT_RXDRDY = 1u << 2, INT_TXDRDY = 1u << 7 };

#define TICK_MS 10u

/* Chapter UART, BAUDRATE: only listed speeds exist; 0x01D7E000 is 115200. */
_Static_assert(KF_BOARD_BAUD == 115200, "uart baud of the board's data file: add its BAUDRATE code here");

static volatile uint32_t now_ms;
static volatile uint8_t tx_busy; /* a byte is in TXD and its TXDRDY has not come */

void kf_tick_irq(void);
static void uart_irq(void);
static void timer_irq(void);

/* Up to the last one used: nothing else is enabled. */
KF_CHIP_VECTORS static const kf_vector_t vectors[] = {[IRQ_UART].handler = uart_irq, [IRQ_TIMER0].handler = timer_irq};

/* Vector 15 is SysTick, which this core lacks. */
void kf_tick_irq(void) {
}

static void timer_irq(void) {
    TIMER_COMPARE0 = 0;
    now_ms += TICK_MS;
}

static void uart_irq(void) {
    if (UART_TXDRDY) {
        UART_TXDRDY = 0;
        tx_busy = 0;
        kf_chip_tx_start();
    }
    while (UART_RXDRDY) {
        if (!kf_line_rx_room()) {
            UART_INTENCLR = INT_RXDRDY; /* the byte stays where it is until kf_chip_rx_resume() */
            return;
        }
        /* Cleared before the read, which frees the place the next byte raises it from. */
        UART_RXDRDY = 0;
        kf_line_rx_put((uint8_t)UART_RXD);
    }
}

void kf_chip_tx_start(void) {
    uint8_t byte;

    /* A second write to TXD before TXDRDY is lost. */
    if (!tx_busy && kf_line_tx_get(&byte)) {
        tx_busy = 1;
        UART_TXD = byte;
    }
}

void kf_chip_rx_resume(void) {
    /* The event is a level: enabling raises the interrupt at once when a byte waits. */
    UART_INTENSET = INT_RXDRDY;
}

void kf_chip_panic_put(uint8_t byte) {
    uint32_t polls;

    for (polls = 0; tx_busy && !UART_TXDRDY && polls < 100000u; polls++) {
    }
    UART_TXDRDY = 0;
    tx_busy = 1;
    UART_TXD = byte;
}

uint32_t kf_chip_millis(void) {
    return now_ms;
}

/* About 0.7 ms a byte with bias correction (product specification, RNG): 6 ms for a nonce. */
kf_status_t kf_chip_entropy(uint8_t *out, size_t size) {
    size_t i;
    uint32_t polls;

    RNG_CONFIG = 1; /* bias correction on */
    RNG_VALRDY = 0;
    RNG_START = 1;
    for (i = 0; i < size; i++) {
        for (polls = 0; !RNG_VALRDY; polls++) {
            if (polls == 100000u) {
                RNG_STOP = 1;
                return KF_ERR_PORT;
            }
        }
        RNG_VALRDY = 0;
        out[i] = (uint8_t)RNG_VALUE;
    }
    RNG_STOP = 1;
    return KF_OK;
}

const kf_flash_t *kf_chip_storage(void) {
    return NULL;
}

void kf_chip_start(void) {
    uint32_t polls;

    /* The UART's baud rate needs the crystal; it starts in under a millisecond. Without it the line is merely off. */
    CLOCK_HFCLKSTARTED = 0;
    CLOCK_HFCLKSTART = 1;
    for (polls = 0; !CLOCK_HFCLKSTARTED && polls < 100000u; polls++) {
    }

    GPIO_OUTSET = 1u << PIN_TX; /* high is idle: before the pin drives, so that no start bit is seen */
    GPIO_DIRSET = 1u << PIN_TX;
    GPIO_PIN_CNF(PIN_RX) = 0; /* input, connected, no pull */
    UART_PSELTXD = PIN_TX;
    UART_PSELRXD = PIN_RX;
    UART_BAUDRATE = 0x01D7E000u;
    UART_ENABLE = 4;
    UART_INTENSET = INT_RXDRDY | INT_TXDRDY;
    UART_STARTTX = 1;
    UART_STARTRX = 1;
    kf_cpu_irq_enable(IRQ_UART);

    TIMER_PRESCALER = 4; /* 16 MHz / 2^4 = 1 MHz */
    TIMER_BITMODE = 0;   /* 16 bits */
    TIMER_CC0 = TICK_MS * 1000u;
    TIMER_SHORTS = 1; /* COMPARE0 clears the counter */
    TIMER_INTENSET = 1u << 16;
    TIMER_START = 1;
    kf_cpu_irq_enable(IRQ_TIMER0);
}
