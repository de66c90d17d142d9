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

/* Two words at once, at the address that is given; what follows is returned. GCC 12.2 seldom pairs them. */
static inline const int32_t *load2(const int32_t *p, uint32_t *a, uint32_t *b) {
    uint32_t first, second;
    __asm__("ldrd %0, %1, [%2], #8" : "=&r"(first), "=&r"(second), "+r"(p) : "m"(*(const int32_t(*)[2])p));
    *a = first;
    *b = second;
    return p;
}

static inline uint32_t *store2(uint32_t *p, uint32_t a, uint32_t b) {
    __asm__("strd %2, %3, [%0], #8" : "+r"(p), "=m"(*(uint32_t(*)[2])p) : "r"(a), "r"(b));
    return p;
}

static inline uint32_t twice(int32_t value) {
    return ((uint32_t)value & 0xFFFFu) * 0x10001u;
}

/* sum[j] = start + row * column j, for eight columns. Both are in int16 pairs: `row` has one word for eight of `columns`. Pairs come by twos. */
static inline void row_by_columns(const uint32_t *row, const uint32_t *columns, const uint32_t *end, int32_t start, int32_t sum[8]) {
    int32_t sum0 = start, sum1 = start, sum2 = start, sum3 = start, sum4 = start, sum5 = start, sum6 = start, sum7 = start;
    uint32_t pair, a, b;
    __asm__("1:\n\t"
            ".rept 2\n\t"
            "ldr %[r], [%[row]], #4\n\t"
            "ldrd %[a], %[b], [%[x]], #8\n\t"
            "smlad %[s0], %[a], %[r], %[s0]\n\t"
            "smlad %[s1], %[b], %[r], %[s1]\n\t"
            "ldrd %[a], %[b], [%[x]], #8\n\t"
            "smlad %[s2], %[a], %[r], %[s2]\n\t"
            "smlad %[s3], %[b], %[r], %[s3]\n\t"
            "ldrd %[a], %[b], [%[x]], #8\n\t"
            "smlad %[s4], %[a], %[r], %[s4]\n\t"
            "smlad %[s5], %[b], %[r], %[s5]\n\t"
            "ldrd %[a], %[b], [%[x]], #8\n\t"
            "smlad %[s6], %[a], %[r], %[s6]\n\t"
            "smlad %[s7], %[b], %[r], %[s7]\n\t"
            ".endr\n\t"
            "cmp %[x], %[end]\n\t"
            "bne 1b"
            : [row] "+r"(row), [x] "+r"(columns), [s0] "+r"(sum0), [s1] "+r"(sum1), [s2] "+r"(sum2), [s3] "+r"(sum3),
              [s4] "+r"(sum4), [s5] "+r"(sum5), [s6] "+r"(sum6), [s7] "+r"(sum7), [r] "=&r"(pair), [a] "=&r"(a), [b] "=&r"(b)
            : [end] "r"(end)
            : "cc", "memory");
    sum[0] = sum0;
    sum[1] = sum1;
    sum[2] = sum2;
    sum[3] = sum3;
    sum[4] = sum4;
    sum[5] = sum5;
    sum[6] = sum6;
    sum[7] = sum7;
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* Features that are packed at once: 512 bytes of stack for the samples of a tile, one column each. */
enum { PACKED = 32 };
_Static_assert(KF_TILE == 8, "a column for each sample");

/* What a block of features needs. */
typedef struct block {
    uint32_t columns[PACKED / 2 * KF_TILE]; /* pairs of x */
    uint32_t row[PACKED / 2];               /* pairs of rounded weights of one class */
    uint32_t n;                             /* features, 1 .. PACKED */
} block_t;

static inline uint32_t whole_words(uint32_t n) {
    return (n + 3u) / 4u;
}

/* n < 4 bytes as a word. */
static uint32_t bytes(const int8_t *q, uint32_t n) {
    uint32_t four = 0;
    for (uint32_t j = 0; j < n; j++) {
        four |= (uint32_t)(uint8_t)q[j] << (8 * j);
    }
    return four;
}

static inline void shift8(int32_t *z, uint32_t shift) {
    z[0] >>= shift;
    z[1] >>= shift;
    z[2] >>= shift;
    z[3] >>= shift;
    z[4] >>= shift;
    z[5] >>= shift;
    z[6] >>= shift;
    z[7] >>= shift;
}

/* Columns from features [f, f + n) of the samples. Behind the last feature a column may hold anything, since the row is zero there;
 * columns of samples that a tile lacks are those of its first. */
static void pack_samples(const kf_forward_t *p, uint32_t f, block_t *b) {
    const uint32_t offsets = twice(-p->x_zp), left = p->width - f;
    b->n = left < PACKED ? left : PACKED;
    for (uint32_t s = 0; s < KF_TILE; s += 2) {
        const int8_t *q0 = p->features + p->at[s < p->samples ? s : 0] + f, *const end = q0 + (b->n & ~3u);
        const int8_t *q1 = p->features + p->at[s + 1 < p->samples ? s + 1 : 0] + f;
        uint32_t *column = b->columns + s;
        for (; q0 != end; q0 += 4, q1 += 4, column += 2 * KF_TILE) {
            const uint32_t four0 = word(q0), four1 = word(q1);
            store2(column, even(offsets, four0), even(offsets, four1));
            store2(column + KF_TILE, odd(offsets, four0), odd(offsets, four1));
        }
        if (b->n % 4u != 0) {
            const uint32_t four0 = bytes(q0, b->n % 4u), four1 = bytes(q1, b->n % 4u);
            store2(column, even(offsets, four0), even(offsets, four1));
            store2(column + KF_TILE, odd(offsets, four0), odd(offsets, four1));
        }
    }
}

/* MLA, which GCC takes apart when it knows that `scale` is a power of two. */
static inline uint32_t scaled(uint32_t w, uint32_t scale, uint32_t half) {
    uint32_t sum;
    __asm__("mla %0, %1, %2, %3" : "=r"(sum) : "r"(w), "r"(scale), "r"(half));
    return sum;
}

/* The row of a class, rounded. (w + h) 2^(16-k) with h 2^(16-k) = 2^15 has the rounded weight in its upper half; it fits int32, as the
 * rounded one int16. */
static void pack_weights(const int32_t *w, uint32_t k, block_t *b) {
    const uint32_t scale = UINT32_C(1) << (16 - k), half = k != 0 ? 1u << 15 : 0u;
    const int32_t *const end = w + (b->n & ~3u);
    uint32_t *row = b->row;
    while (k == 0 && w != end) {
        uint32_t w0, w1, w2, w3;
        w = load2(w, &w0, &w1);
        w = load2(w, &w2, &w3);
        row = store2(row, lower(w0, w2), lower(w1, w3));
    }
    while (w != end) {
        uint32_t w0, w1, w2, w3;
        w = load2(w, &w0, &w1);
        w = load2(w, &w2, &w3);
        row = store2(row, upper(scaled(w0, scale, half), scaled(w2, scale, half)),
                     upper(scaled(w1, scale, half), scaled(w3, scale, half)));
    }
    if (b->n % 4u != 0) {
        uint32_t v[4] = {0, 0, 0, 0};
        for (uint32_t j = 0; j < b->n % 4u; j++) {
            v[j] = scaled((uint32_t)w[j], scale, half);
        }
        row[0] = upper(v[0], v[2]);
        row[1] = upper(v[1], v[3]);
    }
}

/* sum[s] = start + the block's dot products of a class, w from its first feature on. */
static inline void class_by_samples(const int32_t *w, uint32_t k, block_t *b, int32_t start, int32_t sum[KF_TILE]) {
    pack_weights(w, k, b);
    row_by_columns(b->row, b->columns, b->columns + 2 * KF_TILE * whole_words(b->n), start, sum);
}

/* All features in one block. */
static void logits(const kf_forward_t *p, block_t *b) {
    const uint32_t shift = 8u - p->k;
    const int32_t *w = p->w;
    int32_t *z = p->z;
    pack_samples(p, 0, b);
    for (uint32_t c = 0; c < p->classes; c++, w += p->width, z += KF_TILE) {
        class_by_samples(w, p->k, b, kf_first_term(p->bias[c], p->k), z);
        shift8(z, shift);
    }
}

/* Up to KF_BLOCK features: the logits hold the sums until the last block. */
static void logits_of_blocks(const kf_forward_t *p, block_t *b) {
    for (uint32_t f = 0; f < p->width; f += PACKED) {
        const int32_t *w = p->w + f;
        pack_samples(p, f, b);
        const int last = f + PACKED >= p->width;
        int32_t *z = p->z;
        for (uint32_t c = 0; c < p->classes; c++, w += p->width, z += KF_TILE) {
            if (f == 0) {
                class_by_samples(w, p->k, b, kf_first_term(p->bias[c], p->k), z);
                continue;
            }
            int32_t sum[KF_TILE];
            class_by_samples(w, p->k, b, 0, sum);
            for (uint32_t s = 0; s < KF_TILE; s++) {
                z[s] += sum[s];
            }
            if (last) {
                shift8(z, 8u - p->k);
            }
        }
    }
}

/* Any number of features, for a few classes: blocks are summed in int64. */
enum { WIDE_CLASSES = 4 };

static void wide_logits(const kf_forward_t *p, uint32_t c, uint32_t classes, block_t *b) {
    int64_t wide[WIDE_CLASSES][KF_TILE];
    for (uint32_t f = 0; f < p->width; f += PACKED) {
        pack_samples(p, f, b);
        for (uint32_t j = 0; j < classes; j++) {
            int32_t sum[KF_TILE];
            class_by_samples(p->w + (size_t)(c + j) * p->width + f, p->k, b, 0, sum);
            for (uint32_t s = 0; s < KF_TILE; s++) {
                wide[j][s] = (f == 0 ? kf_first_term(p->bias[c + j], p->k) : wide[j][s]) + sum[s];
            }
        }
    }
    for (uint32_t j = 0; j < classes; j++) {
        for (uint32_t s = 0; s < KF_TILE; s++) {
            p->z[(c + j) * KF_TILE + s] = kf_wide_logit(wide[j][s], p->k);
        }
    }
}

void kf_forward(const kf_forward_t *p) {
    block_t b;
    if (p->width <= PACKED) {
        logits(p, &b);
    } else if (p->width <= KF_BLOCK) {
        logits_of_blocks(p, &b);
    } else {
        for (uint32_t c = 0; c < p->classes; c += WIDE_CLASSES) {
            wide_logits(p, c, p->classes - c < WIDE_CLASSES ? p->classes - c : WIDE_CLASSES, &b);
        }
    }
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* Four features of two samples as pairs (sample 0, sample 1). */
static inline uint32_t *pack4(uint32_t four0, uint32_t four1, uint32_t offsets, uint32_t *packed) {
    const uint32_t even0 = even(offsets, four0), even1 = even(offsets, four1);
    const uint32_t odd0 = odd(offsets, four0), odd1 = odd(offsets, four1);
    packed = store2(packed, lower(even0, even1), lower(odd0, odd1));
    return store2(packed, upper(even0, even1), upper(odd0, odd1));
}

/* Features [0, n) of every sample, n <= 8: eight words for each pair of samples, padded with zeros to 8 features and to a multiple of four samples,
 * so that the errors behind the last sample do not count. Returns the end. */
static uint32_t *pack_features(const int8_t *features, const uint32_t *at, uint32_t samples, uint32_t n, int32_t x_zp,
                               uint32_t *packed) {
    const uint32_t offsets = twice(-x_zp);
    uint32_t i = 0;
    if (n == KF_FEATURES_AT_ONCE) {
        for (; i + 2 <= samples; i += 2) {
            const int8_t *q0 = features + at[i], *q1 = features + at[i + 1];
            packed = pack4(word(q0), word(q1), offsets, packed);
            packed = pack4(word(q0 + 4), word(q1 + 4), offsets, packed);
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

/* A step of a pair of weights that are not the largest so far, where move_is_plain(): see move_plainly(). */
typedef struct step {
    int32_t mantissa, half;
    uint32_t shift, largest;
} step_t;

static inline int32_t stepped(uint32_t w, uint32_t G, const step_t *s) {
    int32_t sum;
    __asm__("smmla %0, %1, %2, %3" : "=r"(sum) : "r"(G), "r"(s->mantissa), "r"(s->half));
    return (int32_t)w - (sum >> s->shift);
}

static inline int is_below(int32_t v, uint32_t largest) {
    return __builtin_expect((uint32_t)(v ^ (v >> 31)) < largest, 1);
}

/* Weights 2 pair and 2 pair + 1 of eight. */
static inline __attribute__((always_inline)) void move_pair(int32_t *w, const int32_t *G, int pair, step_t *s) {
    uint32_t G0, G1, w0, w1;
    __asm__("ldrd %0, %1, [%2, %3]" : "=r"(G0), "=r"(G1) : "r"(G), "i"(8 * pair), "m"(*(const int32_t(*)[8])G));
    __asm__("ldrd %0, %1, [%2, %3]" : "=r"(w0), "=r"(w1) : "r"(w), "i"(8 * pair), "m"(*(const int32_t(*)[8])w));
    int32_t v0 = stepped(w0, G0, s), v1 = stepped(w1, G1, s);
    if (!is_below(v0, s->largest)) {
        s->largest = in_range(&v0, s->largest);
    }
    if (!is_below(v1, s->largest)) {
        s->largest = in_range(&v1, s->largest);
    }
    __asm__("strd %1, %2, [%3, %4]" : "+m"(*(int32_t(*)[8])w) : "r"(v0), "r"(v1), "r"(w), "i"(8 * pair));
}

/* Eight weights of each class; G[classes][8]. */
static void move_rows(kf_backward_t *p, int32_t *w, const int32_t *G, uint32_t classes) {
    step_t s = {p->rate.mantissa << 16, INT32_C(1) << (p->rate.shift - 17), p->rate.shift - 16u, p->largest};
    for (const int32_t *const end = G + classes * KF_FEATURES_AT_ONCE; G != end; G += KF_FEATURES_AT_ONCE, w += p->width) {
        move_pair(w, G, 0, &s);
        move_pair(w, G, 1, &s);
        move_pair(w, G, 2, &s);
        move_pair(w, G, 3, &s);
    }
    p->largest = s.largest;
}

/* Classes whose gradients are kept until they are moved: 256 bytes of stack. */
enum { CLASSES_AT_ONCE = 8 };

void kf_backward(kf_backward_t *p) {
    const int plain = move_is_plain(p);
    for (uint32_t f = 0, n; f < p->count; f += n) {
        n = p->count - f < KF_FEATURES_AT_ONCE ? p->count - f : KF_FEATURES_AT_ONCE;
        const uint32_t *end = pack_features(p->features + f, p->at, p->samples, n, p->x_zp, p->scratch);
        const int16_t *e = p->errors;
        int32_t *w = p->w + f;
        for (uint32_t c = 0, classes; c < p->classes; c += classes) {
            int32_t G[CLASSES_AT_ONCE * KF_FEATURES_AT_ONCE];
            classes = p->classes - c < CLASSES_AT_ONCE ? p->classes - c : CLASSES_AT_ONCE;
            for (int32_t *at = G; at != G + classes * KF_FEATURES_AT_ONCE; at += KF_FEATURES_AT_ONCE, e += p->stride) {
                row_by_columns((const uint32_t *)(const void *)e, p->scratch, end, 0, at); /* pairs of errors */
            }
            if (plain && n == KF_FEATURES_AT_ONCE) {
                move_rows(p, w, G, classes);
                w += classes * p->width;
                continue;
            }
            for (uint32_t j = 0; j < classes; j++, w += p->width) {
                kf_move_any(p, c + j, f, w, G + j * KF_FEATURES_AT_ONCE, n);
            }
        }
    }
}
