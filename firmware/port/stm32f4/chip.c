/* STM32F405: USART1 on PB6 and PB7, the core's SysTick, RNG.
 *
 * Registers: reference manual RM0090, chapters RCC (7), GPIO (8), RNG (24), USART (30), flash interface (3). Clocks come from the
 * internal oscillator, because boards differ in their crystals: HSI 16 MHz / 16 * 336 / 2 = 168 MHz, and 48 MHz for the RNG.
 * It is within 1 % at room temperature (datasheet DS8626, HSI oscillator), which a UART bears.
 *
 * QEMU has no RCC, GPIO and RNG here: they read 0, so every wait is bounded, and what has not answered is left as it was.
 */

#include "board.h"
#include "chip.h"
#include "cpu.h"
#include "line.h"

#define RCC_CR KF_REG(0x40023800u)
#define RCC_PLLCFGR KF_REG(0x40023804u)
#define RCC_CFGR KF_REG(0x40023808u)
#define RCC_AHB1ENR KF_REG(0x40023830u)
#define RCC_AHB2ENR KF_REG(0x40023834u)
#define RCC_APB2ENR KF_REG(0x40023844u)
#define FLASH_ACR KF_REG(0x40023C00u)

#define GPIOB_MODER KF_REG(0x40020400u)
#define GPIOB_PUPDR KF_REG(0x4002040Cu)
#define GPIOB_AFRL KF_REG(0x40020420u)

#define USART_SR KF_REG(0x40011000u)
#define USART_DR KF_REG(0x40011004u)
#define USART_BRR KF_REG(0x40011008u)
#define USART_CR1 KF_REG(0x4001100Cu)

#define RNG_CR KF_REG(0x50060800u)
#define RNG_SR KF_REG(0x50060804u)
#define RNG_DR KF_REG(0x50060808u)

/* SysTick, Armv7-M ARM B3.3. */
#define SYST_CSR KF_REG(0xE000E010u)
#define SYST_RVR KF_REG(0xE000E014u)
#define SYST_CVR KF_REG(0xE000E018u)

enum { IRQ_USART1 = 37 };
enum { CR_PLLON = 1 << 24, CR_PLLRDY = 1 << 25 };
enum { CFGR_SW_PLL = 2, CFGR_SWS = 3 << 2, CFGR_SWS_PLL = 2 << 2 };
enum { SR_ORE = 1 << 3, SR_RXNE = 1 << 5, SR_TXE = 1 << 7 };
enum { CR1_RE = 1 << 2, CR1_TE = 1 << 3, CR1_RXNEIE = 1 << 5, CR1_TXEIE = 1 << 7, CR1_UE = 1 << 13 };
enum { RNG_RNGEN = 1 << 2, RNG_DRDY = 1, RNG_ERRORS = 3 << 1 };

#define TICK_MS 10u
#define POLLS 100000u /* of a ready bit: milliseconds, where the manual says microseconds */

_Static_assert(KF_BOARD_CLOCK_HZ == 168000000, "clock_hz of the board's data file: the PLL below makes 168 MHz");

static volatile uint32_t now_ms;

void kf_tick_irq(void);
static void usart_irq(void);

/* Up to the last one used: nothing else is enabled. */
KF_CHIP_VECTORS static const kf_vector_t vectors[] = {[IRQ_USART1].handler = usart_irq};

void kf_tick_irq(void) {
    now_ms += TICK_MS;
}

static void usart_irq(void) {
    uint32_t state;

    while (((state = USART_SR) & (SR_RXNE | SR_ORE)) != 0) {
        if ((state & SR_RXNE) == 0) {
            (void)USART_DR; /* an overrun alone: reading SR and then DR clears it (30.6.1) */
        } else if (!kf_line_rx_room()) {
            USART_CR1 &= ~(uint32_t)CR1_RXNEIE; /* the byte stays where it is until kf_chip_rx_resume() */
            break;
        } else {
            kf_line_rx_put((uint8_t)USART_DR);
        }
    }
    if (USART_CR1 & CR1_TXEIE) {
        kf_chip_tx_start();
    }
}

void kf_chip_tx_start(void) {
    uint8_t byte;

    while (USART_SR & SR_TXE) {
        if (!kf_line_tx_get(&byte)) {
            USART_CR1 &= ~(uint32_t)CR1_TXEIE; /* a level: it would be raised for ever */
            return;
        }
        USART_DR = byte;
    }
    USART_CR1 |= CR1_TXEIE;
}

void kf_chip_rx_resume(void) {
    /* The flag is a level: enabling raises the interrupt at once when a byte waits. */
    USART_CR1 |= CR1_RXNEIE;
}

void kf_chip_panic_put(uint8_t byte) {
    uint32_t polls;

    for (polls = 0; !(USART_SR & SR_TXE) && polls < POLLS; polls++) {
    }
    USART_DR = byte;
}

uint32_t kf_chip_millis(void) {
    return now_ms;
}

/* A word takes 40 periods of the 48 MHz clock (24.3). */
kf_status_t kf_chip_entropy(uint8_t *out, size_t size) {
    size_t i;
    uint32_t polls, word = 0;

    RCC_AHB2ENR |= 1u << 6;
    RNG_CR = RNG_RNGEN;
    for (i = 0; i < size; i++) {
        if (i % 4u == 0) {
            for (polls = 0; (RNG_SR & (RNG_DRDY | RNG_ERRORS)) != RNG_DRDY; polls++) {
                if (polls == 1000u) { /* clock or seed errors end here too */
                    RNG_CR = 0;
                    return KF_ERR_PORT;
                }
            }
            word = RNG_DR;
        }
        out[i] = (uint8_t)(word >> (i % 4u * 8u));
    }
    RNG_CR = 0;
    return KF_OK;
}

const kf_flash_t *kf_chip_storage(void) {
    return NULL;
}

static void start_clocks(void) {
    uint32_t polls;

    if ((RCC_CFGR & CFGR_SWS) == CFGR_SWS_PLL) {
        return; /* the fault handler starts the chip again */
    }
    FLASH_ACR = 0x705u;                                 /* 5 wait states for 168 MHz at 2.7 V or more (table 10), caches, prefetch */
    RCC_PLLCFGR = 7u << 24 | 0u << 16 | 336u << 6 | 16u; /* Q 7: 48 MHz; P 2; N 336; M 16; source HSI */
    RCC_CR |= CR_PLLON;
    for (polls = 0; !(RCC_CR & CR_PLLRDY) && polls < POLLS; polls++) {
    }
    RCC_CFGR = 4u << 13 | 5u << 10; /* APB2 a half, APB1 a quarter of it: 84 and 42 MHz at most */
    if (RCC_CR & CR_PLLRDY) {
        RCC_CFGR |= CFGR_SW_PLL;
        for (polls = 0; (RCC_CFGR & CFGR_SWS) != CFGR_SWS_PLL && polls < POLLS; polls++) {
        }
    }
}

void kf_chip_start(void) {
    start_clocks();

    RCC_AHB1ENR |= 1u << 1; /* GPIOB */
    RCC_APB2ENR |= 1u << 4; /* USART1 */
    (void)RCC_APB2ENR;      /* a delay of two cycles after enabling */
    GPIOB_PUPDR = (GPIOB_PUPDR & ~(15u << 12)) | 5u << 12;    /* pull-ups: an open line is idle */
    GPIOB_AFRL = (GPIOB_AFRL & ~(0xFFu << 24)) | 0x77u << 24; /* PB6, PB7: AF7, USART1 (DS8626, alternate functions) */
    GPIOB_MODER = (GPIOB_MODER & ~(15u << 12)) | 10u << 12;
    USART_BRR = (KF_BOARD_CLOCK_HZ / 2u + KF_BOARD_BAUD / 2u) / KF_BOARD_BAUD; /* of APB2; 30.3.4, oversampling by 16 */
    USART_CR1 = CR1_UE | CR1_TE | CR1_RE | CR1_RXNEIE;
    kf_cpu_irq_enable(IRQ_USART1);

    SYST_RVR = KF_BOARD_CLOCK_HZ / 1000u * TICK_MS - 1u; /* 1 679 999, of 24 bits */
    SYST_CVR = 0;
    SYST_CSR = 7u; /* core clock, interrupt, on */
}
