/* Convolution on Cortex-M0 and M0+. A patch is a list of its values that are not zero: behind a RELU these are about half of them, and
 * in a list they cost what they would cost anyway.
 */
#include <stddef.h>

#include "value.h"

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
