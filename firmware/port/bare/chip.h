/* What a chip family gives to a bare-metal port: seven functions and a table of interrupt vectors.
 *
 * port/mps2 and port/nrf51 are two of them; port/template is one with every gap marked. All are called from the main
 * loop unless it says otherwise. The core's own parts (startup, vectors, faults, sleeping, the UART's buffers) are
 * shared and lie beside this file.
 */
#ifndef KF_BARE_CHIP_H
#define KF_BARE_CHIP_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/flash.h"
#include "kilofed/status.h"

/* An entry of the vector table: a handler, or an address (the initial stack pointer; the image's header). */
typedef union kf_vector {
    void (*handler)(void);
    const void *address;
} kf_vector_t;

/* Placed behind the sixteen system vectors: the chip's own interrupts, from IRQ 0. */
#define KF_CHIP_VECTORS __attribute__((section(".vectors.chip"), used))

/* Clocks, a tick of at least 50 and at most 1000 Hz, the UART at KF_BOARD_BAUD, its interrupts in the NVIC. Called
 * once, and again by the fault handler, with interrupts masked by PRIMASK; the caller unmasks them. Must not wait
 * unbounded for a ready bit. */
void kf_chip_start(void);

/* Milliseconds since kf_chip_start(), wrapping at 2^32; steps of up to 20 ms are fine. */
uint32_t kf_chip_millis(void);

/* Bytes wait in the transmit ring (kf_line_tx_get): start sending if the UART is idle. Called with interrupts
 * masked. */
void kf_chip_tx_start(void);

/* The receive ring has room again after kf_line_rx_put() refused a byte, which the handler then left in the UART, its
 * interrupt masked: go on receiving. Called with interrupts masked, and also when receiving never stopped. */
void kf_chip_rx_resume(void);

/* Send one byte by polling, for the fault handler: interrupts are masked for good and nothing else runs. Must give up
 * after a bounded number of polls. */
void kf_chip_panic_put(uint8_t byte);

/* Fill `out` with random bytes of a hardware source. KF_OK; KF_ERR_UNSUPPORTED: the chip has none; KF_ERR_PORT: it did
 * not answer in bounded time. */
KF_MUST_CHECK kf_status_t kf_chip_entropy(uint8_t *out, size_t size);

/* The flash that the device may write: the pages of the data file's `storage` entry. NULL: the board has none, and a device
 * forgets at a power cut what it learnt. Called after kf_chip_start(). */
const kf_flash_t *kf_chip_storage(void);

/* Reset handler's last step; main.c. Never returns. */
void kf_main(void);

/* Every vector that nothing else handles: prints where the program was and stops (fault.c). */
void kf_fault(void);

#endif
