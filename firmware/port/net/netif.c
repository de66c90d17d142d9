#include "netif.h"

#include <string.h>

#include "chip.h"
#include "ether.h"
#include "lwip/dhcp.h"
#include "lwip/etharp.h"
#include "lwip/init.h"
#include "lwip/netif.h"
#include "lwip/pbuf.h"
#include "lwip/timeouts.h"
#include "monocypher.h"
#include "netif/ethernet.h"
#include "say.h"

#define LINK_MS 250u     /* between two looks at the cable: a register read, and nobody plugs faster */
#define FRAMES_A_POLL 8u /* so that a flood leaves the device its work */

static struct netif net;
static uint32_t random_state;
static uint32_t link_seen_ms;
static uint32_t known_address;

uint32_t sys_now(void) {
    return kf_chip_millis();
}

/* xorshift32 (Marsaglia, 2003). It keeps old segments of another connection apart, and secrets nothing: frames are
 * authenticated above. */
uint32_t kf_net_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static void random_start(const kf_identity_t *identity) {
    uint8_t chance[16], seed[4];

    if (kf_chip_entropy(chance, sizeof chance) != KF_OK) {
        memset(chance, 0, sizeof chance); /* the key alone */
    }
    crypto_blake2b_keyed(seed, sizeof seed, identity->key, sizeof identity->key, chance, sizeof chance);
    memcpy(&random_state, seed, sizeof random_state);
    random_state |= 1u; /* zero would stay zero */
}

static err_t frame_out(struct netif *netif, struct pbuf *p) {
    const struct pbuf *part;

    (void)netif;
    if (p->tot_len > KF_ETHER_FRAME || kf_ether_send(p->tot_len) != KF_OK) {
        return ERR_MEM;
    }
    for (part = p; part != NULL; part = part->next) {
        kf_ether_put(part->payload, part->len);
    }
    return ERR_OK;
}

static err_t interface_init(struct netif *netif) {
    netif->name[0] = 'e';
    netif->name[1] = 'n';
    netif->output = etharp_output;
    netif->linkoutput = frame_out;
    netif->mtu = 1500;
    netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET;
    return ERR_OK;
}

static ip4_addr_t address_of(const uint8_t bytes[4]) {
    ip4_addr_t address;

    memcpy(&address.addr, bytes, sizeof address.addr); /* both in network byte order */
    return address;
}

kf_status_t kf_netif_start(const kf_network_t *network, const kf_identity_t *identity) {
    const ip4_addr_t address = address_of(network->address), netmask = address_of(network->netmask),
                     gateway = address_of(network->gateway);
    uint8_t mac[6] = {0x02}; /* administered here (IEEE 802, 8.2.2), and the device's own id */
    kf_status_t status;

    memcpy(mac + 1, identity->id, 5);
    status = kf_ether_start(mac);
    if (status != KF_OK) {
        return status;
    }
    random_start(identity);
    lwip_init();
    (void)netif_add(&net, &address, &netmask, &gateway, NULL, interface_init, ethernet_input);
    memcpy(net.hwaddr, mac, sizeof mac);
    net.hwaddr_len = sizeof mac;
    netif_set_default(&net);
    netif_set_up(&net);
    if (address.addr == 0) {
        (void)dhcp_start(&net); /* fails for want of memory, which nobody has taken yet */
    }
    link_seen_ms = kf_chip_millis() - LINK_MS;
    return KF_OK;
}

static void look_at_cable(void) {
    const uint32_t now = kf_chip_millis();
    int up;

    if (now - link_seen_ms < LINK_MS) {
        return;
    }
    link_seen_ms = now;
    up = kf_ether_link();
    if (up && !netif_is_link_up(&net)) {
        kf_say("cable in", KF_SAY_NONE, 0);
        netif_set_link_up(&net); /* DHCP asks whether the address is still good */
    } else if (!up && netif_is_link_up(&net)) {
        kf_say("cable out", KF_SAY_NONE, 0);
        netif_set_link_down(&net);
    }
}

static void take_frames(void) {
    uint32_t frames;

    for (frames = 0; frames < FRAMES_A_POLL; frames++) {
        struct pbuf *p = pbuf_alloc(PBUF_RAW, PBUF_POOL_BUFSIZE, PBUF_POOL);
        size_t size;

        if (p == NULL) {
            return; /* both buffers wait for ARP: the frame stays where it is */
        }
        size = kf_ether_receive(p->payload, p->len);
        if (size == 0) {
            pbuf_free(p);
            return;
        }
        pbuf_realloc(p, (u16_t)size);
        if (net.input(p, &net) != ERR_OK) {
            pbuf_free(p);
        }
    }
}

uint32_t kf_netif_poll(void) {
    uint32_t timers;

    take_frames();
    look_at_cable();
    sys_check_timeouts();
    if (netif_ip4_addr(&net)->addr != known_address) {
        known_address = netif_ip4_addr(&net)->addr;
        kf_say(known_address != 0 ? "address" : "address lost", known_address, 0);
    }
    timers = sys_timeouts_sleeptime();
    return timers < LINK_MS ? timers : LINK_MS;
}

int kf_netif_up(void) {
    return netif_is_up(&net) && netif_is_link_up(&net) && netif_ip4_addr(&net)->addr != 0;
}
