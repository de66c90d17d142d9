/* The kernels in plain C. Forward, four samples share a weight that is loaded and rounded once; backward, eight gradients of a class stay
 * in registers while the batch passes by. */
#include "kernels.h"

#include "fixed.h"
#include "move.h"

const uint32_t kf_backward_features = KF_MAX_FEATURES;

/* ---- forward ----------------------------------------------------------------------------------------------------- */

enum { SAMPLES = 4 };

/* sum[i] = sum_f ((w[f] + half) >> k) * (x_i[f] - x_zp), f < n <= KF_BLOCK. |sum w q| <= 2^7 * 2^15 * 2^7 and |zp sum w| likewise. */
KF_NOINLINE static void dot4(const int32_t *w, const int8_t *const x[SAMPLES], uint32_t n, uint32_t k, int32_t x_zp,
                             int32_t sum[SAMPLES]) {
    const int32_t half = (INT32_C(1) << k) >> 1;
    const int8_t *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
    int32_t sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0, sum_w = 0;
    for (uint32_t f = 0; f < n; f++) {
        const int32_t v = (w[f] + half) >> k;
        sum0 += v * x0[f];
        sum1 += v * x1[f];
        sum2 += v * x2[f];
        sum3 += v * x3[f];
        sum_w += v;
    }
    sum[0] = sum0 - x_zp * sum_w;
    sum[1] = sum1 - x_zp * sum_w;
    sum[2] = sum2 - x_zp * sum_w;
    sum[3] = sum3 - x_zp * sum_w;
}

/* A logit of a class for each of SAMPLES samples. */
static void logits4(const kf_forward_t *p, const int32_t *w, int32_t first, const int8_t *const x[SAMPLES], int32_t *z) {
    const uint32_t shift = 8u - p->k;
    dot4(w, x, p->width, p->k, p->x_zp, z);
    z[0] = (z[0] + first) >> shift;
    z[1] = (z[1] + first) >> shift;
    z[2] = (z[2] + first) >> shift;
    z[3] = (z[3] + first) >> shift;
}

static void wide_logits4(const kf_forward_t *p, const int32_t *w, int32_t first, const int8_t *const x[SAMPLES], int32_t *z) {
    const int8_t *at[SAMPLES] = {x[0], x[1], x[2], x[3]};
    int64_t wide[SAMPLES] = {first, first, first, first};
    for (uint32_t f = 0, n; f < p->width; f += n, w += n) {
        int32_t sum[SAMPLES];
        n = p->width - f < KF_BLOCK ? p->width - f : KF_BLOCK;
        dot4(w, at, n, p->k, p->x_zp, sum);
        for (uint32_t s = 0; s < SAMPLES; s++) {
            wide[s] += sum[s];
            at[s] += n;
        }
    }
    for (uint32_t s = 0; s < SAMPLES; s++) {
        z[s] = kf_wide_logit(wide[s], p->k);
    }
}

void kf_forward(const kf_forward_t *p) {
    for (uint32_t i = 0; i < p->samples; i += SAMPLES) {
        const int8_t *x[SAMPLES];
        for (uint32_t s = 0; s < SAMPLES; s++) { /* the first one again in the place of samples that are missing */
            x[s] = p->features + p->at[i + s < p->samples ? i + s : i];
        }
        const int32_t *w = p->w;
        int32_t *z = p->z + i;
        for (uint32_t c = 0; c < p->classes; c++, w += p->width, z += KF_TILE) {
            const int32_t first = kf_first_term(p->bias[c], p->k);
            (p->width <= KF_BLOCK ? logits4 : wide_logits4)(p, w, first, x, z);
        }
    }
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* Weights whose gradients are kept until they are moved. */
enum { MOVED = 4 * KF_FEATURES_AT_ONCE };

/* From the upper word of one long product. |G M 2^16| < 2^62. */
static inline int32_t scale(int32_t G, int32_t mantissa, int32_t plus) {
    return (int32_t)(((int64_t)G * (mantissa << 16)) >> 32) + plus;
}

/* G[j] = start + sum_i e[i] * x_i[j], j < 8; an error of 0, frequent late in a training, costs nothing. |sum e q| <= 2^15 * 2^7 * 2^8. */
KF_NOINLINE static void gradient8(const int16_t *e, const int16_t *end, const int8_t *features, const uint32_t *at, int32_t start,
                                  int32_t G[KF_FEATURES_AT_ONCE]) {
    int32_t G0 = start, G1 = start, G2 = start, G3 = start, G4 = start, G5 = start, G6 = start, G7 = start;
    do {
        const int32_t error = *e++;
        const int8_t *q = features + *at++;
        if (error != 0) {
            G0 += error * q[0];
            G1 += error * q[1];
            G2 += error * q[2];
            G3 += error * q[3];
            G4 += error * q[4];
            G5 += error * q[5];
            G6 += error * q[6];
            G7 += error * q[7];
        }
    } while (e != end);
    G[0] = G0;
    G[1] = G1;
    G[2] = G2;
    G[3] = G3;
    G[4] = G4;
    G[5] = G5;
    G[6] = G6;
    G[7] = G7;
}

/* The same for one feature. */
static int32_t gradient1(const int16_t *e, const int16_t *end, const int8_t *features, const uint32_t *at, int32_t G) {
    do {
        G += *e++ * features[*at++];
    } while (e != end);
    return G;
}

/* sum e (q - zp) = sum e q - zp sum e. |zp sum e| <= 2^7 * 2^15 * 2^8 = 2^30, as |sum e q|; |G| <= 2^15 * 255 * 256 < 2^31. */
static int32_t zero_point_term(const int16_t *e, const int16_t *end, int32_t x_zp) {
    int32_t sum = 0;
    do {
        sum += *e++;
    } while (e != end);
    return -x_zp * sum;
}

void kf_backward(kf_backward_t *p) {
    const int plain = move_is_plain(p);
    const int16_t *e = p->errors;
    int32_t *row = p->w;
    for (uint32_t c = 0; c < p->classes; c++, e += p->stride, row += p->width) {
        const int16_t *const end = e + p->samples;
        const int32_t start = zero_point_term(e, end, p->x_zp);
        for (uint32_t f = 0, n; f < p->count; f += n) {
            int32_t G[MOVED];
            uint32_t j = 0;
            n = p->count - f < MOVED ? p->count - f : MOVED;
            for (; j + KF_FEATURES_AT_ONCE <= n; j += KF_FEATURES_AT_ONCE) {
                gradient8(e, end, p->features + f + j, p->at, start, G + j);
            }
            for (; j < n; j++) {
                G[j] = gradient1(e, end, p->features + f + j, p->at, start);
            }
            if (plain) {
                move_plainly(p, row + f, G, n, scale);
            } else {
                kf_move_any(p, c, f, row + f, G, n);
            }
        }
    }
}
