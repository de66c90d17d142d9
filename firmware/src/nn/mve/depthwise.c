/* Depthwise convolution for Arm cores with the vector extension MVE. Sums are modulo 2^32. */
#include "../window.h"

#include "../op.h"
#include "values.h"

/* A place of the window that lies inside the image: what it multiplies, relative to where the window begins and to the filter. */
typedef struct tap {
    int32_t x, w;
} tap_t;

/* Places of a window. 1 at least. */
typedef struct taps {
    const tap_t *tap;
    int32_t count;
} taps_t;

/* Sums of the even and of the odd ones of eight channels side by side. */
typedef struct eight {
    int32x4_t even, odd;
} eight_t;

typedef struct sixteen {
    eight_t low, high;
} sixteen_t;

static inline eight_t eight_begin(const kf_channel_t *channel, uint32x4_t places) {
    eight_t sum = {gather(&channel->bias, places), gather(&channel[1].bias, places)};
    return sum;
}

/* Values of eight channels from `at` on, as int16, times their weights: VMULLB and VMULLT make int32 products of the even and of the odd
 * ones. */
#define EIGHT(at, even, odd)                            \
    "vldrb.s16 %q[p], [%[x], #" at "]\n\t"              \
    "vldrb.s16 %q[q], [%[w], #" at "]\n\t"              \
    "vadd.i16 %q[p], %q[p], %[offset]\n\t"              \
    "vmullb.s16 %q[t], %q[p], %q[q]\n\t"                \
    "vadd.i32 " even ", " even ", %q[t]\n\t"            \
    "vmullt.s16 %q[t], %q[p], %q[q]\n\t"                \
    "vadd.i32 " odd ", " odd ", %q[t]\n\t"

/* A place and 16 channels: 18 instructions. In assembly since the compiler keeps neither the loop nor the pointers short. */
static inline sixteen_t add_sixteens(sixteen_t s, taps_t taps, const int8_t *x_first, const int8_t *w_first, int32_t x_offset) {
    const int8_t *x, *w;
    int16x8_t p, q, t;
    __asm__("dls lr, %[n]\n"
            "1:\n\t"
            "ldrd %[x], %[w], [%[tap]], #8\n\t"
            "add %[x], %[x_first]\n\t"
            "add %[w], %[w_first]\n\t"
            EIGHT("0", "%q[a]", "%q[b]") EIGHT("8", "%q[c]", "%q[d]")
            "le lr, 1b"
            : [tap] "+r"(taps.tap), [x] "=&l"(x), [w] "=&l"(w), [a] "+w"(s.low.even), [b] "+w"(s.low.odd), [c] "+w"(s.high.even),
              [d] "+w"(s.high.odd), [p] "=&w"(p), [q] "=&w"(q), [t] "=&w"(t)
            : [n] "r"(taps.count), [x_first] "r"(x_first), [w_first] "r"(w_first), [offset] "r"(x_offset)
            : "lr", "memory");
    return s;
}

static inline eight_t add_eights(eight_t s, taps_t taps, const int8_t *x_first, const int8_t *w_first, int32_t x_offset) {
    const int8_t *x, *w;
    int16x8_t p, q, t;
    __asm__("dls lr, %[n]\n"
            "1:\n\t"
            "ldrd %[x], %[w], [%[tap]], #8\n\t"
            "add %[x], %[x_first]\n\t"
            "add %[w], %[w_first]\n\t"
            EIGHT("0", "%q[a]", "%q[b]")
            "le lr, 1b"
            : [tap] "+r"(taps.tap), [x] "=&l"(x), [w] "=&l"(w), [a] "+w"(s.even), [b] "+w"(s.odd), [p] "=&w"(p), [q] "=&w"(q),
              [t] "=&w"(t)
            : [n] "r"(taps.count), [x_first] "r"(x_first), [w_first] "r"(w_first), [offset] "r"(x_offset)
            : "lr", "memory");
    return s;
}

static inline void eight_end(eight_t sum, const clamp_t *clamp, int narrow, const kf_channel_t *channel, uint32x4_t places,
                             int8_t *out) {
    int32x4_t even = values_of(clamp, narrow, gather(&channel->mult, places), gather(&channel->right, places), sum.even);
    channel++;
    int32x4_t odd = values_of(clamp, narrow, gather(&channel->mult, places), gather(&channel->right, places), sum.odd);
    vstrbq_s16(out, vmovntq_s32(vreinterpretq_s16_s32(even), odd));
}

/* All channels of a position that fill eights; x is where its window begins. */
static inline __attribute__((always_inline)) int32_t eights_of(const kf_depthwise_t *d, const int8_t *x, taps_t taps, int8_t *out,
                                                               int narrow) {
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 2), 3); /* 0, 6, 12, 18 */
    const clamp_t clamp = clamp_of(&d->output);
    const int32_t x_offset = d->x_offset;
    const kf_channel_t *channel = d->channels;
    const int8_t *w = d->w;
    int32_t left = d->out_c;
    for (; left >= 16; left -= 16, channel += 16, x += 16, w += 16, out += 16) {
        const sixteen_t biases = {eight_begin(channel, places), eight_begin(channel + 8, places)};
        const sixteen_t sum = add_sixteens(biases, taps, x, w, x_offset);
        eight_end(sum.low, &clamp, narrow, channel, places, out);
        eight_end(sum.high, &clamp, narrow, channel + 8, places, out + 8);
    }
    if (left >= 8) {
        const eight_t sum = add_eights(eight_begin(channel, places), taps, x, w, x_offset);
        eight_end(sum, &clamp, narrow, channel, places, out);
        left -= 8;
    }
    return d->out_c - left;
}

static KF_NOINLINE int32_t eights_narrow(const kf_depthwise_t *d, const int8_t *x, taps_t taps, int8_t *out) {
    return eights_of(d, x, taps, out, 1);
}

static KF_NOINLINE int32_t eights_any(const kf_depthwise_t *d, const int8_t *x, taps_t taps, int8_t *out) {
    return eights_of(d, x, taps, out, 0);
}

static void one(const kf_depthwise_t *d, const int8_t *x, taps_t taps, int32_t channel, int8_t *out) {
    uint32_t sum = (uint32_t)d->channels[channel].bias;
    int32_t whole;
    for (const tap_t *tap = taps.tap; tap != taps.tap + taps.count; tap++) {
        sum += (uint32_t)(d->w[channel + tap->w] * (x[channel + tap->x] + d->x_offset));
    }
    whole = (int32_t)sum;
    kf_finish(&d->output, d->channels + channel, &whole, 1, out + channel);
}

/* The places of the columns `part` of a window. */
static int32_t list(const kf_depthwise_t *d, const int32_t *rows, kf_part_t part, tap_t *taps) {
    const int32_t x_step = d->dilation * d->in_c, w_step = d->out_c;
    tap_t *to = taps;
    int32_t line = part.first * w_step;
    for (int32_t i = 0; i < d->k_h; i++, line += d->k_w * w_step) {
        tap_t tap = {rows[i] + part.first * x_step, line};
        if (rows[i] < 0) {
            continue;
        }
        for (int32_t left = part.end - part.first; left > 0; left--) {
            *to++ = tap;
            tap.x += x_step;
            tap.w += w_step;
        }
    }
    return (int32_t)(to - taps);
}

/* The usual case: the places of a window are listed once for all channels, and for all positions whose windows lie inside the row. */
static void listed(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    taps_t taps = {d->scratch, 0};
    kf_part_t part = {-1, -1}; /* what is listed */
    const int32_t room = d->in_w - (d->k_w - 1) * d->dilation; /* whole windows begin before it */
    for (int32_t out_x = 0; out_x < d->out_w; out_x++, out += d->out_c) {
        const int32_t origin = out_x * d->stride - d->pad;
        const int8_t *start = x + origin * d->in_c;
        int32_t channel = 0;
        if (origin < 0 || origin >= room || part.first != 0 || part.end != d->k_w) {
            part = kf_window_part(origin, d->k_w, d->dilation, d->in_w);
            taps.count = list(d, rows, part, d->scratch);
        }
        if (taps.count > 0) { /* a dilated window may lie all outside */
            channel = (d->output.narrow ? eights_narrow : eights_any)(d, start, taps, out);
        }
        for (; channel < d->out_c; channel++) {
            one(d, start, taps, channel, out);
        }
    }
}

/* Several filters a channel, or a window too large to be listed: tap by tap. */
static void unlisted(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    for (int32_t out_x = 0; out_x < d->out_w; out_x++) {
        int32_t origin = out_x * d->stride - d->pad;
        kf_part_t part = kf_window_part(origin, d->k_w, d->dilation, d->in_w);
        for (int32_t channel = 0, in_c = 0, copy = 0; channel < d->out_c; channel++) {
            uint32_t sum = (uint32_t)d->channels[channel].bias;
            int32_t whole;
            for (int32_t i = 0; i < d->k_h; i++) {
                for (int32_t j = part.first; rows[i] >= 0 && j < part.end; j++) {
                    int32_t value = x[rows[i] + (origin + j * d->dilation) * d->in_c + in_c] + d->x_offset;
                    sum += (uint32_t)(d->w[(i * d->k_w + j) * d->out_c + channel] * value);
                }
            }
            whole = (int32_t)sum;
            kf_finish(&d->output, d->channels + channel, &whole, 1, out++);
            if (++copy == d->multiplier) {
                copy = 0;
                in_c++;
            }
        }
    }
}

void kf_depthwise_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    /* (out_w - 1) * stride < in_w, by the window's geometry. */
    uint32_t reach = (uint32_t)((d->out_w - 1) * d->stride + (d->k_w - 1) * d->dilation + 1);
    if (kf_depthwise_bytes((uint32_t)d->k_h, (uint32_t)d->k_w, reach, (uint32_t)d->multiplier) != 0) {
        listed(d, x, rows, out);
    } else {
        unlisted(d, x, rows, out);
    }
}
