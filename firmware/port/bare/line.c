#include "line.h"

#include "board.h"
#include "chip.h"
#include "cpu.h"

_Static_assert((KF_BOARD_LINE_RING & (KF_BOARD_LINE_RING - 1u)) == 0, "rx_ring of the board's data file must be a power of two");
_Static_assert((KF_BOARD_TX_RING & (KF_BOARD_TX_RING - 1u)) == 0, "tx_ring of the board's data file must be a power of two");

static uint8_t rx_bytes[KF_BOARD_LINE_RING];
static uint8_t tx_bytes[KF_BOARD_TX_RING];
static volatile uint32_t rx_in, rx_out; /* written by the handler, by the loop */
static volatile uint32_t tx_in, tx_out; /* written by the loop, by the handler */
static volatile uint8_t tx_refused;     /* the last write did not fit whole */

size_t kf_line_read(uint8_t *out, size_t size) {
    size_t taken = 0;
    uint32_t position = rx_out;

    while (taken < size && position != rx_in) {
        out[taken++] = rx_bytes[position++ & (KF_BOARD_LINE_RING - 1u)];
    }
    if (taken > 0) {
        uint32_t mask = kf_cpu_mask();

        rx_out = position;
        kf_chip_rx_resume();
        kf_cpu_unmask(mask);
    }
    return taken;
}

size_t kf_line_write(const uint8_t *bytes, size_t size) {
    size_t taken = 0;
    uint32_t position = tx_in;
    uint32_t mask;

    while (taken < size && position - tx_out < KF_BOARD_TX_RING) {
        tx_bytes[position++ & (KF_BOARD_TX_RING - 1u)] = bytes[taken++];
    }
    mask = kf_cpu_mask();
    tx_in = position;
    tx_refused = taken < size;
    kf_chip_tx_start();
    kf_cpu_unmask(mask);
    return taken;
}

int kf_line_pending(void) {
    return rx_in != rx_out || (tx_refused && tx_in - tx_out < KF_BOARD_TX_RING);
}

int kf_line_rx_room(void) {
    return rx_in - rx_out < KF_BOARD_LINE_RING;
}

void kf_line_rx_put(uint8_t byte) {
    uint32_t position = rx_in;

    rx_bytes[position & (KF_BOARD_LINE_RING - 1u)] = byte;
    rx_in = position + 1u;
}

int kf_line_tx_get(uint8_t *byte) {
    uint32_t position = tx_out;

    if (position == tx_in) {
        return 0;
    }
    *byte = tx_bytes[position & (KF_BOARD_TX_RING - 1u)];
    tx_out = position + 1u;
    return 1;
}
