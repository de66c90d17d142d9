/* The pipe that is one TCP connection to the host, made again for as long as it takes.
 *
 * What lwIP receives is copied into a ring at once and acknowledged when the device has read it: so the window is the ring, and
 * lwIP needs no buffers for what waits. A connection that nothing comes over, not even an acknowledgement of a probe, is
 * given up after IDLE_MS + PROBES * PROBE_MS; anything shorter TCP bridges by itself.
 */
#include "pipe.h"

#include <string.h>

#include "board.h"
#include "chip.h"
#include "ether.h"
#include "line.h"
#include "lwip/tcp.h"
#include "netif.h"
#include "say.h"

#define CONNECT_MS 5000u /* for the host to answer: a connection over a bad radio takes one */
#define IDLE_MS 10000u   /* of silence, longer than a session's, before TCP asks whether anybody is there */
#define PROBE_MS 2000u
#define PROBES 5u
#define BACKOFF_FIRST_MS 500u
#define BACKOFF_LAST_MS 16000u

_Static_assert((KF_BOARD_RX_RING & (KF_BOARD_RX_RING - 1u)) == 0, "rx_ring of the board's data file must be a power of two");
_Static_assert(KF_BOARD_RX_RING >= 2 * TCP_MSS, "rx_ring: with a window of less than two segments TCP stops and goes");

typedef enum { DOWN, CONNECTING, UP } state_t;

static kf_network_t network;
static ip_addr_t host;
static struct tcp_pcb *connection; /* NULL when DOWN */
static state_t state;
static uint32_t since_ms;   /* of this state */
static uint32_t wait_ms;    /* DOWN: until the next attempt */
static uint32_t backoff_ms; /* what the next wait is made of */
static uint8_t ring[KF_BOARD_RX_RING];
static uint32_t ring_in, ring_out; /* run freely; in - out bytes wait */
static uint8_t refused, room;      /* the last write was not taken whole; acknowledgements came since */

static uint32_t waiting(void) {
    return ring_in - ring_out;
}

/* Doubling, and up to a half of it by chance, so that a fleet does not come back in one instant. */
static void down(const char *why) {
    kf_say(why, host.addr, network.port);
    connection = NULL;
    state = DOWN;
    since_ms = kf_chip_millis();
    wait_ms = backoff_ms + kf_net_random() % (backoff_ms / 2u + 1u);
    backoff_ms = backoff_ms * 2u > BACKOFF_LAST_MS ? BACKOFF_LAST_MS : backoff_ms * 2u;
    refused = 0;
}

/* lwIP has let go of the connection: reset, too many repetitions, no answer to probes. */
static void on_error(void *context, err_t error) {
    (void)context;
    (void)error;
    down(state == UP ? "connection lost:" : "no connection to");
}

static err_t on_receive(void *context, struct tcp_pcb *pcb, struct pbuf *p, err_t error) {
    const struct pbuf *part;
    uint16_t i;

    (void)context;
    (void)error;
    if (p == NULL) { /* the host has closed its side: so do we */
        tcp_recv(pcb, NULL);
        tcp_sent(pcb, NULL);
        tcp_err(pcb, NULL);
        down("connection closed by");
        if (tcp_close(pcb) != ERR_OK) {
            tcp_abort(pcb);
            return ERR_ABRT;
        }
        return ERR_OK;
    }
    /* The window is what the ring has free, so this holds; lwIP keeps what is refused, and offers it again. */
    if (p->tot_len > KF_BOARD_RX_RING - waiting()) {
        return ERR_MEM;
    }
    for (part = p; part != NULL; part = part->next) {
        for (i = 0; i < part->len; i++) {
            ring[ring_in++ & (KF_BOARD_RX_RING - 1u)] = ((const uint8_t *)part->payload)[i];
        }
    }
    pbuf_free(p);
    backoff_ms = BACKOFF_FIRST_MS; /* somebody is there */
    return ERR_OK;
}

static err_t on_sent(void *context, struct tcp_pcb *pcb, u16_t size) {
    (void)context;
    (void)pcb;
    (void)size;
    room = 1;
    return ERR_OK;
}

static err_t on_connected(void *context, struct tcp_pcb *pcb, err_t error) {
    (void)context;
    (void)pcb;
    (void)error; /* always ERR_OK (tcp.h) */
    state = UP;
    since_ms = kf_chip_millis();
    kf_say("connected to", host.addr, network.port);
    return ERR_OK;
}

static void dial(void) {
    ring_in = ring_out = 0; /* the rest of a cut connection: the host says it again */
    connection = tcp_new();
    if (connection == NULL) {
        down("no memory to reach");
        return;
    }
    tcp_recv(connection, on_receive);
    tcp_sent(connection, on_sent);
    tcp_err(connection, on_error);
    tcp_nagle_disable(connection); /* frames are small and answered: waiting to fill a packet costs a round trip each */
    ip_set_option(connection, SOF_KEEPALIVE);
    connection->keep_idle = IDLE_MS;
    connection->keep_intvl = PROBE_MS;
    connection->keep_cnt = PROBES;
    state = CONNECTING;
    since_ms = kf_chip_millis();
    if (tcp_connect(connection, &host, network.port, on_connected) != ERR_OK) {
        tcp_abort(connection); /* which calls on_error */
    }
}

const char *kf_pipe_start(const kf_identity_t *identity) {
    if (kf_network_read(&network, (const uint8_t *)(KF_BOARD_SETTINGS_ADDRESS + KF_NETWORK_OFFSET)) != KF_OK) {
        return "no network settings: flash this board with `kilofed flash --link ethernet --host HOST:PORT`\r\n";
    }
    memcpy(&host.addr, network.host, sizeof host.addr);
    if (kf_netif_start(&network, identity) != KF_OK) {
        return "no Ethernet controller: this image is not for this board\r\n";
    }
    backoff_ms = BACKOFF_FIRST_MS;
    return NULL;
}

uint32_t kf_pipe_poll(void) {
    uint8_t typed[16];
    uint32_t wait, left;

    while (kf_line_read(typed, sizeof typed) > 0) {
        /* the UART is for reading along only */
    }
    if (state == UP && tcp_output(connection) != ERR_OK) {
        /* lwIP's timer tries again */
    }
    wait = kf_netif_poll();
    if (state == CONNECTING && kf_chip_millis() - since_ms >= CONNECT_MS) {
        tcp_abort(connection);
    }
    if (state == DOWN && kf_netif_up()) {
        const uint32_t waited = kf_chip_millis() - since_ms;

        if (waited >= wait_ms) {
            dial();
        } else {
            left = wait_ms - waited;
            wait = left < wait ? left : wait;
        }
    }
    return wait;
}

size_t kf_pipe_read(uint8_t *out, size_t size) {
    size_t taken = 0;

    while (taken < size && waiting() > 0) {
        out[taken++] = ring[ring_out++ & (KF_BOARD_RX_RING - 1u)];
    }
    if (taken > 0 && state == UP) {
        tcp_recved(connection, (u16_t)taken);
    }
    return taken;
}

size_t kf_pipe_write(const uint8_t *bytes, size_t size) {
    size_t takes;

    if (state != UP) {
        return size;
    }
    takes = tcp_sndbuf(connection);
    takes = takes < size ? takes : size;
    room = 0;
    if (takes > 0 && tcp_write(connection, bytes, (u16_t)takes, TCP_WRITE_FLAG_COPY) != ERR_OK) {
        takes = 0;
    }
    refused = takes < size;
    return takes;
}

int kf_pipe_pending(void) {
    return kf_ether_pending() || waiting() > 0 || (refused && room);
}
