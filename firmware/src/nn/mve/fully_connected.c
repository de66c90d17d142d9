/* Fully connected layers for Arm cores with the vector extension MVE: sum w (q - zp) = sum w q - zp sum w, both sums in one pass over the
 * filters. Three at a time, since sums grow in even registers, of which there are six beside the pointers. All are modulo 2^32. */
#include "values.h"

/* sum[k] += the products of filter k, k < 3, and x. */
static inline void three(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    const int8_t *w1 = w + terms, *w2 = w1 + terms;
    int32_t s0 = sum[0], s1 = sum[1], s2 = sum[2], t0 = 0, t1 = 0, t2 = 0;
    register int32_t left __asm__("lr") = terms; /* in the place that it goes to: few others are free */
    int8x16_t u, v;
    __asm__("dlstp.8 lr, %[n]\n"
            "1:\n\t"
            "vldrb.8 %q[v], [%[x]], #16\n\t"
            "vldrb.8 %q[u], [%[w0]], #16\n\t"
            "vmladava.s8 %[s0], %q[u], %q[v]\n\t"
            "vaddva.s8 %[t0], %q[u]\n\t"
            "vldrb.8 %q[u], [%[w1]], #16\n\t"
            "vmladava.s8 %[s1], %q[u], %q[v]\n\t"
            "vaddva.s8 %[t1], %q[u]\n\t"
            "vldrb.8 %q[u], [%[w2]], #16\n\t"
            "vmladava.s8 %[s2], %q[u], %q[v]\n\t"
            "vaddva.s8 %[t2], %q[u]\n\t"
            "letp lr, 1b"
            : [x] "+r"(x), [w0] "+r"(w), [w1] "+r"(w1), [w2] "+r"(w2), [s0] "+Te"(s0), [s1] "+Te"(s1), [s2] "+Te"(s2),
              [t0] "+Te"(t0), [t1] "+Te"(t1), [t2] "+Te"(t2), [u] "=&w"(u), [v] "=&w"(v), [n] "+r"(left)
            :
            : "memory");
    sum[0] = (int32_t)((uint32_t)s0 + (uint32_t)(t0 * x_offset)); /* |t| <= 2^23 */
    sum[1] = (int32_t)((uint32_t)s1 + (uint32_t)(t1 * x_offset));
    sum[2] = (int32_t)((uint32_t)s2 + (uint32_t)(t2 * x_offset));
}

void kf_dots(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t count, int32_t *sum) {
    for (; count >= 3; count -= 3, w += 3 * terms, sum += 3) {
        three(x, x_offset, w, terms, sum);
    }
    for (; count > 0; count--, w += terms, sum++) {
        *sum = (int32_t)((uint32_t)one_dot(*sum, x, w, terms) + (uint32_t)kf_patch_bias(w, terms, x_offset));
    }
}
