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

/* floor(G * mantissa / 2^16) + plus, |G| < 2^31, mantissa < 2^15, 0 <= plus <= 2^29. */
typedef int32_t (*scale_t)(int32_t G, int32_t mantissa, int32_t plus);

static inline int move_is_plain(const kf_backward_t *p) {
    return p->prox.mantissa == 0 && p->rate.mantissa != 0 && p->rate.shift >= 17;
}

/* The same as kf_move_any where move_is_plain(). With shift sh >= 17 (fixed.h, scale32)
 *   floor((G M + 2^(sh-1)) / 2^sh) = floor((floor(G M / 2^16) + 2^(sh-17)) / 2^(sh-16)).
 * Nearly no weight is the largest so far: v or -1-v, whichever is not negative, is at most |v| and at least |v| - 1, so a weight for which
 * that is below `largest` neither raises it nor leaves its range. */
static inline uint32_t in_range(int32_t *v, uint32_t largest) {
    *v = clamp32(*v, KF_WEIGHT_MAX);
    return magnitude(*v) > largest ? magnitude(*v) : largest;
}

static inline uint32_t move_one(int32_t *w, int32_t step, uint32_t largest) {
    int32_t v = *w - step; /* 2^23 + 2^30 fits */
    if ((uint32_t)(v ^ (v >> 31)) >= largest) {
        largest = in_range(&v, largest);
    }
    *w = v;
    return largest;
}

static inline void move_plainly(kf_backward_t *p, int32_t *w, const int32_t *G, uint32_t n, scale_t scale) {
    const int32_t mantissa = p->rate.mantissa, half = INT32_C(1) << (p->rate.shift - 17);
    const uint32_t shift = p->rate.shift - 16u;
    uint32_t largest = p->largest;
    const int32_t *const end = G + n;
    for (const int32_t *const pairs = G + (n & ~1u); G != pairs; G += 2, w += 2) {
        largest = move_one(w, scale(G[0], mantissa, half) >> shift, largest);
        largest = move_one(w + 1, scale(G[1], mantissa, half) >> shift, largest);
    }
    if (G != end) {
        largest = move_one(w, scale(*G, mantissa, half) >> shift, largest);
    }
    p->largest = largest;
}

#endif
