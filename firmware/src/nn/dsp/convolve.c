/* Convolutions on cores with the DSP extension: three or two patches against two filters at once.
 *
 * Patches are int16. Of each four values the order is 0, 2, 1, 3, which SXTB16 makes of four weights, and patches lie
 * interleaved: for P patches, P words with values 0 and 2 of each, then P words with values 1 and 3, and so on, so that one
 * pointer serves them all. What does not fill four values is filled up with zeros.
 *
 *                                    instructions          loads and cycles (see words.h)
 *     3 patches x 2 filters          23 for 24 products    9 in two groups, 27 cycles
 *     2 patches x 2 filters          18 for 16 products    6 in one group, 19 cycles
 */
#include "words.h"

int32_t kf_patch_bias(const int8_t *w, int32_t terms, int32_t x_offset) {
    (void)w;
    (void)terms;
    (void)x_offset;
    return 0;
}

int32_t kf_patches_at_once(const kf_patches_t *p) {
    (void)p;
    return 3;
}

/* Whole words at a word's place: the most frequent case by far. */
static void put_words(uint32_t *to, int32_t step, const int8_t *x, int32_t words, int16x2_t offset) {
    uint32_t *odd = to + step;
    for (step *= 2; words >= 2; words -= 2, x += 8) {
        uint32_t first = kf_word(x), second = kf_word(x + 4);
        *to = (uint32_t)kf_even_plus(offset, first);
        *odd = (uint32_t)kf_odd_plus(offset, first);
        to += step;
        odd += step;
        *to = (uint32_t)kf_even_plus(offset, second);
        *odd = (uint32_t)kf_odd_plus(offset, second);
        to += step;
        odd += step;
    }
    if (words > 0) {
        uint32_t last = kf_word(x);
        *to = (uint32_t)kf_even_plus(offset, last);
        *odd = (uint32_t)kf_odd_plus(offset, last);
    }
}

/* Any run: p->filled holds what was put before and does not make four values yet, at % 4 of them. */
static KF_NOINLINE void put_run(kf_patches_t *p, uint32_t *to, int32_t at, const int8_t *x, int32_t count) {
    int32_t step = p->patches;
    uint32_t zeros = ((uint32_t)-p->x_offset & 0xFFu) * 0x01010101u; /* four values that become 0 */
    uint32_t kept = (uint32_t)p->filled;
    int16x2_t offset = kf_both(p->x_offset);
    int32_t bits = (at & 3) * 8;
    int32_t last = at + count == p->terms;
    for (; count >= 4; count -= 4) {
        uint32_t four = zeros;
        if (x != NULL) {
            four = kf_word(x);
            x += 4;
        }
        uint32_t next = kept;
        if (bits != 0) {
            next = four >> (32 - bits);
            four = kept | four << bits;
        }
        to[0] = (uint32_t)kf_even_plus(offset, four);
        to[step] = (uint32_t)kf_odd_plus(offset, four);
        to += 2 * step;
        kept = next;
    }
    for (; count > 0 || (last && bits != 0); count--) {
        uint32_t one = zeros & 0xFFu;
        if (x != NULL && count > 0) {
            one = (uint8_t)*x++;
        }
        kept |= one << bits;
        bits += 8;
        if (bits == 32) {
            to[0] = (uint32_t)kf_even_plus(offset, kept);
            to[step] = (uint32_t)kf_odd_plus(offset, kept);
            to += 2 * step;
            kept = 0;
            bits = 0;
        }
    }
    p->filled = (int32_t)kept;
}

void kf_patch_put(kf_patches_t *p, int32_t index, int32_t at, const int8_t *x, int32_t count) {
    if (count <= 0) {
        return;
    }
    uint32_t *to = p->memory + (at >> 2) * 2 * p->patches + index;
    if (x != NULL && ((at | count) & 3) == 0) {
        put_words(to, p->patches, x, count >> 2, kf_both(p->x_offset));
    } else {
        put_run(p, to, at, x, count);
    }
}

/* ---- blocks: whole words of weights -------------------------------------------------------------------------------- */

/* Four times `body`, entered so that the number of turns is that of the words. */
#define FOUR_TIMES(body)                \
    "cmp %[t], #2\n\t"                  \
    "bgt 3f\n\t"                        \
    "beq 2f\n\t"                        \
    "cmp %[t], #1\n\t"                  \
    "beq 1f\n\t"                        \
    "4:\n\t" body "3:\n\t" body         \
    "2:\n\t" body "1:\n\t" body         \
    "ldr %[t], %[end]\n\t"              \
    "cmp %[x], %[t]\n\t"                \
    "bne 4b"

/* The second filter's distance has no register left. */
#define BODY3                           \
    "ldr %[t], %[step]\n\t"             \
    "ldr %[v], [%[w]], #4\n\t"          \
    "ldr %[a], [%[x]], #12\n\t"         \
    "ldr %[b], [%[x], #-8]\n\t"         \
    "ldr %[c], [%[x], #-4]\n\t"         \
    "ldr %[u], [%[w], %[t]]\n\t"        \
    "sxtb16 %[t], %[v]\n\t"             \
    "smlad %[s0], %[a], %[t], %[s0]\n\t" \
    "smlad %[s1], %[b], %[t], %[s1]\n\t" \
    "smlad %[s2], %[c], %[t], %[s2]\n\t" \
    "sxtb16 %[t], %[u]\n\t"             \
    "smlad %[s3], %[a], %[t], %[s3]\n\t" \
    "smlad %[s4], %[b], %[t], %[s4]\n\t" \
    "smlad %[s5], %[c], %[t], %[s5]\n\t" \
    "ldmia %[x]!, {%[a], %[b], %[c]}\n\t" \
    "sxtb16 %[v], %[v], ror #8\n\t"     \
    "sxtb16 %[u], %[u], ror #8\n\t"     \
    "smlad %[s0], %[a], %[v], %[s0]\n\t" \
    "smlad %[s1], %[b], %[v], %[s1]\n\t" \
    "smlad %[s2], %[c], %[v], %[s2]\n\t" \
    "smlad %[s3], %[a], %[u], %[s3]\n\t" \
    "smlad %[s4], %[b], %[u], %[s4]\n\t" \
    "smlad %[s5], %[c], %[u], %[s5]\n\t"

#define BODY2                           \
    "ldr %[v], [%[w]], #4\n\t"          \
    "ldr %[u], [%[w1]], #4\n\t"         \
    "ldr %[a], [%[x]], #16\n\t"         \
    "ldr %[b], [%[x], #-12]\n\t"        \
    "ldr %[c], [%[x], #-8]\n\t"         \
    "ldr %[d], [%[x], #-4]\n\t"         \
    "sxtb16 %[t], %[v]\n\t"             \
    "smlad %[s0], %[a], %[t], %[s0]\n\t" \
    "smlad %[s1], %[b], %[t], %[s1]\n\t" \
    "sxtb16 %[t], %[u]\n\t"             \
    "smlad %[s2], %[a], %[t], %[s2]\n\t" \
    "smlad %[s3], %[b], %[t], %[s3]\n\t" \
    "sxtb16 %[v], %[v], ror #8\n\t"     \
    "sxtb16 %[u], %[u], ror #8\n\t"     \
    "smlad %[s0], %[c], %[v], %[s0]\n\t" \
    "smlad %[s1], %[d], %[v], %[s1]\n\t" \
    "smlad %[s2], %[c], %[u], %[s2]\n\t" \
    "smlad %[s3], %[d], %[u], %[s3]\n\t"

/* Sums of the first filter on each patch, then of the second. */
typedef struct sums {
    int32_t s0, s1, s2, s3, s4, s5;
} sums_t;

/* What blocks of one kf_convolve() have in common. */
typedef struct blocks {
    const uint32_t *x, *end; /* the patches, and behind their whole words */
    int32_t words;           /* of a filter, whole */
    int32_t terms;
    int32_t second; /* from the first filter's next word to the second's this one */
} blocks_t;

static inline void block3(const blocks_t *b, const int8_t *w, sums_t *sum) {
    const uint32_t *x = b->x;
    int32_t s0 = sum->s0, s1 = sum->s1, s2 = sum->s2, s3 = sum->s3, s4 = sum->s4, s5 = sum->s5;
    uint32_t t = (uint32_t)b->words & 3u, u, v;
    register uint32_t x0 __asm__("r1"); /* LDM wants them in this order */
    register uint32_t x1 __asm__("r2");
    register uint32_t x2 __asm__("r3");
    __asm__(FOUR_TIMES(BODY3)
            : [x] "+r"(x), [w] "+r"(w), [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [s4] "+r"(s4),
              [s5] "+r"(s5), [t] "+r"(t), [u] "=&r"(u), [v] "=&r"(v), [a] "=&r"(x0), [b] "=&r"(x1), [c] "=&r"(x2)
            : [step] "m"(b->second), [end] "m"(b->end)
            : "cc", "memory");
    *sum = (sums_t){s0, s1, s2, s3, s4, s5};
}

static inline void block2(const blocks_t *b, const int8_t *w, sums_t *sum) {
    const uint32_t *x = b->x;
    const int8_t *w1 = w + b->terms;
    int32_t s0 = sum->s0, s1 = sum->s1, s2 = sum->s2, s3 = sum->s3;
    uint32_t t = (uint32_t)b->words & 3u, x0, x1, x2, x3, u, v;
    __asm__(FOUR_TIMES(BODY2)
            : [x] "+r"(x), [w] "+r"(w), [w1] "+r"(w1), [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3),
              [t] "+r"(t), [a] "=&r"(x0), [b] "=&r"(x1), [c] "=&r"(x2), [d] "=&r"(x3), [u] "=&r"(u), [v] "=&r"(v)
            : [end] "m"(b->end)
            : "cc", "memory");
    *sum = (sums_t){s0, s1, s2, s3, 0, 0};
}

/* ---- all filters --------------------------------------------------------------------------------------------------- */

/* One word of weights on one patch of several. */
static inline int32_t word(int32_t sum, const uint32_t *x, int32_t patches, uint32_t w) {
    return kf_dot_word(sum, (int16x2_t)x[0], (int16x2_t)x[patches], w);
}

/* What is left of two filters behind their whole words. */
static KF_NOINLINE void add_rests(const blocks_t *b, int32_t patches, const int8_t *w, sums_t *sum) {
    const uint32_t *x = b->end;
    int32_t *at = &sum->s0;
    uint32_t first = kf_last_word(w, b->terms), second = kf_last_word(w + b->terms, b->terms);
    int16x2_t even0 = kf_even(first), odd0 = kf_odd(first), even1 = kf_even(second), odd1 = kf_odd(second);
    for (int32_t i = 0; i < patches; i++, at++, x++) {
        int16x2_t even = (int16x2_t)x[0], odd = (int16x2_t)x[patches];
        at[0] = __smlad(odd, odd0, __smlad(even, even0, at[0]));
        at[patches] = __smlad(odd, odd1, __smlad(even, even1, at[patches]));
    }
}

/* Outputs of two filters that are not tight. */
static KF_NOINLINE void put_any(const kf_output_t *o, const kf_channel_t *channel, const sums_t *sum, int32_t patches,
                                int8_t *out, int32_t out_step) {
    const int32_t *at = &sum->s0;
    for (int32_t k = 0; k < 2; k++, channel++, out++) {
        for (int32_t i = 0; i < patches; i++) {
            out[i * out_step] = kf_value(o, channel, *at++);
        }
    }
}

/* One filter on each patch. */
static KF_NOINLINE void one_filter(const kf_filters_t *f, const blocks_t *b, int32_t patches, int32_t filter, int8_t *out,
                                   int32_t out_step) {
    const kf_channel_t *channel = &f->channels[filter];
    const int8_t *filter_w = f->w + filter * b->terms;
    for (int32_t k = 0; k < patches; k++) {
        const uint32_t *x = b->x + k;
        const int8_t *w = filter_w;
        int32_t sum = channel->bias;
        for (int32_t left = b->words; left > 0; left--, x += 2 * patches, w += 4) {
            sum = word(sum, x, patches, kf_word(w));
        }
        if ((b->terms & 3) != 0) {
            sum = word(sum, x, patches, kf_last_word(filter_w, b->terms));
        }
        out[k * out_step + filter] = kf_value(&f->output, channel, sum);
    }
}

/* Tight values of one filter. `patches` is a constant. */
static inline void put_tight(int32_t up, const kf_channel_t *channel, int32_t s0, int32_t s1, int32_t s2, int32_t patches,
                             int8_t *out, int32_t out_step) {
    int32_t mult = channel->mult, right = channel->right;
    up <<= right;
    out[0] = (int8_t)kf_tight(s0, mult, up, right);
    out[out_step] = (int8_t)kf_tight(s1, mult, up, right);
    if (patches == 3) {
        out[2 * out_step] = (int8_t)kf_tight(s2, mult, up, right);
    }
}

/* All filters, two in a turn. `patches` is a constant. */
static inline __attribute__((always_inline)) void pairs(const kf_filters_t *f, const kf_patches_t *p, int32_t patches,
                                                        int8_t *out, int32_t out_step) {
    int32_t terms = p->terms, words = terms >> 2;
    const blocks_t b = {p->memory, p->memory + 2 * patches * words, words, terms, terms - 4};
    int32_t up = kf_is_tight(&f->output) ? 2 * f->output.zp + 1 : 0; /* odd, so 0 says no */
    const int8_t *w = f->w;
    const kf_channel_t *channel = f->channels, *end = channel + (f->count & ~1);
    for (; channel != end; channel += 2, w += 2 * terms, out += 2) {
        int32_t b0 = channel[0].bias, b1 = channel[1].bias;
        sums_t sum = {b0, b0, b1, b1, 0, 0};
        if (patches == 3) {
            sum = (sums_t){b0, b0, b0, b1, b1, b1};
        }
        if (words > 0) {
            if (patches == 3) {
                block3(&b, w, &sum);
            } else {
                block2(&b, w, &sum);
            }
        }
        if ((terms & 3) != 0) {
            sums_t all = sum;
            add_rests(&b, patches, w, &all);
            sum = all;
        }
        if (up == 0) {
            sums_t all = sum;
            put_any(&f->output, channel, &all, patches, out, out_step);
        } else if (patches == 3) {
            put_tight(up, channel, sum.s0, sum.s1, sum.s2, 3, out, out_step);
            put_tight(up, channel + 1, sum.s3, sum.s4, sum.s5, 3, out + 1, out_step);
        } else {
            put_tight(up, channel, sum.s0, sum.s1, 0, 2, out, out_step);
            put_tight(up, channel + 1, sum.s2, sum.s3, 0, 2, out + 1, out_step);
        }
    }
    if ((f->count & 1) != 0) {
        one_filter(f, &b, patches, f->count - 1, out - (f->count - 1), out_step);
    }
}

static KF_NOINLINE void on_three(const kf_filters_t *f, const kf_patches_t *p, int8_t *out, int32_t out_step) {
    pairs(f, p, 3, out, out_step);
}

static KF_NOINLINE void on_two(const kf_filters_t *f, const kf_patches_t *p, int8_t *out, int32_t out_step) {
    pairs(f, p, 2, out, out_step);
}

void kf_convolve(const kf_filters_t *f, kf_patches_t *p, int8_t *out, int32_t out_step) {
    if (p->patches == 3) {
        on_three(f, p, out, out_step);
    } else if (p->patches == 2) {
        on_two(f, p, out, out_step);
    } else {
        int32_t words = p->terms >> 2;
        const blocks_t b = {p->memory, p->memory + 2 * words, words, p->terms, 0};
        for (int32_t k = 0; k < f->count; k++) {
            one_filter(f, &b, 1, k, out, out_step);
        }
    }
}
