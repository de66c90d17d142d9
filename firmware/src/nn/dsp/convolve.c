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

/* Two words at a time for the first of three patches, `twos` times, which is not 0: 12 instructions, 14 cycles. */
static inline uint32_t *put_twos(uint32_t *to, const int8_t *x, int32_t twos, int16x2_t offset) {
    uint32_t a, b, c, d;
    __asm__ volatile(".p2align 2\n"
                     "1:\n\t"
                     "ldr %[a], [%[x]], #4\n\t"
                     "ldr %[b], [%[x]], #4\n\t"
                     "sxtab16 %[c], %[offset], %[a]\n\t"
                     "sxtab16 %[a], %[offset], %[a], ror #8\n\t"
                     "sxtab16 %[d], %[offset], %[b]\n\t"
                     "sxtab16 %[b], %[offset], %[b], ror #8\n\t"
                     "str %[c], [%[to]], #48\n\t"
                     "str %[a], [%[to], #-36]\n\t"
                     "str %[d], [%[to], #-24]\n\t"
                     "str %[b], [%[to], #-12]\n\t"
                     "subs %[twos], #1\n\t"
                     "bne 1b"
                     : [to] "+r"(to), [x] "+r"(x), [twos] "+r"(twos), [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d)
                     : [offset] "r"(offset)
                     : "cc", "memory");
    return to;
}

/* `rows` runs, one at least, of whole words at a word's place, each `next` bytes behind the one before: the most frequent case by
 * far. */
static void put_rows(const kf_patches_t *p, uint32_t *to, const int8_t *x, int32_t words, int32_t rows, int32_t next) {
    int16x2_t offset = kf_both(p->x_offset);
    int32_t patches = p->patches;
    do {
        const int8_t *at = x;
        int32_t left = words;
        if (patches == 3 && words > 1) {
            to = put_twos(to, at, words >> 1, offset);
            at += 4 * (words & ~1);
            left = words & 1;
        }
        for (; left != 0; left--) {
            uint32_t four = kf_word(at);
            at += 4;
            to[0] = (uint32_t)kf_even_plus(offset, four);
            to[patches] = (uint32_t)kf_odd_plus(offset, four);
            to += 2 * patches;
        }
        x += next;
    } while (--rows != 0);
}

/* Any run: p->filled holds what was put before and does not make four values yet, at % 4 of them. count >= 1. */
static KF_NOINLINE void put_run(kf_patches_t *p, int32_t index, int32_t at, const int8_t *x, int32_t count) {
    int32_t step = p->patches;
    uint32_t *to = p->memory + (at >> 2) * 2 * step + index;
    uint32_t zeros = ((uint32_t)-p->x_offset & 0xFFu) * 0x01010101u; /* four values that become 0 */
    uint32_t kept = (uint32_t)p->filled;
    int16x2_t offset = kf_both(p->x_offset);
    int32_t bits = (at & 3) * 8, left = count;
    for (; left >= 4; left -= 4) {
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
    if (left > 0) {
        uint32_t few = zeros >> (32 - 8 * left);
        if (x != NULL) {
            few = kf_last_word(x + left - count, count);
        }
        kept |= few << bits;
        bits += 8 * left;
        if (bits >= 32) {
            to[0] = (uint32_t)kf_even_plus(offset, kept);
            to[step] = (uint32_t)kf_odd_plus(offset, kept);
            to += 2 * step;
            bits -= 32;
            kept = bits == 0 ? 0 : few >> (8 * left - bits);
        }
    }
    if (bits != 0 && at + count == p->terms) {
        kept |= zeros << bits;
        to[0] = (uint32_t)kf_even_plus(offset, kept);
        to[step] = (uint32_t)kf_odd_plus(offset, kept);
        kept = 0;
    }
    p->filled = (int32_t)kept;
}

void kf_patch_put(kf_patches_t *p, int32_t index, int32_t at, const int8_t *x, int32_t count) {
    if (count > 0 && (x == NULL || ((at | count) & 3) != 0)) {
        put_run(p, index, at, x, count);
    } else if (count > 0) {
        put_rows(p, p->memory + (at >> 2) * 2 * p->patches + index, x, count >> 2, 1, 0);
    }
}

void kf_patch_fill(kf_patches_t *p, int32_t index, const int8_t *x, int32_t count, int32_t rows, int32_t step) {
    if ((count & 3) == 0) {
        put_rows(p, p->memory + index, x, count >> 2, rows, step);
        return;
    }
    for (int32_t at = 0; rows > 0; rows--, at += count, x += step) {
        put_run(p, index, at, x, count);
    }
}

/* ---- two filters after two --------------------------------------------------------------------------------------- */

/* What the loops below work with. It stays in memory: all fourteen registers hold sums, patches and weights. */
typedef struct filters {
    const uint32_t *x, *end; /* the patches, and behind their last word */
    int32_t entry;           /* words of a filter % 4: where the unrolled loop is entered */
    int32_t second;          /* bytes from the first filter's next word to the second's this one */
    int32_t next;            /* bytes from behind the second filter's words to the filter after it: 0 or less */
    const int8_t *w;
    const kf_channel_t *channel, *last; /* of these two filters, and behind the last two */
    int8_t *out;
    int32_t out_step;
    int32_t up;     /* 2 zp + 1 for tight outputs; 0: leave the sums of two filters in `sum` */
    int32_t sum[6]; /* of the first filter on each patch, then of the second */
} filters_t;

/* Whole words of two filters on all patches: r0, the way into four bodies of four products of each; r4, the patches. */
#define WORDS(body)                                                   \
    "cbz r0, 4f\n\t"                                                  \
    "cmp r0, #2\n\t"                                                  \
    "bgt 3f\n\t"                                                      \
    "beq 2f\n\t"                                                      \
    "b 1f\n\t"                                                        \
    ".p2align 2\n"                                                    \
    "4:\n\t" body "3:\n\t" body "2:\n\t" body "1:\n\t" body           \
    "ldr r0, %[end]\n\t"                                              \
    "cmp r4, r0\n\t"                                                  \
    "bne 4b\n\t"

/* Three patches: sums r8, r9, r10 and r11, r12, lr. The second filter's distance has no register left. */
#define BODY3                       \
    "ldr r0, %[second]\n\t"         \
    "ldr r7, [r5], #4\n\t"          \
    "ldr r1, [r4], #12\n\t"         \
    "ldr r2, [r4, #-8]\n\t"         \
    "ldr r3, [r4, #-4]\n\t"         \
    "ldr r6, [r5, r0]\n\t"          \
    "sxtb16 r0, r7\n\t"             \
    "smlad r8, r1, r0, r8\n\t"      \
    "smlad r9, r2, r0, r9\n\t"      \
    "smlad r10, r3, r0, r10\n\t"    \
    "sxtb16 r0, r6\n\t"             \
    "smlad r11, r1, r0, r11\n\t"    \
    "smlad r12, r2, r0, r12\n\t"    \
    "smlad lr, r3, r0, lr\n\t"      \
    "ldmia r4!, {r1, r2, r3}\n\t"   \
    "sxtb16 r7, r7, ror #8\n\t"     \
    "sxtb16 r6, r6, ror #8\n\t"     \
    "smlad r8, r1, r7, r8\n\t"      \
    "smlad r9, r2, r7, r9\n\t"      \
    "smlad r10, r3, r7, r10\n\t"    \
    "smlad r11, r1, r6, r11\n\t"    \
    "smlad r12, r2, r6, r12\n\t"    \
    "smlad lr, r3, r6, lr\n\t"

/* Two patches: sums r10, r11 and r12, lr; the second filter's pointer in r9. */
#define BODY2                       \
    "ldr r7, [r5], #4\n\t"          \
    "ldr r6, [r9], #4\n\t"          \
    "ldr r1, [r4], #16\n\t"         \
    "ldr r2, [r4, #-12]\n\t"        \
    "ldr r3, [r4, #-8]\n\t"         \
    "ldr r8, [r4, #-4]\n\t"         \
    "sxtb16 r0, r7\n\t"             \
    "smlad r10, r1, r0, r10\n\t"    \
    "smlad r11, r2, r0, r11\n\t"    \
    "sxtb16 r0, r6\n\t"             \
    "smlad r12, r1, r0, r12\n\t"    \
    "smlad lr, r2, r0, lr\n\t"      \
    "sxtb16 r7, r7, ror #8\n\t"     \
    "sxtb16 r6, r6, ror #8\n\t"     \
    "smlad r10, r3, r7, r10\n\t"    \
    "smlad r11, r8, r7, r11\n\t"    \
    "smlad r12, r3, r6, r12\n\t"    \
    "smlad lr, r8, r6, lr\n\t"

/* kf_tight() of the sum in `s`, stored at `place`: up << right in r4, mult in r6, right in r7. */
#define VALUE(s, place)                      \
    "lsl r0, " s ", #1\n\t"                  \
    "add " s ", r4, " s ", asr #31\n\t"      \
    "smmlar " s ", r0, r6, " s "\n\t"        \
    "asr " s ", " s ", r7\n\t"               \
    "ssat " s ", #8, " s ", asr #1\n\t"      \
    "strb " s ", " place "\n\t"

/* The values of two filters, when they are tight: out in r2, its step in r3, the channels in r1, which move on. */
#define VALUES(first, second)                \
    "ldr r0, %[up]\n\t"                      \
    "ldr r1, %[channel]\n\t"                 \
    "ldr r2, %[out]\n\t"                     \
    "ldr r3, %[step]\n\t"                    \
    "ldr r6, [r1, #4]\n\t"                   \
    "ldr r7, [r1, #8]\n\t"                   \
    "cmp r0, #0\n\t"                         \
    "beq 9f\n\t"                             \
    "lsl r4, r0, r7\n\t"                     \
    first                                    \
    "ldr r0, %[up]\n\t"                      \
    "ldr r6, [r1, #16]\n\t"                  \
    "ldr r7, [r1, #20]\n\t"                  \
    "adds r2, #1\n\t"                        \
    "adds r1, #24\n\t"                       \
    "lsl r4, r0, r7\n\t"                     \
    second                                   \
    "adds r2, #1\n\t"                        \
    "str r2, %[out]\n\t"                     \
    "str r1, %[channel]\n\t"

#define OPERANDS(f)                                                                                                         \
    [channel] "+m"((f)->channel), [out] "+m"((f)->out), [a] "=m"((f)->sum[0]), [b] "=m"((f)->sum[1]), [c] "=m"((f)->sum[2]), \
        [d] "=m"((f)->sum[3]), [e] "=m"((f)->sum[4]), [f] "=m"((f)->sum[5])                                                  \
        : [x] "m"((f)->x), [end] "m"((f)->end), [entry] "m"((f)->entry), [second] "m"((f)->second), [next] "m"((f)->next),   \
          [w] "m"((f)->w),                                                                                                   \
          [last] "m"((f)->last), [step] "m"((f)->out_step), [up] "m"((f)->up)                                               \
        : "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory"

/* All filters, or, when they are not tight, the sums of two. */
static inline __attribute__((always_inline)) void on_three(filters_t *f) {
    __asm__ volatile("ldr r1, %[channel]\n\t"
                     "ldr r5, %[w]\n"
                     "7:\n\t"
                     "ldr r0, %[entry]\n\t"
                     "ldr r4, %[x]\n\t"
                     "ldr r8, [r1]\n\t"
                     "ldr r11, [r1, #12]\n\t"
                     "mov r9, r8\n\t"
                     "mov r10, r8\n\t"
                     "mov r12, r11\n\t"
                     "mov lr, r11\n\t" WORDS(BODY3)
                     VALUES(VALUE("r8", "[r2]") VALUE("r9", "[r2, r3]") VALUE("r10", "[r2, r3, lsl #1]"),
                            VALUE("r11", "[r2]") VALUE("r12", "[r2, r3]") VALUE("lr", "[r2, r3, lsl #1]"))
                     "ldr r3, %[second]\n\t"
                     "ldr r6, %[next]\n\t"
                     "ldr r0, %[last]\n\t"
                     "adds r3, #4\n\t"
                     "add r5, r3\n\t"
                     "add r5, r6\n\t"
                     "cmp r1, r0\n\t"
                     "bne 7b\n\t"
                     "b 8f\n"
                     "9:\n\t"
                     "str r8, %[a]\n\t"
                     "str r9, %[b]\n\t"
                     "str r10, %[c]\n\t"
                     "str r11, %[d]\n\t"
                     "str r12, %[e]\n\t"
                     "str lr, %[f]\n"
                     "8:"
                     : OPERANDS(f));
}

static inline __attribute__((always_inline)) void on_two(filters_t *f) {
    __asm__ volatile("ldr r1, %[channel]\n\t"
                     "ldr r9, %[w]\n"
                     "7:\n\t"
                     "ldr r0, %[second]\n\t"
                     "mov r5, r9\n\t"
                     "adds r0, #4\n\t"
                     "add r9, r0\n\t"
                     "ldr r0, %[entry]\n\t"
                     "ldr r4, %[x]\n\t"
                     "ldr r10, [r1]\n\t"
                     "ldr r12, [r1, #12]\n\t"
                     "mov r11, r10\n\t"
                     "mov lr, r12\n\t" WORDS(BODY2)
                     VALUES(VALUE("r10", "[r2]") VALUE("r11", "[r2, r3]"), VALUE("r12", "[r2]") VALUE("lr", "[r2, r3]"))
                     "ldr r6, %[next]\n\t"
                     "ldr r0, %[last]\n\t"
                     "add r9, r6\n\t"
                     "cmp r1, r0\n\t"
                     "bne 7b\n\t"
                     "b 8f\n"
                     "9:\n\t"
                     "str r10, %[a]\n\t"
                     "str r11, %[b]\n\t"
                     "str r12, %[c]\n\t"
                     "str lr, %[d]\n"
                     "8:"
                     : OPERANDS(f));
}

/* ---- all filters --------------------------------------------------------------------------------------------------- */

/* One word of weights on one patch of several. */
static inline int32_t word(int32_t sum, const uint32_t *x, int32_t patches, uint32_t w) {
    return kf_dot_word(sum, (int16x2_t)x[0], (int16x2_t)x[patches], w);
}

/* What is left of two filters, of `terms` values, behind their whole words. */
static void add_rests(filters_t *f, int32_t patches, int32_t terms) {
    const uint32_t *x = f->end;
    int32_t *at = f->sum;
    uint32_t first = kf_last_word(f->w, terms), second = kf_last_word(f->w + terms, terms);
    int16x2_t even0 = kf_even(first), odd0 = kf_odd(first), even1 = kf_even(second), odd1 = kf_odd(second);
    for (int32_t i = 0; i < patches; i++, at++, x++) {
        int16x2_t even = (int16x2_t)x[0], odd = (int16x2_t)x[patches];
        at[0] = __smlad(odd, odd0, __smlad(even, even0, at[0]));
        at[patches] = __smlad(odd, odd1, __smlad(even, even1, at[patches]));
    }
}

/* The values of two filters' sums. up: as in filters_t, for tight outputs. */
static void put_values(const filters_t *f, const kf_output_t *o, int32_t up, int32_t patches) {
    const kf_channel_t *channel = f->channel;
    const int32_t *sum = f->sum;
    int8_t *out = f->out;
    for (int32_t k = 0; k < 2; k++, channel++, out++) {
        int32_t mult = channel->mult, right = channel->right, tight_up = up << right;
        for (int32_t i = 0; i < patches; i++, sum++) {
            out[i * f->out_step] = (int8_t)(up != 0 ? kf_tight(*sum, mult, tight_up, right) : kf_value(o, channel, *sum));
        }
    }
}

/* One filter on each patch. */
static KF_NOINLINE void one_filter(const kf_filters_t *f, const kf_patches_t *p, int32_t filter, int8_t *out, int32_t out_step) {
    const kf_channel_t *channel = &f->channels[filter];
    const int8_t *filter_w = f->w + filter * p->terms;
    for (int32_t k = 0; k < p->patches; k++) {
        const uint32_t *x = p->memory + k;
        const int8_t *w = filter_w;
        int32_t sum = channel->bias;
        for (int32_t left = p->terms >> 2; left > 0; left--, x += 2 * p->patches, w += 4) {
            sum = word(sum, x, p->patches, kf_word(w));
        }
        if ((p->terms & 3) != 0) {
            sum = word(sum, x, p->patches, kf_last_word(filter_w, p->terms));
        }
        out[k * out_step + filter] = kf_value(&f->output, channel, sum);
    }
}

/* An even number of filters, for two or three patches.
 *
 * Filters that do not end with a word are taken with the beginning of what follows, which meets the zeros that patches are
 * filled up with. Behind the last filter nothing may be read: the last two are taken by their whole words, and the rest is added
 * here. So are those whose outputs are not tight. */
static KF_NOINLINE void pairs(const kf_filters_t *f, const kf_patches_t *p, int32_t count, int8_t *out, int32_t out_step) {
    int32_t terms = p->terms, whole = terms >> 2, words = (terms + 3) >> 2, patches = p->patches;
    int32_t up = kf_is_tight(&f->output) ? 2 * f->output.zp + 1 : 0; /* odd, so 0 says no */
    const kf_channel_t *end = f->channels + count, *ragged = words != whole ? end - 2 : end;
    filters_t run; /* field by field: an initializer would clear its sums too */
    run.x = p->memory;
    run.end = run.x + 2 * patches * words;
    run.entry = words & 3;
    run.second = terms - 4;
    run.next = terms - 4 * words;
    run.w = f->w;
    run.channel = f->channels;
    run.last = ragged;
    run.out = out;
    run.out_step = out_step;
    run.up = up;
    while (run.channel != end) {
        int32_t last = run.channel == ragged;
        if (last) {
            run.end = run.x + 2 * patches * whole;
            run.entry = whole & 3;
            run.w = f->w + (count - 2) * terms;
            run.up = 0;
        }
        if (last && whole == 0) {
            for (int32_t i = 0; i < 2 * patches; i++) {
                run.sum[i] = run.channel[i < patches ? 0 : 1].bias;
            }
        } else if (patches == 3) {
            on_three(&run);
        } else {
            on_two(&run);
        }
        if (run.up == 0) {
            if (last) {
                add_rests(&run, patches, terms);
            }
            put_values(&run, &f->output, up, patches);
            run.w += 2 * terms;
            run.out += 2;
            run.channel += 2;
        }
    }
}

void kf_convolve(const kf_filters_t *f, kf_patches_t *p, int8_t *out, int32_t out_step) {
    int32_t in_pairs = p->patches > 1 ? f->count & ~1 : 0;
    if (in_pairs > 0) {
        pairs(f, p, in_pairs, out, out_step);
    }
    for (int32_t k = in_pairs; k < f->count; k++) {
        one_filter(f, p, k, out, out_step);
    }
}
