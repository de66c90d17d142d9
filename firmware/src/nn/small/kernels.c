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

void kf_finish(const kf_output_t *o, const kf_channel_t *channels, const int32_t *sum, int32_t count, int8_t *out) {
    const int32_t *end = sum + count;
    do {
        *out++ = value_of(o, channels++, *sum);
    } while (++sum != end);
}

/* ---- fully connected --------------------------------------------------------------------------------------------- */

/* x and w point behind their last value; sum[4], one for each filter. */
void kf_dot4(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    const int8_t *w1, *w2, *w3;
    x += terms;
    w += terms;
    w1 = w + terms;
    w2 = w1 + terms;
    w3 = w2 + terms;
    int32_t sum0 = sum[0], sum1 = sum[1], sum2 = sum[2], sum3 = sum[3];
    int32_t i = -terms, value, product;
    __asm__(".syntax unified\n"
            "1:\n\t"
            "ldrsb %[v], [%[x], %[i]]\n\t"
            "ldrsb %[p], [%[w], %[i]]\n\t"
            "add %[v], %[offset]\n\t"
            "muls %[p], %[v]\n\t"
            "add %[s0], %[p]\n\t"
            "ldrsb %[p], [%[w1], %[i]]\n\t"
            "muls %[p], %[v]\n\t"
            "add %[s1], %[p]\n\t"
            "ldrsb %[p], [%[w2], %[i]]\n\t"
            "muls %[p], %[v]\n\t"
            "add %[s2], %[p]\n\t"
            "ldrsb %[p], [%[w3], %[i]]\n\t"
            "muls %[p], %[v]\n\t"
            "add %[s3], %[p]\n\t"
            "adds %[i], #1\n\t"
            "bne 1b"
            : [i] "+l"(i), [v] "=&l"(value), [p] "=&l"(product), [s0] "+h"(sum0), [s1] "+h"(sum1), [s2] "+h"(sum2),
              [s3] "+h"(sum3)
            : [x] "l"(x), [w] "l"(w), [w1] "l"(w1), [w2] "l"(w2), [w3] "l"(w3), [offset] "h"(x_offset)
            : "cc", "memory");
    sum[0] = sum0;
    sum[1] = sum1;
    sum[2] = sum2;
    sum[3] = sum3;
}

void kf_dot1(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    uint32_t total = (uint32_t)*sum;
    for (int32_t i = 0; i < terms; i++) {
        total += (uint32_t)(w[i] * (x[i] + x_offset));
    }
    *sum = (int32_t)total;
}

/* ---- convolution: one patch of int8, as it lies -------------------------------------------------------------------- */

int32_t kf_patches_at_once(const kf_patches_t *p) {
    (void)p;
    return 1;
}

void kf_patch_put(kf_patches_t *p, int32_t index, int32_t at, const int8_t *x, int32_t count) {
    int8_t *to = (int8_t *)p->memory + at;
    (void)index;
    for (int32_t i = 0; i < count; i++) {
        to[i] = x == NULL ? (int8_t)-p->x_offset : x[i];
    }
}

void kf_convolve(const kf_filters_t *f, kf_patches_t *p, int8_t *out, int32_t out_step) {
    const int8_t *x = (const int8_t *)p->memory;
    const int8_t *w = f->w;
    const kf_channel_t *channel = f->channels;
    (void)out_step;
    for (int32_t left = f->count, some; left > 0; left -= some) {
        int32_t sum[4];
        some = left >= 4 ? 4 : 1;
        for (int32_t k = 0; k < some; k++) {
            sum[k] = channel[k].bias;
        }
        if (some == 4) {
            kf_dot4(x, p->x_offset, w, p->terms, sum);
        } else {
            kf_dot1(x, p->x_offset, w, p->terms, sum);
        }
        kf_finish(&f->output, channel, sum, some, out);
        channel += some;
        w += some * p->terms;
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

void kf_depthwise_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
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
