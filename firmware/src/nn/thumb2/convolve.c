/* Convolution on Cortex-M3: behind a RELU about half of the values are zero, and products with them are left out.
 *
 * A patch is a list of its values that are not zero, each with its place; each costs 10.5 instructions for four filters. Where more
 * than three of four are not zero, the rest of the row is computed from two whole patches at once: 11 instructions for six
 * products.
 */
#include <stddef.h>

#include "value.h"

int32_t kf_patch_bias(const int8_t *w, int32_t terms, int32_t x_offset) {
    (void)w;
    (void)terms;
    (void)x_offset;
    return 0;
}

/* One patch: a list of its values that are not zero, as int16 pairs {place, value}; two: int16 pairs {value of the one, of
 * the other}, all of them. */
int32_t kf_patches_at_once(const kf_patches_t *p) {
    return p->dense ? 2 : 1;
}

/* What is not zero of x[count], to the end of the list. */
static inline uint32_t *list(uint32_t *to, const int8_t *x, int32_t x_offset, int32_t at, int32_t count) {
    int32_t end = at + count, fours = at + (count & ~3), value;
#define ONE                                   \
    "ldrsb %[v], [%[x]], #1\n\t"              \
    "adds %[v], %[offset]\n\t"                \
    "beq 3f\n\t"                              \
    "orr %[v], %[at], %[v], lsl #16\n\t"      \
    "str %[v], [%[to]], #4\n"                 \
    "3:\n\t"                                  \
    "add %[at], #1\n\t"
    __asm__ volatile("cmp %[at], %[fours]\n\t"
                     "beq 2f\n"
                     "1:\n\t" ONE ONE ONE ONE
                     "cmp %[at], %[fours]\n\t"
                     "bne 1b\n\t"
                     "b 2f\n"
                     "1:\n\t" ONE
                     "2:\n\t"
                     "cmp %[at], %[end]\n\t"
                     "bne 1b"
                     : [to] "+r"(to), [x] "+r"(x), [at] "+r"(at), [v] "=&r"(value)
                     : [offset] "r"(x_offset), [fours] "r"(fours), [end] "r"(end)
                     : "cc", "memory");
#undef ONE
    return to;
}

/* Every second int16 from `to` on. */
static inline int16_t *widen(int16_t *to, const int8_t *x, int32_t x_offset, int32_t count) {
    for (; count >= 4; count -= 4, x += 4, to += 8) {
        to[0] = (int16_t)(x[0] + x_offset);
        to[2] = (int16_t)(x[1] + x_offset);
        to[4] = (int16_t)(x[2] + x_offset);
        to[6] = (int16_t)(x[3] + x_offset);
    }
    for (; count > 0; count--, to += 2) {
        *to = (int16_t)(*x++ + x_offset);
    }
    return to;
}

void kf_patch_put(kf_patches_t *p, int32_t index, int32_t at, const int8_t *x, int32_t count) {
    int16_t *to = (int16_t *)(p->memory + at) + index;
    if (p->patches == 1) {
        if (x != NULL) {
            p->filled = (int32_t)(list(p->memory + p->filled, x, p->x_offset, at, count) - p->memory);
        }
    } else if (x != NULL) {
        widen(to, x, p->x_offset, count);
    } else {
        for (; count > 0; count--, to += 2) {
            *to = 0;
        }
    }
}

void kf_patch_fill(kf_patches_t *p, int32_t index, const int8_t *x, int32_t count, int32_t rows, int32_t step) {
    if (p->patches == 1) {
        uint32_t *to = p->memory;
        for (int32_t at = 0; rows > 0; rows--, at += count, x += step) {
            to = list(to, x, p->x_offset, at, count);
        }
        p->filled = (int32_t)(to - p->memory);
    } else {
        int16_t *to = (int16_t *)p->memory + index;
        for (; rows > 0; rows--, x += step) {
            to = widen(to, x, p->x_offset, count);
        }
    }
}

/* The sums of four filters. */
typedef struct sums {
    int32_t s0, s1, s2, s3;
} sums_t;

/* Four filters on the list [at, end), which is not empty. Of four bodies of ENTRY_BYTES the first time as many are left out as the
 * list lacks to a multiple of four: `skip` bytes. */
enum { ENTRY_BYTES = 40 };

static inline sums_t listed4(const uint32_t *at, const uint32_t *end, const int8_t *w, int32_t terms, int32_t skip,
                             sums_t s) {
    const int8_t *w1 = w + terms;
    const int8_t *w2 = w1 + terms;
    const int8_t *w3 = w2 + terms;
    int32_t place, value, weight;
#define ONE                                  \
    "ldrsh.w %[v], [%[at], #2]\n\t"            \
    "ldrh.w %[i], [%[at]], #4\n\t"             \
    "ldrsb.w %[u], [%[w], %[i]]\n\t"           \
    "mla %[s0], %[u], %[v], %[s0]\n\t"       \
    "ldrsb.w %[u], [%[w1], %[i]]\n\t"          \
    "mla %[s1], %[u], %[v], %[s1]\n\t"       \
    "ldrsb.w %[u], [%[w2], %[i]]\n\t"          \
    "mla %[s2], %[u], %[v], %[s2]\n\t"       \
    "ldrsb.w %[u], [%[w3], %[i]]\n\t"          \
    "mla %[s3], %[u], %[v], %[s3]\n\t"
    __asm__ volatile("ldr %[i], %[skip]\n\t"
            "add pc, %[i]\n\t"
            "nop.n\n" /* pc is four bytes ahead */
            "1:\n\t" ONE ONE ONE ONE
            "cmp %[at], %[end]\n\t"
            "bne 1b"
            : [at] "+r"(at), [s0] "+r"(s.s0), [s1] "+r"(s.s1), [s2] "+r"(s.s2), [s3] "+r"(s.s3), [i] "=&r"(place),
              [v] "=&r"(value), [u] "=&r"(weight)
            : [end] "r"(end), [w] "r"(w), [w1] "r"(w1), [w2] "r"(w2), [w3] "r"(w3), [skip] "m"(skip)
            : "cc", "memory");
#undef ONE
    return s;
}

static int32_t listed1(const uint32_t *at, const uint32_t *end, const int8_t *w, int32_t sum) {
    uint32_t total = (uint32_t)sum;
    for (; at != end; at++) {
        total += (uint32_t)(((int32_t)*at >> 16) * w[*at & 0xFFFFu]);
    }
    return (int32_t)total;
}

static KF_NOINLINE void convolve_listed(const kf_filters_t *f, const kf_patches_t *p, int8_t *out) {
    const uint32_t *end = p->memory + p->filled;
    const kf_channel_t *channel = f->channels;
    const int8_t *w = f->w;
    int32_t terms = p->terms, half = 2 * f->output.zp + 1, plain = kf_is_plain(&f->output);
    int32_t skip = (-p->filled & 3) * ENTRY_BYTES;
    int8_t *last = out + (f->count & ~3);
    for (; out != last; out += 4, w += 4 * terms, channel += 4) {
        sums_t s = {channel[0].bias, channel[1].bias, channel[2].bias, channel[3].bias};
        s = listed4(p->memory, end, w, terms, skip, s);
        if (plain) {
            out[0] = kf_plain_value(channel[0].mult, channel[0].right, s.s0, half);
            out[1] = kf_plain_value(channel[1].mult, channel[1].right, s.s1, half);
            out[2] = kf_plain_value(channel[2].mult, channel[2].right, s.s2, half);
            out[3] = kf_plain_value(channel[3].mult, channel[3].right, s.s3, half);
        } else {
            out[0] = kf_value(&f->output, &channel[0], s.s0);
            out[1] = kf_value(&f->output, &channel[1], s.s1);
            out[2] = kf_value(&f->output, &channel[2], s.s2);
            out[3] = kf_value(&f->output, &channel[3], s.s3);
        }
    }
    for (last += f->count & 3; out != last; w += terms) {
        int32_t sum = listed1(p->memory, end, w, channel->bias);
        *out++ = kf_value(&f->output, channel++, sum);
    }
}

/* Three filters on two patches, to sum[patch][filter]; entered like listed4(). */
enum { PAIR_BYTES = 44 };

static inline void whole3(const uint32_t *at, const int8_t *w, int32_t terms, int32_t sum[6]) {
    const uint32_t *end = at + terms;
    int32_t a0 = sum[0], a1 = sum[1], a2 = sum[2], b0 = sum[3], b1 = sum[4], b2 = sum[5], a, b, weight;
#define ONE                                  \
    "ldrsh.w %[a], [%[at]], #4\n\t"            \
    "ldrsh.w %[b], [%[at], #-2]\n\t"           \
    "ldrsb.w %[u], [%[w], %[f]]\n\t"           \
    "mla %[a1], %[u], %[a], %[a1]\n\t"       \
    "mla %[b1], %[u], %[b], %[b1]\n\t"       \
    "ldrsb.w %[u], [%[w], %[f], lsl #1]\n\t"   \
    "mla %[a2], %[u], %[a], %[a2]\n\t"       \
    "mla %[b2], %[u], %[b], %[b2]\n\t"       \
    "ldrsb.w %[u], [%[w]], #1\n\t"             \
    "mla %[a0], %[u], %[a], %[a0]\n\t"       \
    "mla %[b0], %[u], %[b], %[b0]\n\t"
    __asm__ volatile("add pc, %[u]\n\t"
            "nop.n\n" /* pc is four bytes ahead */
            "1:\n\t" ONE ONE ONE ONE
            "cmp %[at], %[end]\n\t"
            "bne 1b"
            : [at] "+r"(at), [w] "+r"(w), [a0] "+r"(a0), [a1] "+r"(a1), [a2] "+r"(a2), [b0] "+r"(b0), [b1] "+r"(b1),
              [b2] "+r"(b2), [a] "=&r"(a), [b] "=&r"(b), [u] "=&r"(weight)
            : [end] "r"(end), [f] "r"(terms), "[u]"((-terms & 3) * PAIR_BYTES)
            : "cc", "memory");
#undef ONE
    sum[0] = a0;
    sum[1] = a1;
    sum[2] = a2;
    sum[3] = b0;
    sum[4] = b1;
    sum[5] = b2;
}

static void whole1(const uint32_t *at, const int8_t *w, int32_t terms, int32_t sum[2]) {
    const int16_t *x = (const int16_t *)(const void *)at;
    uint32_t a = (uint32_t)sum[0], b = (uint32_t)sum[1];
#pragma GCC unroll 4
    for (; terms > 0; terms--, x += 2, w++) {
        a += (uint32_t)(x[0] * *w);
        b += (uint32_t)(x[1] * *w);
    }
    sum[0] = (int32_t)a;
    sum[1] = (int32_t)b;
}

static KF_NOINLINE void convolve_whole(const kf_filters_t *f, const kf_patches_t *p, int8_t *out, int32_t out_step) {
    const kf_channel_t *channel = f->channels;
    const int8_t *w = f->w;
    int32_t terms = p->terms, half = 2 * f->output.zp + 1, plain = kf_is_plain(&f->output), left = f->count;
    for (; left >= 3; left -= 3, out += 3, w += 3 * terms, channel += 3) {
        int8_t *other = out + out_step;
        int32_t sum[6] = {channel[0].bias, channel[1].bias, channel[2].bias, channel[0].bias, channel[1].bias, channel[2].bias};
        whole3(p->memory, w, terms, sum);
        if (plain) {
            out[0] = kf_plain_value(channel[0].mult, channel[0].right, sum[0], half);
            other[0] = kf_plain_value(channel[0].mult, channel[0].right, sum[3], half);
            out[1] = kf_plain_value(channel[1].mult, channel[1].right, sum[1], half);
            other[1] = kf_plain_value(channel[1].mult, channel[1].right, sum[4], half);
            out[2] = kf_plain_value(channel[2].mult, channel[2].right, sum[2], half);
            other[2] = kf_plain_value(channel[2].mult, channel[2].right, sum[5], half);
        } else {
            for (int32_t k = 0; k < 3; k++) {
                out[k] = kf_value(&f->output, &channel[k], sum[k]);
                other[k] = kf_value(&f->output, &channel[k], sum[k + 3]);
            }
        }
    }
    for (; left > 0; left--, out++, w += terms, channel++) {
        int32_t sum[2] = {channel->bias, channel->bias};
        whole1(p->memory, w, terms, sum);
        out[0] = kf_value(&f->output, channel, sum[0]);
        out[out_step] = kf_value(&f->output, channel, sum[1]);
    }
}

void kf_convolve(const kf_filters_t *f, kf_patches_t *p, int8_t *out, int32_t out_step) {
    if (p->patches == 1) {
        p->dense = p->filled > p->terms / 4 * 3;
        if (p->filled == 0) {
            p->memory[p->filled++] = 0; /* 0 for value 0: so that lists are never empty */
        }
        convolve_listed(f, p, out);
    } else {
        convolve_whole(f, p, out, out_step);
    }
}
