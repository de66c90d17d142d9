/* Many units in one loop that sleeps until bytes come, a full socket has room, or the next unit is due.
 *
 * A turn costs what happened in it, not how many units there are: sockets are watched by epoll, and times are in a heap. A
 * unit with work is due at once; units that are due take turns, the one that was put back first comes first. */
#ifndef KF_POSIX_LOOP_H
#define KF_POSIX_LOOP_H

#include <netdb.h>
#include <signal.h>
#include <stdint.h>

#include "unit.h"

typedef struct kf_loop {
    kf_unit_t *units;
    const struct addrinfo *address; /* of the host */
    uint32_t *heap;                 /* [count] numbers of units, the one that is due first at 0 */
    uint32_t count;
    uint32_t turns; /* number of the next unit that is put back */
    uint32_t slice_macs;
    int poll;
} kf_loop_t;

/* Begin with `count` units, which connect to `address`; both have to outlive the loop. 0, or -1 after printing why not. */
int kf_loop_init(kf_loop_t *loop, kf_unit_t *units, uint32_t count, const struct addrinfo *address, uint32_t slice_macs);
void kf_loop_free(kf_loop_t *loop);

/* One turn. `inside`: signals to block while it sleeps, and then only. 0, or -1 after printing why not. */
int kf_loop_turn(kf_loop_t *loop, const sigset_t *inside);

#endif
