/* The kernels for Arm cores with the vector extension MVE: Cortex-M55. Eight products of int16 an instruction (VMLADAVA), into general registers
 * of even numbers; loops are assembly under tail predication (DLSTP), where lanes behind the last value are neither read nor counted.
 * All sums are modulo 2^32.
 *
 * Forward, the weights of a class are rounded to int16 once for the samples of a tile, four of which share a look at them. Backward, samples
 * are turned into rows of a feature each, so that errors, which lie sample by sample, multiply them; gradients become a vector of
 * four features, as the weights lie.
 */
#include "../kernels.h"

#include <arm_mve.h>

#include "../fixed.h"
#include "../move.h"

enum { GROUPS = 4 };
const uint32_t kf_backward_features = GROUPS * KF_FEATURES_AT_ONCE;

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* Samples that share a look at a class's weights. */
enum { SAMPLES = 4 };

/* row[f] = (w[f] + half) >> k, which fits int16, for f < n <= KF_BLOCK; returns their sum. VRSHL by -k rounds so. */
static inline int32_t rounded(const int32_t *w, uint32_t n, uint32_t k, int16_t *row) {
    int32_t sum = 0;
    int32x4_t q;
    __asm__ volatile("dlstp.32 lr, %[n]\n"
                     "1:\n\t"
                     "vldrw.32 %q[q], [%[w]], #16\n\t"
                     "vrshl.s32 %q[q], %[shift]\n\t"
                     "vstrh.32 %q[q], [%[row]], #8\n\t"
                     "vaddva.s32 %[sum], %q[q]\n\t"
                     "letp lr, 1b"
                     : [w] "+r"(w), [row] "+l"(row), [sum] "+Te"(sum), [q] "=&w"(q)
                     : [n] "r"(n), [shift] "r"(-(int32_t)k)
                     : "lr", "memory");
    return sum;
}

/* start + the products of row[n] and each of four samples, from feature f on. */
static inline int32x4_t dot4(const int16_t *row, const int8_t *const x[SAMPLES], uint32_t f, uint32_t n, int32_t start) {
    const int8_t *x0 = x[0] + f, *x1 = x[1] + f, *x2 = x[2] + f, *x3 = x[3] + f;
    int32_t s0 = start, s1 = start, s2 = start, s3 = start;
    int32x4_t sums;
    int16x8_t v, q;
    __asm__("dlstp.16 lr, %[n]\n"
            "1:\n\t"
            "vldrh.16 %q[v], [%[row]], #16\n\t"
            "vldrb.s16 %q[q], [%[x0]], #8\n\t"
            "vmladava.s16 %[s0], %q[v], %q[q]\n\t"
            "vldrb.s16 %q[q], [%[x1]], #8\n\t"
            "vmladava.s16 %[s1], %q[v], %q[q]\n\t"
            "vldrb.s16 %q[q], [%[x2]], #8\n\t"
            "vmladava.s16 %[s2], %q[v], %q[q]\n\t"
            "vldrb.s16 %q[q], [%[x3]], #8\n\t"
            "vmladava.s16 %[s3], %q[v], %q[q]\n\t"
            "letp lr, 1b\n\t"
            "vmov %q[sums][2], %q[sums][0], %[s0], %[s2]\n\t"
            "vmov %q[sums][3], %q[sums][1], %[s1], %[s3]"
            : [row] "+r"(row), [x0] "+l"(x0), [x1] "+l"(x1), [x2] "+l"(x2), [x3] "+l"(x3), [s0] "+Te"(s0), [s1] "+Te"(s1),
              [s2] "+Te"(s2), [s3] "+Te"(s3), [v] "=&w"(v), [q] "=&w"(q), [sums] "=&w"(sums)
            : [n] "r"(n)
            : "lr", "memory");
    return sums;
}

/* Four samples of a tile; the first one again in the place of those that are missing. */
static inline void four_samples(const kf_forward_t *p, uint32_t i, const int8_t *x[SAMPLES]) {
    for (uint32_t s = 0; s < SAMPLES; s++) {
        x[s] = p->features + p->at[i + s < p->samples ? i + s : i];
    }
}

/* Up to KF_BLOCK features. */
static void logits(const kf_forward_t *p, const int8_t *const x[KF_TILE / SAMPLES][SAMPLES]) {
    int16_t row[KF_BLOCK];
    const int32_t *w = p->w;
    int32_t *z = p->z;
    for (uint32_t c = 0; c < p->classes; c++, w += p->width, z += KF_TILE) {
        const int32_t sum = rounded(w, p->width, p->k, row);
        const int32_t start = (int32_t)((uint32_t)kf_first_term(p->bias[c], p->k) - (uint32_t)(p->x_zp * sum));
        const int32_t shift = (int32_t)p->k - 8;
        vstrwq_s32(z, vshlq_r_s32(dot4(row, x[0], 0, p->width, start), shift));
        if (p->samples > SAMPLES) {
            vstrwq_s32(z + SAMPLES, vshlq_r_s32(dot4(row, x[1], 0, p->width, start), shift));
        }
    }
}

/* Any number of features: blocks are summed in int64. */
static void wide_logits(const kf_forward_t *p, const int8_t *const x[KF_TILE / SAMPLES][SAMPLES]) {
    int16_t row[KF_BLOCK];
    const int32_t *w = p->w;
    int32_t *z = p->z;
    for (uint32_t c = 0; c < p->classes; c++, z += KF_TILE) {
        int64_t wide[KF_TILE];
        for (uint32_t s = 0; s < KF_TILE; s++) {
            wide[s] = kf_first_term(p->bias[c], p->k);
        }
        for (uint32_t f = 0, n; f < p->width; f += n, w += n) {
            n = p->width - f < KF_BLOCK ? p->width - f : KF_BLOCK;
            const int32_t start = -p->x_zp * rounded(w, n, p->k, row);
            for (uint32_t i = 0; i < p->samples; i += SAMPLES) {
                int32_t sums[SAMPLES];
                vstrwq_s32(sums, dot4(row, x[i / SAMPLES], f, n, start));
                __asm__("" : "+m"(sums)); /* GCC 12.2 does not see that VSTRW wrote it */
                for (uint32_t s = 0; s < SAMPLES; s++) {
                    wide[i + s] += sums[s];
                }
            }
        }
        for (uint32_t s = 0; s < p->samples; s++) {
            z[s] = kf_wide_logit(wide[s], p->k);
        }
    }
}

void kf_forward(const kf_forward_t *p) {
    const int8_t *x[KF_TILE / SAMPLES][SAMPLES];
    four_samples(p, 0, x[0]);
    if (p->samples > SAMPLES) {
        four_samples(p, SAMPLES, x[1]);
    }
    (p->width <= KF_BLOCK ? logits : wide_logits)(p, (const int8_t *const(*)[SAMPLES])x);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* Samples that are turned together: rows of eight bytes, one for each of KF_FEATURES_AT_ONCE features. */
enum { TURNED = 8, TURNED_BYTES = TURNED * KF_FEATURES_AT_ONCE };
_Static_assert(KF_FEATURES_AT_ONCE == 8 && TURNED_BYTES <= KF_BACKWARD_BYTES(1) && 2 * TURNED_BYTES <= KF_BACKWARD_BYTES(9),
               "the scratch holds all samples of eight features");

/* Features [0, n) of every sample, n <= 8. What is behind the last feature or sample is anything. */
static void turn(const int8_t *features, const uint32_t *at, uint32_t samples, uint32_t n, int8_t *turned) {
    const uint16x8_t rows = vmulq_n_u16(vidupq_n_u16(0, 1), TURNED);
    const mve_pred16_t some = vctp16q(n);
    for (uint32_t i = 0; i < samples; i += TURNED, turned += TURNED_BYTES) {
        const uint32_t left = samples - i < TURNED ? samples - i : TURNED;
        for (uint32_t s = 0; s < left; s++) {
            vstrbq_scatter_offset_s16(turned + s, rows, vldrbq_z_s16(features + at[i + s], some));
        }
    }
}

/* start + the errors times each of four rows of `turned`: the gradients of four features. */
static inline int32x4_t gradients4(const int16_t *e, uint32_t samples, const int8_t *turned, int32_t start) {
    int32_t s0 = start, s1 = start, s2 = start, s3 = start;
    int32x4_t sums;
    int16x8_t v, q;
    __asm__("dlstp.16 lr, %[n]\n"
            "1:\n\t"
            "vldrh.16 %q[v], [%[e]], #16\n\t"
            "vldrb.s16 %q[q], [%[x], #8]\n\t"
            "vmladava.s16 %[s1], %q[v], %q[q]\n\t"
            "vldrb.s16 %q[q], [%[x], #16]\n\t"
            "vmladava.s16 %[s2], %q[v], %q[q]\n\t"
            "vldrb.s16 %q[q], [%[x], #24]\n\t"
            "vmladava.s16 %[s3], %q[v], %q[q]\n\t"
            "vldrb.s16 %q[q], [%[x]], #64\n\t"
            "vmladava.s16 %[s0], %q[v], %q[q]\n\t"
            "letp lr, 1b\n\t"
            "vmov %q[sums][2], %q[sums][0], %[s0], %[s2]\n\t"
            "vmov %q[sums][3], %q[sums][1], %[s1], %[s3]"
            : [e] "+r"(e), [x] "+l"(turned), [s0] "+Te"(s0), [s1] "+Te"(s1), [s2] "+Te"(s2), [s3] "+Te"(s3), [v] "=&w"(v),
              [q] "=&w"(q), [sums] "=&w"(sums)
            : [n] "r"(samples)
            : "lr", "memory");
    return sums;
}

/* sum e (q - zp) = sum e q - zp sum e. */
static inline int32_t zero_point_term(const int16_t *e, uint32_t samples, int32_t x_zp) {
    int32_t sum = 0;
    int16x8_t v;
    __asm__("dlstp.16 lr, %[n]\n"
            "1:\n\t"
            "vldrh.16 %q[v], [%[e]], #16\n\t"
            "vaddva.s16 %[sum], %q[v]\n\t"
            "letp lr, 1b"
            : [e] "+r"(e), [sum] "+Te"(sum), [v] "=&w"(v)
            : [n] "r"(samples)
            : "lr", "memory");
    return -x_zp * sum;
}

/* The step of four weights where move_is_plain(): VMULH is the upper word of the product with the mantissa above 16 bits. */
typedef struct step {
    int32x4_t mantissa, most, least;
    uint32x4_t largest; /* lane by lane */
    int32_t half, shift;
} step_t;

static inline int32x4_t moved(step_t *s, int32x4_t w, int32x4_t G) {
    G = vshlq_r_s32(vaddq_n_s32(vmulhq_s32(G, s->mantissa), s->half), s->shift);
    return vmaxq_s32(vminq_s32(vsubq_s32(w, G), s->most), s->least); /* 2^23 + 2^30 fits */
}

static inline void move4(step_t *s, int32_t *w, int32x4_t G) {
    const int32x4_t v = moved(s, vldrwq_s32(w), G);
    s->largest = vmaxaq_s32(s->largest, v);
    vstrwq_s32(w, v);
}

static inline void move_some(step_t *s, int32_t *w, int32x4_t G, mve_pred16_t some) {
    const int32x4_t v = moved(s, vldrwq_z_s32(w, some), G);
    s->largest = vmaxaq_m_s32(s->largest, v, some);
    vstrwq_p_s32(w, v, some);
}

/* Features [0, n) of all classes, n <= 8, w the first one's. */
static KF_NOINLINE void move_group(kf_backward_t *p, int32_t *w, uint32_t n) {
    const int16_t *e = p->errors;
    const int8_t *turned = p->scratch;
    const uint32_t samples = p->samples;
    step_t s = {vdupq_n_s32(p->rate.mantissa << 16), vdupq_n_s32(KF_WEIGHT_MAX), vdupq_n_s32(-KF_WEIGHT_MAX),
                vdupq_n_u32(p->largest), INT32_C(1) << (p->rate.shift - 17), 16 - (int32_t)p->rate.shift};
    for (uint32_t c = 0; c < p->classes; c++, e += p->stride, w += p->width) {
        const int32_t start = zero_point_term(e, samples, p->x_zp);
        if (n == KF_FEATURES_AT_ONCE) {
            move4(&s, w, gradients4(e, samples, turned, start));
            move4(&s, w + 4, gradients4(e, samples, turned + 4 * TURNED, start));
            continue;
        }
        move_some(&s, w, gradients4(e, samples, turned, start), vctp32q(n));
        if (n > 4) {
            move_some(&s, w + 4, gradients4(e, samples, turned + 4 * TURNED, start), vctp32q(n - 4));
        }
    }
    p->largest = vmaxvq_u32(0, s.largest);
}

/* The same for any rate, and with the proximal term. */
static KF_NOINLINE void move_group_any(kf_backward_t *p, uint32_t f, int32_t *w, uint32_t n) {
    const int16_t *e = p->errors;
    const int8_t *turned = p->scratch;
    const uint32_t samples = p->samples;
    for (uint32_t c = 0; c < p->classes; c++, e += p->stride, w += p->width) {
        const int32_t start = zero_point_term(e, samples, p->x_zp);
        int32_t G[KF_FEATURES_AT_ONCE];
        vstrwq_s32(G, gradients4(e, samples, turned, start));
        vstrwq_s32(G + 4, gradients4(e, samples, turned + 4 * TURNED, start));
        __asm__("" : "+m"(G)); /* GCC 12.2 does not see that VSTRW wrote it */
        kf_move_any(p, c, f, w, G, n);
    }
}

void kf_backward(kf_backward_t *p) {
    const int plain = move_is_plain(p);
    for (uint32_t f = 0, n; f < p->count; f += n) {
        n = p->count - f < KF_FEATURES_AT_ONCE ? p->count - f : KF_FEATURES_AT_ONCE;
        turn(p->features + f, p->at, p->samples, n, p->scratch);
        if (plain) {
            move_group(p, p->w + f, n);
        } else {
            move_group_any(p, f, p->w + f, n);
        }
    }
}
