/* The step of weights whose gradients are known: TRAINING.md, section 4. Inlined into the kernel families, each of which brings the
 * multiplication that its core does best.
 */
#ifndef KILOFED_TRAIN_MOVE_H
#define KILOFED_TRAIN_MOVE_H

#include <stdint.h>

#include "fixed.h"
#include "kernels.h"

/* w[j] of class p->c + c, feature p->f + f + j, with gradient G[j], j < n: for any rate, and with the proximal term. */
void kf_move_any(kf_backward_t *p, uint32_t c, uint32_t f, int32_t *w, const int32_t *G, uint32_t n);

/* floor(G * mantissa / 2^16), |G| < 2^31, mantissa < 2^15. */
typedef int32_t (*scale_t)(int32_t G, int32_t mantissa);

static inline int move_is_plain(const kf_backward_t *p) {
    return p->prox.mantissa == 0 && p->rate.mantissa != 0 && p->rate.shift >= 17;
}

/* The same as kf_move_any where move_is_plain(). With shift sh >= 17 (fixed.h, scale32)
 *   floor((G M + 2^(sh-1)) / 2^sh) = floor((floor(G M / 2^16) + 2^(sh-17)) / 2^(sh-16)).
 * Nearly no weight is the largest so far: v or -1-v, whichever is not negative, is at most |v| and at least |v| - 1, so a weight for which
 * that is below `largest` neither raises it nor leaves its range. */
static inline void move_plainly(kf_backward_t *p, int32_t *w, const int32_t *G, uint32_t n, scale_t scale) {
    const int32_t mantissa = p->rate.mantissa, half = INT32_C(1) << (p->rate.shift - 17);
    const uint32_t shift = p->rate.shift - 16u;
    uint32_t largest = p->largest;
    const int32_t *const end = G + n;
    do {
        int32_t v = *w - ((scale(*G++, mantissa) + half) >> shift); /* 2^23 + 2^30 fits */
        if ((uint32_t)(v ^ (v >> 31)) >= largest) {
            v = clamp32(v, KF_WEIGHT_MAX);
            largest = magnitude(v) > largest ? magnitude(v) : largest;
        }
        *w++ = v;
    } while (G != end);
    p->largest = largest;
}

#endif
