#include "move.h"

/* First the gradient, then, from the value before it, the proximal term. |w - base| < 2^24. */
void kf_move_any(kf_backward_t *p, uint32_t c, uint32_t f, int32_t *w, const int32_t *G, uint32_t n) {
    for (uint32_t j = 0; j < n; j++) {
        const int32_t before = w[j];
        if (p->rate.mantissa != 0) {
            w[j] = clamp32(before - scale32(G[j], p->rate), KF_WEIGHT_MAX); /* 2^23 + 2^30 fits */
        }
        if (p->prox.mantissa != 0) {
            const int32_t pull = scale32(before - kf_head_weight(p->base, p->c + c, p->f + f + j), p->prox);
            w[j] = clamp32(w[j] - pull, KF_WEIGHT_MAX);
        }
        if (magnitude(w[j]) > p->largest) {
            p->largest = magnitude(w[j]);
        }
    }
}
