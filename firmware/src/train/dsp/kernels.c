/* The kernels for Arm cores with the DSP extension (ARMv7E-M, ARMv8-M Main with DSP): two multiply-accumulates an instruction.
 *
 * SMLAD adds two products of int16 pairs, modulo 2^32, as the sums are defined. What it multiplies is prepared once and used often:
 * rounded weights of two classes by all samples of a tile, features of all samples of the batch by all classes. Features are read
 * as words of four int8, at any address, and SXTAB16 makes pairs of them (values 0 and 2; rotated, 1 and 3) and adds -x_zp on
 * the way: |x| <= 255.
 *
 * The inner loops are written out: they need every register there is, and GCC 12.2 spills some.
 */
#include "../kernels.h"

#include <arm_acle.h>

#include "../fixed.h"
#include "../move.h"

const uint32_t kf_backward_features = KF_FEATURES_AT_ONCE;

static inline uint32_t word(const int8_t *p) {
    uint32_t value;
    __builtin_memcpy(&value, p, sizeof value); /* one LDR, wherever it lies */
    return value;
}

/* int16 pairs of -x_zp + values 0 and 2, and 1 and 3, of four. The compiler has no intrinsic for the rotated form. */
static inline uint32_t even(uint32_t offsets, uint32_t four) {
    return (uint32_t)__sxtab16((int16x2_t)offsets, (int8x4_t)four);
}

static inline uint32_t odd(uint32_t offsets, uint32_t four) {
    uint32_t pair;
    __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(pair) : "r"(offsets), "r"(four));
    return pair;
}

/* A pair of two lower halves, and of two upper ones; `a` becomes the lower half. */
static inline uint32_t lower(uint32_t a, uint32_t b) {
    uint32_t pair;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(pair) : "r"(a), "r"(b));
    return pair;
}

static inline uint32_t upper(uint32_t a, uint32_t b) {
    uint32_t pair;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(pair) : "r"(b), "r"(a));
    return pair;
}

static inline uint32_t twice(int32_t value) {
    return ((uint32_t)value & 0xFFFFu) * 0x10001u;
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* Features whose weights are packed at once: 256 bytes of stack for two classes. */
enum { PACKED = 64, WORDS = PACKED }; /* four words for four features of two classes */

/* Weights of two classes, rounded: for four features f.. the pairs (f, f+2) of class 0, of class 1, (f+1, f+3) of 0, of 1. n, a multiple
 * of 4. (w + h) 2^(16-k) with h 2^(16-k) = 2^15 has the rounded weight in its upper half; it fits int32, as the rounded one int16. */
static void pack(const int32_t *w0, const int32_t *w1, uint32_t n, uint32_t k, uint32_t *packed) {
    const uint32_t scale = UINT32_C(1) << (16 - k), half = k != 0 ? 1u << 15 : 0u;
    const int32_t *const end = w0 + n;
    for (; w0 < end; w0 += 4, w1 += 4, packed += 4) {
        packed[0] = upper((uint32_t)w0[0] * scale + half, (uint32_t)w0[2] * scale + half);
        packed[1] = upper((uint32_t)w1[0] * scale + half, (uint32_t)w1[2] * scale + half);
        packed[2] = upper((uint32_t)w0[1] * scale + half, (uint32_t)w0[3] * scale + half);
        packed[3] = upper((uint32_t)w1[1] * scale + half, (uint32_t)w1[3] * scale + half);
    }
}

/* sum[0], sum[1] += dot products of sample x0 with the two classes, sum[2], sum[3] of x1. At least four features. */
static inline void dot2x2(const uint32_t *packed, const uint32_t *end, const int8_t *x0, const int8_t *x1, uint32_t offsets,
                          int32_t sum[4]) {
    int32_t sum0 = sum[0], sum1 = sum[1], sum2 = sum[2], sum3 = sum[3];
    uint32_t four0, four1, pair, w0, w1;
    __asm__("1:\n\t"
            "ldr %[a], [%[x0]], #4\n\t"
            "ldr %[b], [%[x1]], #4\n\t"
            "ldrd %[w0], %[w1], [%[w]], #8\n\t"
            "sxtab16 %[t], %[offsets], %[a]\n\t"
            "smlad %[s0], %[t], %[w0], %[s0]\n\t"
            "smlad %[s1], %[t], %[w1], %[s1]\n\t"
            "sxtab16 %[t], %[offsets], %[b]\n\t"
            "smlad %[s2], %[t], %[w0], %[s2]\n\t"
            "smlad %[s3], %[t], %[w1], %[s3]\n\t"
            "ldrd %[w0], %[w1], [%[w]], #8\n\t"
            "sxtab16 %[a], %[offsets], %[a], ror #8\n\t"
            "sxtab16 %[b], %[offsets], %[b], ror #8\n\t"
            "smlad %[s0], %[a], %[w0], %[s0]\n\t"
            "smlad %[s1], %[a], %[w1], %[s1]\n\t"
            "smlad %[s2], %[b], %[w0], %[s2]\n\t"
            "smlad %[s3], %[b], %[w1], %[s3]\n\t"
            "cmp %[w], %[end]\n\t"
            "bne 1b"
            : [x0] "+r"(x0), [x1] "+r"(x1), [w] "+r"(packed), [s0] "+r"(sum0), [s1] "+r"(sum1), [s2] "+r"(sum2), [s3] "+r"(sum3),
              [a] "=&r"(four0), [b] "=&r"(four1), [t] "=&r"(pair), [w0] "=&r"(w0), [w1] "=&r"(w1)
            : [offsets] "r"(offsets), [end] "r"(end)
            : "cc", "memory");
    sum[0] = sum0;
    sum[1] = sum1;
    sum[2] = sum2;
    sum[3] = sum3;
}

/* A block of at most PACKED features of two classes and a tile of samples. */
typedef struct block {
    uint32_t packed[WORDS];
    const int32_t *w0, *w1; /* of the block's first feature; equal where there is no second class */
    uint32_t n, k;
    int32_t x_zp;
} block_t;

/* sum[0..3] += what samples x0 and x1 have with both classes. */
static void add_block(const block_t *b, const int8_t *x0, const int8_t *x1, int32_t sum[4]) {
    const uint32_t whole = b->n & ~3u;
    if (whole != 0) {
        dot2x2(b->packed, b->packed + whole, x0, x1, twice(-b->x_zp), sum);
    }
    const int32_t half = (INT32_C(1) << b->k) >> 1;
    for (uint32_t f = whole; f < b->n; f++) {
        const int32_t v0 = (b->w0[f] + half) >> b->k, v1 = (b->w1[f] + half) >> b->k;
        sum[0] += v0 * (x0[f] - b->x_zp);
        sum[1] += v1 * (x0[f] - b->x_zp);
        sum[2] += v0 * (x1[f] - b->x_zp);
        sum[3] += v1 * (x1[f] - b->x_zp);
    }
}

static void next_block(block_t *b, const int32_t *w0, const int32_t *w1, uint32_t left) {
    b->w0 = w0;
    b->w1 = w1;
    b->n = left < PACKED ? left : PACKED;
    pack(w0, w1, b->n & ~3u, b->k, b->packed);
}

/* A block is summed in int32, its first term included: PACKED <= KF_BLOCK. */
static void two_classes(const kf_forward_t *p, block_t *b, const int32_t *w0, const int32_t *w1, int32_t first0, int32_t first1,
                        int32_t *z) {
    const uint32_t shift = 8u - p->k;
    next_block(b, w0, w1, p->width);
    for (uint32_t i = 0; i < p->samples; i += 2) {
        const uint32_t j = i + 1 < p->samples ? i + 1 : i;
        const int8_t *x0 = p->features + p->at[i], *x1 = p->features + p->at[j];
        int32_t sum[4] = {first0, first1, first0, first1};
        add_block(b, x0, x1, sum);
        int32_t *z0 = z + i * p->z_stride, *z1 = z + j * p->z_stride;
        z1[0] = sum[2] >> shift;
        z0[0] = sum[0] >> shift;
        if (w1 != w0) {
            z1[1] = sum[3] >> shift;
            z0[1] = sum[1] >> shift;
        }
    }
}

static void two_classes_wide(const kf_forward_t *p, block_t *b, const int32_t *w0, const int32_t *w1, int32_t first0,
                             int32_t first1, int32_t *z) {
    int64_t wide[KF_TILE + 1][2];
    for (uint32_t i = 0; i < p->samples; i++) {
        wide[i][0] = first0;
        wide[i][1] = first1;
    }
    for (uint32_t f = 0; f < p->width; f += PACKED) {
        next_block(b, w0 + f, w1 + f, p->width - f);
        for (uint32_t i = 0; i < p->samples; i += 2) {
            const uint32_t j = i + 1 < p->samples ? i + 1 : i;
            int32_t sum[4] = {0, 0, 0, 0};
            add_block(b, p->features + p->at[i] + f, p->features + p->at[j] + f, sum);
            wide[i][0] += sum[0];
            wide[i][1] += sum[1];
            wide[i + 1][0] += sum[2];
            wide[i + 1][1] += sum[3];
        }
    }
    for (uint32_t i = 0; i < p->samples; i++) {
        z[i * p->z_stride] = kf_wide_logit(wide[i][0], p->k);
        if (w1 != w0) {
            z[i * p->z_stride + 1] = kf_wide_logit(wide[i][1], p->k);
        }
    }
}

void kf_forward(const kf_forward_t *p) {
    block_t b = {.k = p->k, .x_zp = p->x_zp};
    for (uint32_t c = 0; c < p->classes; c += 2) {
        const uint32_t d = c + 1 < p->classes ? c + 1 : c;
        const int32_t *w0 = p->w + (size_t)c * p->width, *w1 = p->w + (size_t)d * p->width;
        const int32_t first0 = kf_first_term(p->bias[c], p->k), first1 = kf_first_term(p->bias[d], p->k);
        if (p->width <= PACKED) {
            two_classes(p, &b, w0, w1, first0, first1, p->z + c);
        } else {
            two_classes_wide(p, &b, w0, w1, first0, first1, p->z + c);
        }
    }
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* Upper half of a long product: SMMUL. |G M 2^16| < 2^62. */
static inline int32_t scale(int32_t G, int32_t mantissa) {
    return (int32_t)(((int64_t)G * (mantissa << 16)) >> 32);
}

/* Four features of two samples as pairs (sample 0, sample 1). */
static inline void pack4(uint32_t four0, uint32_t four1, uint32_t offsets, uint32_t *packed) {
    const uint32_t even0 = even(offsets, four0), even1 = even(offsets, four1);
    const uint32_t odd0 = odd(offsets, four0), odd1 = odd(offsets, four1);
    packed[0] = lower(even0, even1);
    packed[1] = lower(odd0, odd1);
    packed[2] = upper(even0, even1);
    packed[3] = upper(odd0, odd1);
}

/* Features [0, n) of every sample, n <= 8: eight words for each pair of samples, padded with zeros to 8 features and to a multiple of four samples,
 * so that the errors behind the last sample do not count. Returns the end. */
static uint32_t *pack_features(const int8_t *features, const uint32_t *at, uint32_t samples, uint32_t n, int32_t x_zp,
                               uint32_t *packed) {
    const uint32_t offsets = twice(-x_zp);
    uint32_t i = 0;
    if (n == KF_FEATURES_AT_ONCE) {
        for (; i + 2 <= samples; i += 2, packed += 8) {
            const int8_t *q0 = features + at[i], *q1 = features + at[i + 1];
            pack4(word(q0), word(q1), offsets, packed);
            pack4(word(q0 + 4), word(q1 + 4), offsets, packed + 4);
        }
    }
    for (; i < ((samples + 3u) & ~3u); i += 2, packed += 8) {
        for (uint32_t j = 0; j < 8; j++) {
            const int32_t x0 = i < samples && j < n ? features[at[i] + j] - x_zp : 0;
            const int32_t x1 = i + 1 < samples && j < n ? features[at[i + 1] + j] - x_zp : 0;
            packed[j] = lower((uint32_t)x0, (uint32_t)x1);
        }
    }
    return packed;
}

/* G[j] = sum_i e[i] * x_i[j]. */
static inline void gradient8(const uint32_t *packed, const uint32_t *end, const int16_t *e, int32_t G[KF_FEATURES_AT_ONCE]) {
    int32_t G0 = 0, G1 = 0, G2 = 0, G3 = 0, G4 = 0, G5 = 0, G6 = 0, G7 = 0;
    uint32_t pair, a, b;
    __asm__("1:\n\t"
            ".rept 2\n\t"
            "ldr %[e], [%[errors]], #4\n\t"
            "ldrd %[a], %[b], [%[x]], #8\n\t"
            "smlad %[g0], %[a], %[e], %[g0]\n\t"
            "smlad %[g1], %[b], %[e], %[g1]\n\t"
            "ldrd %[a], %[b], [%[x]], #8\n\t"
            "smlad %[g2], %[a], %[e], %[g2]\n\t"
            "smlad %[g3], %[b], %[e], %[g3]\n\t"
            "ldrd %[a], %[b], [%[x]], #8\n\t"
            "smlad %[g4], %[a], %[e], %[g4]\n\t"
            "smlad %[g5], %[b], %[e], %[g5]\n\t"
            "ldrd %[a], %[b], [%[x]], #8\n\t"
            "smlad %[g6], %[a], %[e], %[g6]\n\t"
            "smlad %[g7], %[b], %[e], %[g7]\n\t"
            ".endr\n\t"
            "cmp %[x], %[end]\n\t"
            "bne 1b"
            : [x] "+r"(packed), [errors] "+r"(e), [g0] "+r"(G0), [g1] "+r"(G1), [g2] "+r"(G2), [g3] "+r"(G3), [g4] "+r"(G4),
              [g5] "+r"(G5), [g6] "+r"(G6), [g7] "+r"(G7), [e] "=&r"(pair), [a] "=&r"(a), [b] "=&r"(b)
            : [end] "r"(end)
            : "cc", "memory");
    G[0] = G0;
    G[1] = G1;
    G[2] = G2;
    G[3] = G3;
    G[4] = G4;
    G[5] = G5;
    G[6] = G6;
    G[7] = G7;
}

void kf_backward(kf_backward_t *p) {
    const int plain = move_is_plain(p);
    for (uint32_t f = 0, n; f < p->count; f += n) {
        n = p->count - f < KF_FEATURES_AT_ONCE ? p->count - f : KF_FEATURES_AT_ONCE;
        const uint32_t *end = pack_features(p->features + f, p->at, p->samples, n, p->x_zp, p->scratch);
        const int16_t *e = p->errors;
        int32_t *w = p->w + f;
        for (uint32_t c = 0; c < p->classes; c++, e += p->stride, w += p->width) {
            int32_t G[KF_FEATURES_AT_ONCE];
            gradient8(p->scratch, end, e, G);
            if (plain) {
                move_plainly(p, w, G, n, scale);
            } else {
                kf_move_any(p, c, f, w, G, n);
            }
        }
    }
}
