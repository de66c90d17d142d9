/* The kernels for cores of the first Thumb instruction set, Cortex-M0 and M0+: eight registers that calculate and five that can
 * only be moved and added, and a multiplication that keeps 32 bits.
 *
 * GCC keeps sums in the low registers and moves pointers up and down for it. The loops over four filters are therefore written out:
 * sums and offset live in the high registers, where an addition costs the same, and one index serves five pointers. That
 * makes 16 instructions for 4 products; GCC 12.2 needs 22.
 */
#include "../kernels.h"

#include <stddef.h>

#include "../op.h"
#include "../window.h"

/* ---- from sums to values ----------------------------------------------------------------------------------------- */

/* kf_mul_high() from four products of 16 bits, for 0 <= b < 2^31; |a_high * b_low| < 2^31, so no step leaves its 32 bits.
 *
 *     a * b = (a_high * b_high << 32) + ((a_high * b_low + a_low * b_high) << 16) + a_low * b_low
 *
 * Of the lower word only its two highest bits matter: adding 2^30 and dividing by 2^31 is ((word >> 30) + 1) >> 1. */
static inline int32_t mul_high(int32_t a, int32_t b) {
    uint32_t a_low = (uint32_t)a & 0xFFFFu, b_low = (uint32_t)b & 0xFFFFu;
    int32_t a_high = a >> 16, b_high = b >> 16;
    int32_t middle = a_high * (int32_t)b_low + (int32_t)((a_low * b_low) >> 16);
    uint32_t rest = a_low * (uint32_t)b_high + ((uint32_t)middle & 0xFFFFu);
    int32_t high = a_high * b_high + (middle >> 16) + (int32_t)(rest >> 16);
    return (int32_t)((uint32_t)high << 1) + (int32_t)((((rest >> 14) & 3u) + 1u) >> 1);
}

static int8_t value_of(const kf_output_t *o, const kf_channel_t *channel, int32_t value) {
    if (channel->right < 0) {
        value = mul_high((int32_t)((uint32_t)value << (-1 - channel->right)), channel->mult);
    } else { /* see kf_requant_any() */
        value = mul_high(value, channel->mult);
        value = (((value + (value >> 31)) >> channel->right) + 1) >> 1;
    }
    return (int8_t)kf_clamp(value + o->zp, o->low, o->high);
}

/* `count` sums (1 at least), of one channel or of successive ones (`step` bytes apart), to out[0], out[out_step], ...
 *
 * The loop is kf_requant_narrow(). With the sum's lower half signed, a = a_high * 2^16 + a_low, |a_high| <= 2^14 and
 * |a_low| <= 2^15, and mult's halves below 2^15 and 2^16, products and their sum fit 32 bits:
 *
 *     (a * mult + 2^30) >> 31 = 2 a_high m_high + ((a_high m_low + a_low m_high + (a_low m_low >> 16) + 2^14) >> 15)
 *
 * where what the inner shift drops, less than 1, cannot matter to the outer. */
static KF_NOINLINE void finish(const kf_output_t *o, const kf_channel_t *channel, int32_t step, const int32_t *sum,
                               int32_t count, int8_t *out, int32_t out_step) {
    const int32_t *end = sum + count;
    if (!o->narrow) {
        do {
            *out = value_of(o, channel, *sum);
            channel = (const kf_channel_t *)((uintptr_t)channel + (uintptr_t)step);
            out += out_step;
        } while (++sum != end);
        return;
    }
    int32_t a, a_low, m_low, m_high, value;
    __asm__ volatile(".syntax unified\n"
            "1:\n\t"
            "ldmia %[sum]!, {%[a]}\n\t"
            "ldrh %[ml], [%[ch], #4]\n\t"
            "ldrh %[mh], [%[ch], #6]\n\t"
            "sxth %[al], %[a]\n\t"
            "subs %[a], %[a], %[al]\n\t"
            "asrs %[a], %[a], #16\n\t"
            "movs %[v], %[al]\n\t"
            "muls %[v], %[ml]\n\t"
            "asrs %[v], %[v], #16\n\t"
            "muls %[ml], %[a]\n\t"
            "muls %[al], %[mh]\n\t"
            "muls %[mh], %[a]\n\t"
            "adds %[v], %[v], %[ml]\n\t"
            "adds %[v], %[v], %[al]\n\t"
            "asrs %[v], %[v], #14\n\t"
            "adds %[v], #1\n\t"
            "asrs %[v], %[v], #1\n\t"
            "lsls %[mh], %[mh], #1\n\t"
            "adds %[v], %[v], %[mh]\n\t"
            "ldr %[ml], [%[ch], #8]\n\t"
            "asrs %[a], %[v], #31\n\t"
            "adds %[v], %[v], %[a]\n\t"
            "asrs %[v], %[ml]\n\t"
            "add %[v], %[half]\n\t"
            "asrs %[v], %[v], #1\n\t"
            "cmp %[v], %[low]\n\t"
            "blt 2f\n\t"
            "cmp %[v], %[high]\n\t"
            "bgt 3f\n"
            "4:\n\t"
            "strb %[v], [%[out]]\n\t"
            "add %[out], %[out_step]\n\t"
            "add %[ch], %[step]\n\t"
            "ldr %[a], %[end]\n\t"
            "cmp %[sum], %[a]\n\t"
            "bne 1b\n\t"
            "b 5f\n"
            "2:\n\t"
            "mov %[v], %[low]\n\t"
            "b 4b\n"
            "3:\n\t"
            "mov %[v], %[high]\n\t"
            "b 4b\n"
            "5:"
            : [sum] "+l"(sum), [ch] "+l"(channel), [out] "+l"(out), [a] "=&l"(a), [al] "=&l"(a_low), [ml] "=&l"(m_low),
              [mh] "=&l"(m_high), [v] "=&l"(value)
            : [half] "h"(2 * o->zp + 1), [low] "h"(o->low), [high] "h"(o->high), [end] "m"(end), [step] "h"(step),
              [out_step] "h"(out_step)
            : "cc", "memory");
}

void kf_finish(const kf_output_t *o, const kf_channel_t *channels, const int32_t *sum, int32_t count, int8_t *out) {
    finish(o, channels, (int32_t)sizeof *channels, sum, count, out, 1);
}

/* ---- fully connected --------------------------------------------------------------------------------------------- */

/* Four filters share what is loaded of the image, where it is not zero. x and w point behind their last value, and one index,
 * from -terms up, serves all five pointers. */
static void dot4(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    const int8_t *w1, *w2, *w3;
    x += terms;
    w += terms;
    w1 = w + terms;
    w2 = w1 + terms;
    w3 = w2 + terms;
    int32_t sum0 = sum[0], sum1 = sum[1], sum2 = sum[2], sum3 = sum[3];
    int32_t i = -terms, value, product;
#define ONE                            \
    "ldrsb %[v], [%[x], %[i]]\n\t"     \
    "add %[v], %[offset]\n\t"          \
    "cmp %[v], #0\n\t"                 \
    "beq 3f\n\t"                       \
    "ldrsb %[p], [%[w], %[i]]\n\t"     \
    "muls %[p], %[v]\n\t"              \
    "add %[s0], %[p]\n\t"              \
    "ldrsb %[p], [%[w1], %[i]]\n\t"    \
    "muls %[p], %[v]\n\t"              \
    "add %[s1], %[p]\n\t"              \
    "ldrsb %[p], [%[w2], %[i]]\n\t"    \
    "muls %[p], %[v]\n\t"              \
    "add %[s2], %[p]\n\t"              \
    "ldrsb %[p], [%[w3], %[i]]\n\t"    \
    "muls %[p], %[v]\n\t"              \
    "add %[s3], %[p]\n"                \
    "3:\n\t"                           \
    "adds %[i], #1\n\t"
    __asm__ volatile(".syntax unified\n\t"
                     "lsrs %[v], %[i], #1\n\t"
                     "bcc 2f\n\t" /* an even number of them */
                     ONE
                     "beq 4f\n"
                     "2:\n\t" ONE ONE
                     "bne 2b\n"
                     "4:"
                     : [i] "+l"(i), [v] "=&l"(value), [p] "=&l"(product), [s0] "+h"(sum0), [s1] "+h"(sum1),
                       [s2] "+h"(sum2), [s3] "+h"(sum3)
                     : [x] "l"(x), [w] "l"(w), [w1] "l"(w1), [w2] "l"(w2), [w3] "l"(w3), [offset] "h"(x_offset)
                     : "cc", "memory");
#undef ONE
    sum[0] = sum0;
    sum[1] = sum1;
    sum[2] = sum2;
    sum[3] = sum3;
}

static void dot1(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    uint32_t total = (uint32_t)*sum;
    for (int32_t i = 0; i < terms; i++) {
        total += (uint32_t)(w[i] * (x[i] + x_offset));
    }
    *sum = (int32_t)total;
}

void kf_dots(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t count, int32_t *sum) {
    for (; count >= 4; count -= 4, w += 4 * terms, sum += 4) {
        dot4(x, x_offset, w, terms, sum);
    }
    for (; count > 0; count--, w += terms) {
        dot1(x, x_offset, w, terms, sum++);
    }
}

/* ---- convolution: one patch, a list of its values that are not zero ------------------------------------------------- */

int32_t kf_patch_bias(const int8_t *w, int32_t terms, int32_t x_offset) {
    (void)w;
    (void)terms;
    (void)x_offset;
    return 0;
}

int32_t kf_patches_at_once(const kf_patches_t *p) {
    (void)p;
    return 1;
}

/* What is not zero of x[count], to the end of the list; a word is the value above its place in the patch. */
static KF_NOINLINE uint32_t *list(uint32_t *to, const int8_t *x, int32_t x_offset, uint32_t at, int32_t count) {
    uint32_t end = at + (uint32_t)count, fours = at + ((uint32_t)count & ~3u);
    int32_t value;
    x -= at;
#define ONE                             \
    "ldrsb %[v], [%[x], %[at]]\n\t"     \
    "adds %[v], %[v], %[offset]\n\t"    \
    "beq 3f\n\t"                        \
    "lsls %[v], %[v], #16\n\t"          \
    "orrs %[v], %[at]\n\t"              \
    "stmia %[to]!, {%[v]}\n"            \
    "3:\n\t"                            \
    "adds %[at], #1\n\t"
    __asm__ volatile(".syntax unified\n\t"
            "cmp %[at], %[fours]\n\t"
            "beq 2f\n"
            "1:\n\t" ONE ONE ONE ONE
            "cmp %[at], %[fours]\n\t"
            "bne 1b\n\t"
            "b 2f\n"
            "1:\n\t" ONE
            "2:\n\t"
            "cmp %[at], %[end]\n\t"
            "bne 1b"
            : [to] "+l"(to), [at] "+l"(at), [v] "=&l"(value)
            : [x] "l"(x), [offset] "l"(x_offset), [fours] "l"(fours), [end] "h"(end)
            : "cc", "memory");
#undef ONE
    return to;
}

void kf_patch_put(kf_patches_t *p, int32_t index, int32_t at, const int8_t *x, int32_t count) {
    (void)index;
    if (x != NULL) {
        p->filled = (int32_t)(list(p->memory + p->filled, x, p->x_offset, (uint32_t)at, count) - p->memory);
    }
}

void kf_patch_fill(kf_patches_t *p, int32_t index, const int8_t *x, int32_t count, int32_t rows, int32_t step) {
    uint32_t *to = p->memory, at = 0;
    (void)index;
    for (; rows > 0; rows--, at += (uint32_t)count, x += step) {
        to = list(to, x, p->x_offset, at, count);
    }
    p->filled = (int32_t)(to - p->memory);
}

/* Four filters on the list [at, end), which is not empty. */
static inline void listed4(const uint32_t *at, const uint32_t *end, const int8_t *w, int32_t terms, int32_t *sum) {
    const int8_t *w1 = w + terms;
    const int8_t *w2 = w1 + terms;
    const int8_t *w3 = w2 + terms;
    int32_t sum0 = sum[0], sum1 = sum[1], sum2 = sum[2], sum3 = sum[3], place, value, product;
#define ONE                               \
    "ldmia %[at]!, {%[i]}\n\t"            \
    "asrs %[v], %[i], #16\n\t"            \
    "uxth %[i], %[i]\n\t"                 \
    "ldrsb %[p], [%[w], %[i]]\n\t"        \
    "muls %[p], %[v]\n\t"                 \
    "add %[s0], %[p]\n\t"                 \
    "ldrsb %[p], [%[w1], %[i]]\n\t"       \
    "muls %[p], %[v]\n\t"                 \
    "add %[s1], %[p]\n\t"                 \
    "ldrsb %[p], [%[w2], %[i]]\n\t"       \
    "muls %[p], %[v]\n\t"                 \
    "add %[s2], %[p]\n\t"                 \
    "ldrsb %[p], [%[w3], %[i]]\n\t"       \
    "muls %[p], %[v]\n\t"                 \
    "add %[s3], %[p]\n\t"
    __asm__ volatile(".syntax unified\n\t"
                     "mov %[p], %[end]\n\t"
                     "subs %[p], %[p], %[at]\n\t"
                     "lsrs %[p], %[p], #3\n\t"
                     "bcc 1f\n\t" /* an even number of them */
                     ONE
                     "cmp %[at], %[end]\n\t"
                     "beq 2f\n"
                     "1:\n\t" ONE ONE
                     "cmp %[at], %[end]\n\t"
                     "bne 1b\n"
                     "2:"
            : [at] "+l"(at), [i] "=&l"(place), [v] "=&l"(value), [p] "=&l"(product), [s0] "+h"(sum0), [s1] "+h"(sum1),
              [s2] "+h"(sum2), [s3] "+h"(sum3)
            : [w] "l"(w), [w1] "l"(w1), [w2] "l"(w2), [w3] "l"(w3), [end] "h"(end)
            : "cc", "memory");
#undef ONE
    sum[0] = sum0;
    sum[1] = sum1;
    sum[2] = sum2;
    sum[3] = sum3;
}

static int32_t listed1(const uint32_t *at, const uint32_t *end, const int8_t *w, int32_t sum) {
    uint32_t total = (uint32_t)sum;
    for (; at != end; at++) {
        total += (uint32_t)(((int32_t)*at >> 16) * w[*at & 0xFFFFu]);
    }
    return (int32_t)total;
}

void kf_convolve(const kf_filters_t *f, kf_patches_t *p, int8_t *out, int32_t out_step) {
    const uint32_t *at = p->memory;
    const uint32_t *end = at + p->filled;
    const int8_t *w = f->w;
    const kf_channel_t *channel = f->channels;
    (void)out_step;
    for (int32_t left = f->count, some; left > 0; left -= some) {
        int32_t sum[8];
        some = left < 8 ? left : 8;
        for (int32_t k = 0; k < some; k++) {
            sum[k] = channel[k].bias;
        }
        for (int32_t k = 0; k < some && at != end;) {
            if (k + 4 <= some) {
                listed4(at, end, w, p->terms, sum + k);
                k += 4;
                w += 4 * p->terms;
            } else {
                sum[k] = listed1(at, end, w, sum[k]);
                k++;
                w += p->terms;
            }
        }
        kf_finish(&f->output, channel, sum, some, out);
        channel += some;
        out += some;
    }
}

/* ---- depthwise convolution ----------------------------------------------------------------------------------------- */

/* One channel of one window row, `count` places. */
static KF_NOINLINE uint32_t along(const int8_t *x, int32_t x_step, const int8_t *w, int32_t w_step, int32_t count, int32_t x_offset) {
    uint32_t total = 0;
    for (; count > 0; count--) {
        total += (uint32_t)(*w * (*x + x_offset));
        x += x_step;
        w += w_step;
    }
    return total;
}

/* Any window. */
static void any_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    for (int32_t out_x = 0; out_x < d->out_w; out_x++) {
        int32_t origin = out_x * d->stride - d->pad;
        kf_part_t part = kf_window_part(origin, d->k_w, d->dilation, d->in_w);
        int32_t start = (origin + part.first * d->dilation) * d->in_c;
        for (int32_t c = 0, in_c = 0, copy = 0; c < d->out_c; c++) {
            uint32_t sum = (uint32_t)d->channels[c].bias;
            const int8_t *w = d->w + c + part.first * d->out_c;
            for (int32_t i = 0; i < d->k_h; i++, w += d->k_w * d->out_c) {
                if (rows[i] >= 0) {
                    sum += along(x + rows[i] + start + in_c, d->dilation * d->in_c, w, d->out_c, part.end - part.first,
                                 d->x_offset);
                }
            }
            *out++ = value_of(&d->output, &d->channels[c], (int32_t)sum);
            if (++copy == d->multiplier) {
                copy = 0;
                in_c++;
            }
        }
    }
}

/* A run of up to five outputs of windows three wide, one channel: the window's row stays in registers and so do the sums. Column
 * k of the input, counted from the first output's window, meets the third weight for output k - 2, the second for k - 1,
 * and the first for k; or, with a stride of two, the second for output (k - 1) / 2, or the third and the first for the two around
 * it. Columns come from the last to the first, so that a shorter run begins further down. */
enum { RUN_MAX = 5, COLUMNS_MAX = 2 * RUN_MAX };

typedef struct run_row {
    const int8_t *x; /* channel 0 of column 0, which may lie outside the row */
    const int8_t *w; /* channel 0 of the third weight */
} run_row_t;

typedef struct run {
    const run_row_t *rows, *end; /* the window's rows that lie inside the image, one at least */
    int32_t back;                /* -channels: from one column, or weight, to the one before */
    int32_t last;                /* the last column there is, times the channels */
    int32_t entry;               /* where the code for it is, in bytes from that for the last one possible */
    int32_t stride;              /* 1 or 2 */
    int32_t cut;                 /* 1: column 0 lies outside the row */
    int32_t x_offset;
} run_t;

/* `entry` of each last column; a run has two columns at least. */
static const uint8_t entry_1[RUN_MAX + 2] = {0, 92, 70, 48, 26, 10, 0};
static const uint8_t entry_2[COLUMNS_MAX + 1] = {0, 114, 98, 88, 72, 62, 46, 36, 20, 10, 0};

#define COLUMN                      \
    "ldrsb %[x], [%[p], %[i]]\n\t"  \
    "add %[i], lr\n\t"              \
    "add %[x], %[o]\n\t"
#define TIMES(sum, w)               \
    "movs %[t], %[x]\n\t"           \
    "muls %[t], %[" w "]\n\t"       \
    "add %[" sum "], %[t]\n\t"
#define LAST_TIMES(sum, w)          \
    "muls %[x], %[" w "]\n\t"       \
    "add %[" sum "], %[x]\n\t"
#define STRIDE_1                                                           \
    COLUMN LAST_TIMES("s4", "w2")                                          \
    COLUMN TIMES("s3", "w2") LAST_TIMES("s4", "w1")                        \
    COLUMN TIMES("s2", "w2") TIMES("s3", "w1") LAST_TIMES("s4", "w0")      \
    COLUMN TIMES("s1", "w2") TIMES("s2", "w1") LAST_TIMES("s3", "w0")      \
    COLUMN TIMES("s0", "w2") TIMES("s1", "w1") LAST_TIMES("s2", "w0")      \
    COLUMN TIMES("s0", "w1") LAST_TIMES("s1", "w0")
#define STRIDE_2                                                           \
    COLUMN LAST_TIMES("s4", "w2")                                          \
    COLUMN LAST_TIMES("s4", "w1")                                          \
    COLUMN TIMES("s3", "w2") LAST_TIMES("s4", "w0")                        \
    COLUMN LAST_TIMES("s3", "w1")                                          \
    COLUMN TIMES("s2", "w2") LAST_TIMES("s3", "w0")                        \
    COLUMN LAST_TIMES("s2", "w1")                                          \
    COLUMN TIMES("s1", "w2") LAST_TIMES("s2", "w0")                        \
    COLUMN LAST_TIMES("s1", "w1")                                          \
    COLUMN TIMES("s0", "w2") LAST_TIMES("s1", "w0")                        \
    COLUMN LAST_TIMES("s0", "w1")
/* lr: GCC takes no sixth operand that needs a high register. */
#define ROWS(columns)                                                                                                         \
    __asm__ volatile(".syntax unified\n\t"                                                                                    \
                     "ldr %[t], %[back]\n\t"                                                                                  \
                     "mov lr, %[t]\n"                                                                                         \
                     "1:\n\t"                                                                                                 \
                     "ldr %[t], %[row]\n\t"                                                                                   \
                     "ldmia %[t]!, {%[p], %[x]}\n\t"                                                                          \
                     "str %[t], %[row]\n\t"                                                                                   \
                     "ldr %[i], %[c]\n\t"                                                                                     \
                     "ldrsb %[w2], [%[x], %[i]]\n\t"                                                                          \
                     "add %[i], lr\n\t"                                                                                       \
                     "ldrsb %[w1], [%[x], %[i]]\n\t"                                                                          \
                     "add %[i], lr\n\t"                                                                                       \
                     "ldrsb %[w0], [%[x], %[i]]\n\t"                                                                          \
                     "ldr %[i], %[last]\n\t"                                                                                  \
                     "ldr %[t], %[entry]\n\t"                                                                                 \
                     "ldr %[o], %[offset]\n\t"                                                                                \
                     "add pc, %[t]\n\t"                                                                                       \
                     "nop\n\t" /* pc is four bytes ahead */                                                                   \
                     columns                                                                                                  \
                     "ldr %[t], %[cut]\n\t"                                                                                   \
                     "cmp %[t], #0\n\t"                                                                                       \
                     "bne 2f\n\t"                                                                                             \
                     COLUMN LAST_TIMES("s0", "w0")                                                                            \
                     "2:\n\t"                                                                                                 \
                     "ldr %[t], %[row]\n\t"                                                                                   \
                     "ldr %[x], %[end]\n\t"                                                                                   \
                     "cmp %[t], %[x]\n\t"                                                                                     \
                     "bne 1b"                                                                                                 \
                     : [s0] "+h"(s0), [s1] "+h"(s1), [s2] "+h"(s2), [s3] "+h"(s3), [s4] "+h"(s4), [w0] "=&l"(w0),             \
                       [w1] "=&l"(w1), [w2] "=&l"(w2), [x] "=&l"(x), [t] "=&l"(t), [i] "=&l"(i), [p] "=&l"(base),             \
                       [o] "=&l"(spare), [row] "+m"(row)                                                                      \
                     : [back] "m"(run->back), [c] "m"(channel), [last] "m"(last), [entry] "m"(run->entry),                    \
                       [cut] "m"(run->cut), [offset] "m"(run->x_offset), [end] "m"(run->end)                                  \
                     : "lr", "cc", "memory")

static inline void run_sums(const run_t *run, int32_t channel, int32_t bias, int32_t sum[RUN_MAX]) {
    int32_t s0 = bias, s1 = bias, s2 = bias, s3 = bias, s4 = bias;
    int32_t last = channel + run->last;
    const run_row_t *row = run->rows;
    int32_t w0, w1, w2, t, i, spare;
    register int32_t base __asm__("r0"), x __asm__("r1"); /* LDMIA loads in the order of the numbers */
    if (run->stride == 1) {
        ROWS(STRIDE_1);
    } else {
        ROWS(STRIDE_2);
    }
    sum[0] = s0;
    sum[1] = s1;
    sum[2] = s2;
    sum[3] = s3;
    sum[4] = s4;
}

/* Windows three wide, one filter a channel, one or two places apart. At most one column of a row's windows lies outside the image
 * on either side. */
static void runs_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    run_row_t *at = d->scratch;
    run_t run = {at, at, -d->out_c, 0, 0, d->stride, 0, d->x_offset};
    for (int32_t left = d->out_w, some; left > 0; left -= some) {
        int32_t first = (d->out_w - left) * d->stride - d->pad; /* column 0 */
        some = left < RUN_MAX ? left : RUN_MAX;
        int32_t last = (some - 1) * d->stride + 2;
        last = first + last < d->in_w ? last : last - 1;
        run_row_t *end = at;
        for (int32_t i = 0; i < d->k_h; i++) {
            if (rows[i] >= 0) {
                end->x = x + rows[i] + first * d->in_c;
                end->w = d->w + (3 * i + 2) * d->out_c;
                end++;
            }
        }
        run.end = end;
        run.last = last * d->out_c;
        run.entry = d->stride == 1 ? entry_1[last] : entry_2[last];
        run.cut = first < 0;
        for (int32_t c = 0; c < d->out_c; c++) {
            int32_t sum[RUN_MAX];
            run_sums(&run, c, d->channels[c].bias, sum);
            finish(&d->output, &d->channels[c], 0, sum, some, out + c, d->out_c);
        }
        out += some * d->out_c;
    }
}

void kf_depthwise_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    int32_t inside = 0;
    for (int32_t i = 0; i < d->k_h; i++) {
        inside += rows[i] >= 0;
    }
    if (inside > 0 && d->k_h <= KF_DEPTHWISE_TAPS_MAX / 3 && d->k_w == 3 && d->stride <= 2 && d->dilation == 1 &&
        d->multiplier == 1) {
        runs_row(d, x, rows, out);
    } else {
        any_row(d, x, rows, out);
    }
}
