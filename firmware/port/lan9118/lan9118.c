/* SMSC LAN9118 (and the LAN9220 of the MPS boards, which has the same registers), as the board's data file places it.
 *
 * Registers: SMSC LAN9118 datasheet, rev. 1.5, chapter 5; frames' formats in 3.11 (transmit) and 3.12 (receive). Words go
 * through two FIFOs, one access a word; nothing is copied by DMA.
 */

#include "board.h"
#include "cpu.h"
#include "ether.h"

#define REG(offset) KF_REG(KF_BOARD_ETHERNET_ADDRESS + (offset))
#define RX_DATA REG(0x00u)
#define TX_DATA REG(0x20u)
#define RX_STATUS REG(0x40u)
#define TX_STATUS REG(0x48u)
#define IRQ_CFG REG(0x54u)
#define INT_STS REG(0x58u) /* write 1 to clear */
#define INT_EN REG(0x5Cu)
#define BYTE_TEST REG(0x64u)
#define FIFO_INT REG(0x68u)
#define RX_CFG REG(0x6Cu)
#define TX_CFG REG(0x70u)
#define HW_CFG REG(0x74u)
#define RX_FIFO_INF REG(0x7Cu)
#define TX_FIFO_INF REG(0x80u)
#define MAC_CMD REG(0xA4u)
#define MAC_DATA REG(0xA8u)

enum { POLLS = 100000, FRAMES_A_LOOK = 16 };
#define BYTE_TEST_VALUE 0x87654321u
#define HW_CFG_RESET 1u
#define HW_CFG_STORE 0x00050000u /* MBO as after reset, and 5 KB of the 16 KB FIFO memory for sending */
#define INT_RX_STATUS 8u         /* RSFL: more received frames than FIFO_INT says, which is 0 */
#define IRQ_CFG_ON 0x111u        /* IRQ_EN, active high, push-pull: what the boards' interrupt controllers expect */
#define TX_CFG_ON 2u
#define RX_ERROR 0x8000u
#define TX_FIRST_LAST 0x3000u

/* MAC registers, reached through MAC_CMD, and bits of them. */
enum { MAC_CR = 1, MAC_ADDRH = 2, MAC_ADDRL = 3, MAC_MII_ACC = 6, MAC_MII_DATA = 7 };
#define MAC_CMD_BUSY 0x80000000u
#define MAC_CMD_READ 0x40000000u
#define MAC_CR_ON 0x0010000Cu /* full duplex, transmitter and receiver on; frames of others are filtered out */
#define MII_BUSY 1u
#define PHY 1u             /* the internal one */
#define PHY_STATUS 1u      /* IEEE 802.3, 22.2.4.2: basic status */
#define PHY_STATUS_UP 0x4u /* latches low: once read, the second read is now */

static volatile uint8_t arrived;
static uint32_t tx_word, tx_bytes; /* of the word being put together */
static size_t tx_left;             /* bytes of the frame that are still to come */

void kf_ether_irq(void);

/* Off until kf_ether_receive() has emptied the FIFO: the line stays up as long as there is a frame. */
void kf_ether_irq(void) {
    INT_EN = 0;
    arrived = 1;
}

int kf_ether_pending(void) {
    return arrived != 0;
}

static int mac_ready(void) {
    uint32_t polls;

    for (polls = 0; MAC_CMD & MAC_CMD_BUSY; polls++) {
        if (polls == POLLS) {
            return 0;
        }
    }
    return 1;
}

static uint32_t mac_read(uint32_t reg) {
    MAC_CMD = MAC_CMD_BUSY | MAC_CMD_READ | reg;
    return mac_ready() ? MAC_DATA : 0;
}

static void mac_write(uint32_t reg, uint32_t value) {
    MAC_DATA = value;
    MAC_CMD = MAC_CMD_BUSY | reg;
    (void)mac_ready();
}

static uint32_t phy_read(uint32_t reg) {
    uint32_t polls;

    mac_write(MAC_MII_ACC, PHY << 11 | reg << 6 | MII_BUSY);
    for (polls = 0; mac_read(MAC_MII_ACC) & MII_BUSY; polls++) {
        if (polls == POLLS) {
            return 0;
        }
    }
    return mac_read(MAC_MII_DATA);
}

int kf_ether_link(void) {
    (void)phy_read(PHY_STATUS);
    return (phy_read(PHY_STATUS) & PHY_STATUS_UP) != 0;
}

/* The address that the controller read from its EEPROM at reset; without one it has all ones, and gets the caller's. */
static void mac_address(uint8_t mac[6]) {
    const uint32_t low = mac_read(MAC_ADDRL), high = mac_read(MAC_ADDRH) & 0xFFFFu;

    if ((low & 1u) == 0 && (low | high) != 0) { /* no group address, and not zero */
        mac[0] = (uint8_t)low;
        mac[1] = (uint8_t)(low >> 8);
        mac[2] = (uint8_t)(low >> 16);
        mac[3] = (uint8_t)(low >> 24);
        mac[4] = (uint8_t)high;
        mac[5] = (uint8_t)(high >> 8);
        return;
    }
    mac_write(MAC_ADDRL, (uint32_t)mac[0] | (uint32_t)mac[1] << 8 | (uint32_t)mac[2] << 16 | (uint32_t)mac[3] << 24);
    mac_write(MAC_ADDRH, (uint32_t)mac[4] | (uint32_t)mac[5] << 8);
}

kf_status_t kf_ether_start(uint8_t mac[6]) {
    uint32_t polls;

    if (BYTE_TEST != BYTE_TEST_VALUE) {
        return KF_ERR_PORT;
    }
    HW_CFG = HW_CFG_RESET;
    for (polls = 0; HW_CFG & HW_CFG_RESET; polls++) {
        if (polls == POLLS) {
            return KF_ERR_PORT;
        }
    }
    HW_CFG = HW_CFG_STORE;
    mac_address(mac);
    FIFO_INT = 0;
    RX_CFG = 0;
    TX_CFG = TX_CFG_ON;
    INT_EN = 0;
    INT_STS = 0xFFFFFFFFu;
    IRQ_CFG = IRQ_CFG_ON;
    mac_write(MAC_CR, MAC_CR_ON);
    arrived = 0;
    INT_EN = INT_RX_STATUS;
    kf_cpu_irq_enable(KF_BOARD_ETHERNET_IRQ);
    return KF_OK;
}

/* Take a frame of `words` words off the FIFO, keeping the first `keep`. */
static void take(uint32_t *frame, size_t keep, size_t words) {
    size_t i;

    for (i = 0; i < words; i++) {
        const uint32_t word = RX_DATA;

        if (i < keep) {
            frame[i] = word;
        }
    }
}

size_t kf_ether_receive(void *frame, size_t size) {
    uint32_t dropped;

    /* A look is bounded, so that a flood of damaged frames does not keep the device from its work. */
    for (dropped = 0; dropped < FRAMES_A_LOOK; dropped++) {
        uint32_t status;
        size_t bytes;

        if ((RX_FIFO_INF >> 16 & 0xFFu) == 0) {
            if (!arrived) {
                return 0;
            }
            /* The flag falls before the last look: what comes after that raises it anew. */
            arrived = 0;
            INT_STS = INT_RX_STATUS;
            INT_EN = INT_RX_STATUS;
            if ((RX_FIFO_INF >> 16 & 0xFFu) == 0) {
                return 0;
            }
            INT_EN = 0;
            arrived = 1;
        }
        status = RX_STATUS;
        bytes = status >> 16 & 0x3FFFu; /* with the checksum, four bytes */
        if ((status & RX_ERROR) == 0 && bytes > 4 && bytes - 4 <= size) {
            take(frame, (bytes - 4 + 3) / 4, (bytes + 3) / 4);
            return bytes - 4;
        }
        take(frame, 0, (bytes + 3) / 4);
    }
    return 0;
}

kf_status_t kf_ether_send(size_t size) {
    while ((TX_FIFO_INF >> 16 & 0xFFu) != 0) {
        (void)TX_STATUS; /* what became of earlier frames: nobody asks */
    }
    /* Two command words, and the frame in whole words. */
    if ((TX_FIFO_INF & 0xFFFFu) < 8u + (size + 3u) / 4u * 4u) {
        return KF_ERR_BUSY;
    }
    TX_DATA = TX_FIRST_LAST | (uint32_t)size;
    TX_DATA = (uint32_t)size;
    tx_word = tx_bytes = 0;
    tx_left = size;
    return KF_OK;
}

void kf_ether_put(const void *bytes, size_t size) {
    const uint8_t *from = bytes;

    for (; size > 0; size--) {
        tx_word |= (uint32_t)*from++ << 8u * tx_bytes++;
        tx_left--;
        if (tx_bytes == 4 || tx_left == 0) {
            TX_DATA = tx_word;
            tx_word = tx_bytes = 0;
        }
    }
}
