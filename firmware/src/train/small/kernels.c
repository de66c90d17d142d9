/* The kernels for cores of the first Thumb instruction set, Cortex-M0 and M0+: eight registers that calculate and five that can
 * only be moved and added, and a multiplication that keeps 32 bits.
 *
 * Both loops are written out, since GCC keeps sums in the low registers and moves the rest up and down for it. Here four sums lie in the
 * high registers, where an addition costs the same; a value is loaded, multiplied and added in three instructions. Weights are
 * rounded before the loop, once for all samples of the tile; errors that are not zero are listed before the loop, once for all
 * features of a class.
 */
#include "../kernels.h"

#include "../fixed.h"
#include "../move.h"

const uint32_t kf_backward_features = KF_MAX_FEATURES;

enum { AT_ONCE = 4 };

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* Weights that are rounded at once: 128 bytes of stack. */
enum { ROUNDED = 32 };

/* sum[s] += sum_f w[f] * x_s[f], f < n, 1 <= n <= ROUNDED. The pointers of the loop are to the samples' ends. The sums are those of KF_BLOCK,
 * or of parts of it. */
KF_NOINLINE static void dot4(const int32_t *w, const int8_t *const x[AT_ONCE], uint32_t n, int32_t sum[AT_ONCE]) {
    const int8_t *x0 = x[0] + n, *x1 = x[1] + n, *x2 = x[2] + n, *x3 = x[3] + n;
    int32_t sum0 = sum[0], sum1 = sum[1], sum2 = sum[2], sum3 = sum[3];
    int32_t i = -(int32_t)n, weight, product;
    __asm__(".syntax unified\n"
            "1:\n\t"
            "ldmia %[w]!, {%[v]}\n\t"
            "ldrsb %[p], [%[x0], %[i]]\n\t"
            "muls %[p], %[v]\n\t"
            "add %[s0], %[p]\n\t"
            "ldrsb %[p], [%[x1], %[i]]\n\t"
            "muls %[p], %[v]\n\t"
            "add %[s1], %[p]\n\t"
            "ldrsb %[p], [%[x2], %[i]]\n\t"
            "muls %[p], %[v]\n\t"
            "add %[s2], %[p]\n\t"
            "ldrsb %[p], [%[x3], %[i]]\n\t"
            "muls %[p], %[v]\n\t"
            "add %[s3], %[p]\n\t"
            "adds %[i], #1\n\t"
            "bne 1b"
            : [w] "+l"(w), [i] "+l"(i), [v] "=&l"(weight), [p] "=&l"(product), [s0] "+h"(sum0), [s1] "+h"(sum1), [s2] "+h"(sum2),
              [s3] "+h"(sum3)
            : [x0] "l"(x0), [x1] "l"(x1), [x2] "l"(x2), [x3] "l"(x3)
            : "cc", "memory");
    sum[0] = sum0;
    sum[1] = sum1;
    sum[2] = sum2;
    sum[3] = sum3;
}

/* Rounds n weights to 2^k units, and returns their sum. */
KF_NOINLINE static int32_t round_weights(const int32_t *w, uint32_t n, uint32_t k, int32_t *rounded) {
    const int32_t half = (INT32_C(1) << k) >> 1;
    const int32_t *const end = w + n;
    int32_t sum = 0;
    do {
        const int32_t v = (*w++ + half) >> k;
        *rounded++ = v;
        sum += v;
    } while (w != end);
    return sum;
}

/* sum[i] += sum w (q - zp) = sum w q - zp sum w over n <= ROUNDED features from f on, for all samples. In the place of samples that a group of
 * four lacks is its first. |zp sum w| <= 2^7 * 2^5 * 2^15. */
KF_NOINLINE static void add_block(const kf_forward_t *p, const int32_t *w, uint32_t f, uint32_t n, int32_t sum[KF_TILE]) {
    int32_t rounded[ROUNDED];
    const int32_t start = -p->x_zp * round_weights(w + f, n, p->k, rounded);
    for (uint32_t i = 0; i < p->samples; i += AT_ONCE, sum += AT_ONCE) {
        const int8_t *x[AT_ONCE];
        for (uint32_t s = 0; s < AT_ONCE; s++) {
            x[s] = p->features + f + p->at[i + s < p->samples ? i + s : i];
            sum[s] += start;
        }
        dot4(rounded, x, n, sum);
    }
}

static uint32_t block_at(const kf_forward_t *p, uint32_t f) {
    return p->width - f < ROUNDED ? p->width - f : ROUNDED;
}

/* Logits of one class, in int32. */
static void logits(const kf_forward_t *p, const int32_t *w, int32_t first, int32_t *z) {
    const uint32_t shift = 8u - p->k;
    int32_t *const end = z + KF_TILE;
    for (int32_t *sum = z; sum != end; sum++) {
        *sum = first;
    }
    for (uint32_t f = 0; f < p->width; f += ROUNDED) {
        add_block(p, w, f, block_at(p, f), z);
    }
    for (int32_t *sum = z; sum != end; sum++) {
        *sum >>= shift;
    }
}

KF_NOINLINE static void wide_logits(const kf_forward_t *p, const int32_t *w, int32_t first, int32_t *z) {
    int64_t wide[KF_TILE];
    for (uint32_t i = 0; i < KF_TILE; i++) {
        wide[i] = first;
    }
    for (uint32_t f = 0; f < p->width; f += ROUNDED) {
        int32_t sum[KF_TILE] = {0};
        add_block(p, w, f, block_at(p, f), sum);
        for (uint32_t i = 0; i < KF_TILE; i++) {
            wide[i] += sum[i];
        }
    }
    for (uint32_t i = 0; i < KF_TILE; i++) {
        z[i] = kf_wide_logit(wide[i], p->k);
    }
}

void kf_forward(const kf_forward_t *p) {
    const int32_t *w = p->w;
    for (uint32_t c = 0; c < p->classes; c++, w += p->width) {
        (p->width <= KF_BLOCK ? logits : wide_logits)(p, w, kf_first_term(p->bias[c], p->k), p->z + c * KF_TILE);
    }
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* Without a long product: G = h 2^16 + l, 0 <= l < 2^16, |h| <= 2^15; |h M| <= 2^30, l M < 2^31. */
static inline int32_t scale(int32_t G, int32_t mantissa, int32_t plus) {
    const uint32_t low = ((uint32_t)G & 0xFFFFu) * (uint32_t)mantissa;
    return (G >> 16) * mantissa + (int32_t)(low >> 16) + plus;
}

/* Weights whose gradients are kept until they are moved. */
enum { MOVED = 16 };

/* A sample whose error is not 0, and where its features begin. A list of them ends with an error of 0. */
typedef struct entry {
    int32_t error;
    uint32_t at;
} entry_t;
_Static_assert(sizeof(entry_t) * (KF_MAX_BATCH + 1) <= KF_BACKWARD_BYTES(KF_MAX_BATCH) && sizeof(entry_t) * 2 <= KF_BACKWARD_BYTES(1),
               "the list is kept in the scratch");

/* Lists the errors of a class that are not 0, and returns the sum of all. */
KF_NOINLINE static int32_t list_errors(const int16_t *e, const uint32_t *at, uint32_t samples, entry_t *list) {
    const int16_t *const end = e + samples;
    int32_t total = 0;
    do {
        const int32_t error = *e++;
        const uint32_t place = *at++;
        if (error != 0) {
            list->error = error;
            list->at = place;
            list++;
            total += error;
        }
    } while (e != end);
    list->error = 0;
    list->at = 0;
    return total;
}

/* G[j] += sum of error * features[at + j] over the list, j < 4. */
KF_NOINLINE static void gradient4(const entry_t *list, const int8_t *features, int32_t G[AT_ONCE]) {
    int32_t G0 = G[0], G1 = G[1], G2 = G[2], G3 = G[3];
    register int32_t error __asm__("r1");
    register const int8_t *q __asm__("r2");
    int32_t product;
    __asm__(".syntax unified\n"
            "b 2f\n"
            "1:\n\t"
            "add %[q], %[features]\n\t"
            "ldrsb %[p], [%[q], %[j0]]\n\t"
            "muls %[p], %[e]\n\t"
            "add %[g0], %[p]\n\t"
            "ldrsb %[p], [%[q], %[j1]]\n\t"
            "muls %[p], %[e]\n\t"
            "add %[g1], %[p]\n\t"
            "ldrsb %[p], [%[q], %[j2]]\n\t"
            "muls %[p], %[e]\n\t"
            "add %[g2], %[p]\n\t"
            "ldrsb %[p], [%[q], %[j3]]\n\t"
            "muls %[p], %[e]\n\t"
            "add %[g3], %[p]\n"
            "2:\n\t"
            "ldmia %[list]!, {%[e], %[q]}\n\t"
            "cmp %[e], #0\n\t"
            "bne 1b"
            : [list] "+l"(list), [e] "=&l"(error), [q] "=&l"(q), [p] "=&l"(product), [g0] "+h"(G0), [g1] "+h"(G1), [g2] "+h"(G2),
              [g3] "+h"(G3)
            : [features] "h"(features), [j0] "l"(0), [j1] "l"(1), [j2] "l"(2), [j3] "l"(3)
            : "cc", "memory");
    G[0] = G0;
    G[1] = G1;
    G[2] = G2;
    G[3] = G3;
}

/* n < 4. */
static void gradient_rest(const entry_t *list, const int8_t *features, uint32_t n, int32_t *G) {
    for (; n != 0 && list->error != 0; list++) {
        for (uint32_t j = 0; j < n; j++) {
            G[j] += list->error * features[list->at + j];
        }
    }
}

/* sum e (q - zp) = sum e q - zp sum e: |zp sum e| <= 2^7 * 2^15 * 2^8 = 2^30, as |sum e q|; |G| <= 2^15 * 255 * 256 < 2^31. */
void kf_backward(kf_backward_t *p) {
    const int plain = move_is_plain(p);
    const int16_t *e = p->errors;
    int32_t *row = p->w;
    for (uint32_t c = 0; c < p->classes; c++, e += p->stride, row += p->width) {
        const int32_t start = -p->x_zp * list_errors(e, p->at, p->samples, p->scratch);
        for (uint32_t f = 0, n; f < p->count; f += n) {
            int32_t G[MOVED];
            n = p->count - f < MOVED ? p->count - f : MOVED;
            for (uint32_t j = 0; j < n; j++) {
                G[j] = start;
            }
            for (uint32_t j = 0; j + AT_ONCE <= n; j += AT_ONCE) {
                gradient4(p->scratch, p->features + f + j, G + j);
            }
            const uint32_t done = n & ~(AT_ONCE - 1u);
            gradient_rest(p->scratch, p->features + f + done, n - done, G + done);
            if (plain) {
                move_plainly(p, row + f, G, n, scale);
            } else {
                kf_move_any(p, c, f, row + f, G, n);
            }
        }
    }
}
