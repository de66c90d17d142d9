/* lwIP as this port needs it: one TCP connection to the host, DHCP, and nothing that waits or is called from two places.
 *
 * Why the raw API, and what each buffer costs, is argued in DESIGN.md, "The network". Everything runs in the main loop, so there
 * is no locking; lwIP's memory is static, and its share of an image is a line of `kilofed build`.
 */
#ifndef KF_NET_LWIPOPTS_H
#define KF_NET_LWIPOPTS_H

#include "board.h"

#define NO_SYS 1
#define SYS_LIGHTWEIGHT_PROT 0
#define LWIP_NETCONN 0
#define LWIP_SOCKET 0
#define LWIP_NETIF_API 0
#define LWIP_STATS 0
#define LWIP_NOASSERT 1

/* ---- protocols ---- */

#define LWIP_IPV6 0
#define LWIP_RAW 0
#define LWIP_DNS 0
#define LWIP_IGMP 0
#define LWIP_AUTOIP 0
#define LWIP_DHCP 1
#define LWIP_UDP 1 /* DHCP's */
/* The server looks whether an address is free before it gives it away (RFC 2131, 2.2); asking again takes seconds. */
#define DHCP_DOES_ARP_CHECK 0
#define LWIP_DHCP_DOES_ACD_CHECK 0
/* A host's segments fit an Ethernet frame, and so do ours: whoever sends fragments is not our host. */
#define IP_REASSEMBLY 0
#define IP_FRAG 0
#define ARP_TABLE_SIZE 4
#define ARP_QUEUEING 0 /* one packet waits for an address, which is what TCP's first is */

/* ---- TCP ---- */

#define TCP_MSS 1460 /* a frame of the link's longest fits one segment */
/* What was received is copied into the pipe's ring at once (pipe.c), whose size therefore is the window. */
#define TCP_WND KF_BOARD_RX_RING
#define TCP_SND_BUF (2 * TCP_MSS)
#define TCP_SND_QUEUELEN 16
#define TCP_OVERSIZE 256 /* room that a new segment keeps for the small frame that follows */
#define TCP_QUEUE_OOSEQ 0 /* a lost segment is sent again with all that followed: rare on a wire, and saves a window of RAM */
#define TCP_SYNMAXRTX 2
#define LWIP_TCP_KEEPALIVE 1
#define LWIP_RANDOMIZE_INITIAL_LOCAL_PORTS 1
#define MEMP_NUM_TCP_PCB 3 /* one in use; up to two that end */
#define MEMP_NUM_TCP_PCB_LISTEN 1
#define MEMP_NUM_UDP_PCB 1
#define MEMP_NUM_TCP_SEG TCP_SND_QUEUELEN

/* ---- memory ---- */

#define MEM_ALIGNMENT 4
/* What waits to be acknowledged (TCP_SND_BUF and headers), and one DHCP message. */
#define MEM_SIZE (TCP_SND_BUF + 2048)
#define MEMP_NUM_PBUF 4
/* A received frame is dealt with before the next is taken, so one buffer is in use and one may wait for ARP. */
#define PBUF_POOL_SIZE 2
#define PBUF_POOL_BUFSIZE 1520
#define LWIP_DISABLE_TCP_SANITY_CHECKS 1 /* they demand a pool that holds a window: here the ring does */

#endif
