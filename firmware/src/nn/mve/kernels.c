/* The kernels for Arm cores with the vector extension MVE ("Helium", Armv8.1-M): Cortex-M55. Sixteen multiply-accumulates an
 * instruction.
 *
 * A patch is the image as it lies: VMLADAVA multiplies bytes by bytes, where x - zp would not fit. So a sum is
 *
 *     sum w (q - zp) = sum w q - zp sum w,
 *
 * and what follows from the filter alone is in the channel's bias already. All sums are modulo 2^32.
 * Loads of a tail are predicated: a lane beyond the end is not read, and is 0.
 */
#include "../kernels.h"

#include <arm_mve.h>
#include <stddef.h>

#include "../op.h"
#include "../window.h"

/* ---- from sums to values ----------------------------------------------------------------------------------------- */

/* What clamps them. */
typedef struct clamp {
    int32x4_t low, high;
    int32_t zp;
} clamp_t;

static inline clamp_t clamp_of(const kf_output_t *o) {
    clamp_t clamp = {vdupq_n_s32(o->low), vdupq_n_s32(o->high), o->zp};
    return clamp;
}

/* kf_requant_any() and the clamp, four at a time; the values stay int32. VQRDMULH is kf_mul_high(), VRSHL by a negative number
 * shifts right and rounds ties up, and adding -1 to what is negative before it turns those into ties away from zero. */
static inline int32x4_t values_of(const clamp_t *clamp, int narrow, int32x4_t mult, int32x4_t right, int32x4_t sum) {
    int32x4_t shift = vmvnq_s32(right); /* -1 - right */
    if (narrow) {
        sum = vqrdmulhq_s32(sum, mult);
        sum = vaddq_s32(sum, vshrq_n_s32(sum, 31));
        sum = vrshlq_s32(sum, shift);
    } else {
        int32x4_t zero = vdupq_n_s32(0);
        sum = vqrdmulhq_s32(vshlq_s32(sum, vmaxq_s32(shift, zero)), mult);
        sum = vaddq_m_s32(sum, sum, vshrq_n_s32(sum, 31), vcmpltq_n_s32(shift, 0));
        sum = vrshlq_s32(sum, vminq_s32(shift, zero));
    }
    return vminq_s32(vmaxq_s32(vaddq_n_s32(sum, clamp->zp), clamp->low), clamp->high);
}

static inline int32x4_t gather(const int32_t *first, uint32x4_t places) {
    return vldrwq_gather_shifted_offset_s32(first, places);
}

void kf_finish(const kf_output_t *o, const kf_channel_t *channels, const int32_t *sum, int32_t count, int8_t *out) {
    uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), 3); /* words of a kf_channel_t */
    clamp_t clamp = clamp_of(o);
    for (; count > 0; count -= 4, channels += 4, sum += 4, out += 4) {
        mve_pred16_t some = vctp32q((uint32_t)count);
        int32x4_t mult = vldrwq_gather_shifted_offset_z_s32(&channels->mult, places, some);
        int32x4_t right = vldrwq_gather_shifted_offset_z_s32(&channels->right, places, some);
        vstrbq_p_s32(out, values_of(&clamp, o->narrow, mult, right, vldrwq_z_s32(sum, some)), some);
    }
}

/* ---- sums of products -------------------------------------------------------------------------------------------- */

/* Four sums, each in a register of its own while they grow. */
typedef struct sums {
    int32_t s0, s1, s2, s3;
} sums_t;

static inline int32x4_t vector_of(sums_t sums) {
    int32x4_t vector = vuninitializedq_s32();
    vector = vsetq_lane_s32(sums.s0, vector, 0);
    vector = vsetq_lane_s32(sums.s2, vector, 2);
    vector = vsetq_lane_s32(sums.s1, vector, 1);
    return vsetq_lane_s32(sums.s3, vector, 3);
}

/* The products of filters w, w + terms and patches x, x + terms: 00, 10, 01, 11 (filter, patch). */
static inline sums_t block(const int8_t *x, const int8_t *w, int32_t terms) {
    sums_t s = {0, 0, 0, 0};
    const int8_t *w1 = w + terms;
    const int8_t *x1 = x + terms;
    int32_t left = terms >> 4;
    do { /* at least once: callers see to it */
        int8x16_t u = vldrbq_s8(w), v = vldrbq_s8(w1);
        int8x16_t p = vldrbq_s8(x), q = vldrbq_s8(x1);
        s.s0 = vmladavaq_s8(s.s0, u, p);
        s.s1 = vmladavaq_s8(s.s1, v, p);
        s.s2 = vmladavaq_s8(s.s2, u, q);
        s.s3 = vmladavaq_s8(s.s3, v, q);
        w += 16;
        w1 += 16;
        x += 16;
        x1 += 16;
    } while (--left > 0);
    return s;
}

/* The same for the values that fill no vector; also for all of a short filter. */
static inline sums_t block_tail(sums_t s, const int8_t *x, const int8_t *w, int32_t terms, int32_t step) {
    mve_pred16_t tail = vctp8q((uint32_t)terms);
    int8x16_t u = vldrbq_z_s8(w, tail), v = vldrbq_z_s8(w + step, tail);
    int8x16_t p = vldrbq_z_s8(x, tail), q = vldrbq_z_s8(x + step, tail);
    s.s0 = vmladavaq_s8(s.s0, u, p);
    s.s1 = vmladavaq_s8(s.s1, v, p);
    s.s2 = vmladavaq_s8(s.s2, u, q);
    s.s3 = vmladavaq_s8(s.s3, v, q);
    return s;
}

/* The products of four filters and one patch. */
static inline sums_t four(const int8_t *x, const int8_t *w, int32_t terms) {
    sums_t s = {0, 0, 0, 0};
    const int8_t *w1 = w + terms;
    const int8_t *w2 = w1 + terms;
    const int8_t *w3 = w2 + terms;
    int32_t left = terms >> 4;
    for (; left > 0; left--) {
        int8x16_t value = vldrbq_s8(x);
        s.s0 = vmladavaq_s8(s.s0, vldrbq_s8(w), value);
        s.s1 = vmladavaq_s8(s.s1, vldrbq_s8(w1), value);
        s.s2 = vmladavaq_s8(s.s2, vldrbq_s8(w2), value);
        s.s3 = vmladavaq_s8(s.s3, vldrbq_s8(w3), value);
        x += 16;
        w += 16;
        w1 += 16;
        w2 += 16;
        w3 += 16;
    }
    if ((terms & 15) != 0) {
        mve_pred16_t tail = vctp8q((uint32_t)terms & 15u);
        int8x16_t value = vldrbq_z_s8(x, tail);
        s.s0 = vmladavaq_s8(s.s0, vldrbq_z_s8(w, tail), value);
        s.s1 = vmladavaq_s8(s.s1, vldrbq_z_s8(w1, tail), value);
        s.s2 = vmladavaq_s8(s.s2, vldrbq_z_s8(w2, tail), value);
        s.s3 = vmladavaq_s8(s.s3, vldrbq_z_s8(w3, tail), value);
    }
    return s;
}

static uint32_t dot(const int8_t *x, const int8_t *w, int32_t terms) {
    int32_t sum = 0;
    for (; terms > 0; terms -= 16, x += 16, w += 16) {
        mve_pred16_t some = vctp8q((uint32_t)terms);
        sum = vmladavaq_s8(sum, vldrbq_z_s8(w, some), vldrbq_z_s8(x, some));
    }
    return (uint32_t)sum;
}

/* x_offset * sum(w): |sum(w)| <= 2^23. */
int32_t kf_patch_bias(const int8_t *w, int32_t terms, int32_t x_offset) {
    int32_t sum = 0;
    if (x_offset == 0) {
        return 0;
    }
    for (; terms > 0; terms -= 16, w += 16) {
        sum = vaddvaq_s8(sum, vldrbq_z_s8(w, vctp8q((uint32_t)terms)));
    }
    return sum * x_offset;
}

/* ---- fully connected --------------------------------------------------------------------------------------------- */

static void dot4(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    int32_t offset[4];
    for (int32_t k = 0; k < 4; k++) {
        offset[k] = kf_patch_bias(w + k * terms, terms, x_offset);
    }
    int32x4_t total = vaddq_s32(vldrwq_s32(sum), vldrwq_s32(offset));
    vstrwq_s32(sum, vaddq_s32(total, vector_of(four(x, w, terms))));
}

static void dot1(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    *sum = (int32_t)((uint32_t)*sum + dot(x, w, terms) + (uint32_t)kf_patch_bias(w, terms, x_offset));
}

void kf_dots(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t count, int32_t *sum) {
    for (; count >= 4; count -= 4, w += 4 * terms, sum += 4) {
        dot4(x, x_offset, w, terms, sum);
    }
    for (; count > 0; count--, w += terms) {
        dot1(x, x_offset, w, terms, sum++);
    }
}

/* ---- convolution: patches of int8, one behind the other ------------------------------------------------------------ */

int32_t kf_patches_at_once(const kf_patches_t *p) {
    (void)p;
    return 6;
}

void kf_patch_put(kf_patches_t *p, int32_t index, int32_t at, const int8_t *x, int32_t count) {
    int8_t *to = (int8_t *)p->memory + index * p->terms + at;
    if (x == NULL) {
        int8x16_t zp = vdupq_n_s8((int8_t)-p->x_offset);
        for (; count > 0; count -= 16, to += 16) {
            vstrbq_p_s8(to, zp, vctp8q((uint32_t)count));
        }
        return;
    }
    for (; count >= 16; count -= 16, to += 16, x += 16) {
        vstrbq_s8(to, vldrbq_s8(x));
    }
    if (count > 0) {
        mve_pred16_t tail = vctp8q((uint32_t)count);
        vstrbq_p_s8(to, vldrbq_z_s8(x, tail), tail);
    }
}

void kf_patch_fill(kf_patches_t *p, int32_t index, const int8_t *x, int32_t count, int32_t rows, int32_t step) {
    for (int32_t at = 0; rows > 0; rows--, at += count, x += step) {
        kf_patch_put(p, index, at, x, count);
    }
}

/* Two patches with `pairs` pairs of filters. out_step: from one patch's outputs to the other's. */
static inline void pairs_of(const kf_filters_t *f, int32_t pairs, const int8_t *x, int32_t terms, int8_t *out, int32_t out_step,
                            int narrow, int whole) {
    const uint32x4_t filter = vandq_u32(vidupq_n_u32(0, 1), vdupq_n_u32(1)); /* 0, 1, 0, 1 */
    const uint32x4_t places = vmulq_n_u32(filter, 3);
    const uint32x4_t to = vmlaq_n_u32(filter, vshrq_n_u32(vidupq_n_u32(0, 1), 1), (uint32_t)out_step);
    const clamp_t clamp = clamp_of(&f->output);
    const int32_t in_vectors = terms & ~15;
    const kf_channel_t *channel = f->channels;
    const int8_t *w = f->w;
    for (; pairs > 0; pairs--) {
        sums_t s = {0, 0, 0, 0};
        if (whole || in_vectors != 0) {
            s = block(x, w, terms);
        }
        if (!whole) {
            s = block_tail(s, x + in_vectors, w + in_vectors, terms & 15, terms);
        }
        int32x4_t sum = vaddq_s32(vector_of(s), gather(&channel->bias, places));
        int32x4_t value = values_of(&clamp, narrow, gather(&channel->mult, places), gather(&channel->right, places), sum);
        vstrbq_scatter_offset_s32(out, to, value);
        w += 2 * terms;
        channel += 2;
        out += 2;
    }
}

/* The usual case, a function of its own so that it has all registers: filters fill their vectors. */
static KF_NOINLINE void pairs_whole(const kf_filters_t *f, int32_t pairs, const int8_t *x, int32_t terms, int8_t *out,
                                    int32_t out_step) {
    pairs_of(f, pairs, x, terms, out, out_step, 1, 1);
}

static KF_NOINLINE void pairs_any(const kf_filters_t *f, int32_t pairs, const int8_t *x, int32_t terms, int8_t *out, int32_t out_step) {
    pairs_of(f, pairs, x, terms, out, out_step, f->output.narrow, 0);
}

/* Two patches with all filters. */
static void pair(const kf_filters_t *f, const int8_t *x, int32_t terms, int8_t *out, int32_t out_step) {
    int32_t last = f->count - 1;
    if (f->output.narrow && (terms & 15) == 0) {
        pairs_whole(f, f->count >> 1, x, terms, out, out_step);
    } else {
        pairs_any(f, f->count >> 1, x, terms, out, out_step);
    }
    if ((f->count & 1) != 0) {
        const kf_channel_t *channel = f->channels + last;
        const int8_t *w = f->w + last * terms;
        for (int32_t k = 0; k < 2; k++) {
            int32_t sum = (int32_t)((uint32_t)channel->bias + dot(x + k * terms, w, terms));
            kf_finish(&f->output, channel, &sum, 1, out + last + k * out_step);
        }
    }
}

/* One patch with all filters, by four. */
static KF_NOINLINE void single(const kf_filters_t *f, const int8_t *x, int32_t terms, int8_t *out) {
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), 3);
    const clamp_t clamp = clamp_of(&f->output);
    const int32_t narrow = f->output.narrow;
    const kf_channel_t *channel = f->channels;
    const int8_t *w = f->w;
    int32_t left = f->count;
    for (; left >= 4; left -= 4, w += 4 * terms, channel += 4, out += 4) {
        int32x4_t sum = vaddq_s32(vector_of(four(x, w, terms)), gather(&channel->bias, places));
        vstrbq_s32(out, values_of(&clamp, narrow, gather(&channel->mult, places), gather(&channel->right, places), sum));
    }
    for (; left > 0; left--, w += terms, channel++, out++) {
        int32_t sum = (int32_t)((uint32_t)channel->bias + dot(x, w, terms));
        kf_finish(&f->output, channel, &sum, 1, out);
    }
}

void kf_convolve(const kf_filters_t *f, kf_patches_t *p, int8_t *out, int32_t out_step) {
    const int8_t *x = (const int8_t *)p->memory;
    int32_t left = p->patches;
    for (; left >= 2; left -= 2, x += 2 * p->terms, out += 2 * out_step) {
        pair(f, x, p->terms, out, out_step);
    }
    if (left == 1) {
        single(f, x, p->terms, out);
    }
}

/* ---- depthwise convolution ----------------------------------------------------------------------------------------- */

/* A place of the window that lies inside the image: what it multiplies, relative to the image and to the filter. */
typedef struct tap {
    int32_t x, w;
} tap_t;

/* Eight channels side by side, as int16: VMULLB and VMULLT make int32 products of the even and of the odd ones. */
typedef struct eight {
    int32x4_t even, odd;
} eight_t;

static inline eight_t eight_begin(const kf_channel_t *channel, uint32x4_t places) {
    eight_t sum = {gather(&channel->bias, places), gather(&channel[1].bias, places)};
    return sum;
}

static inline eight_t eight_add(eight_t sum, const int8_t *x, int16_t x_offset, const int8_t *w) {
    int16x8_t value = vaddq_n_s16(vldrbq_s16(x), x_offset);
    int16x8_t by = vldrbq_s16(w);
    sum.even = vaddq_s32(sum.even, vmullbq_int_s16(value, by));
    sum.odd = vaddq_s32(sum.odd, vmulltq_int_s16(value, by));
    return sum;
}

static inline void eight_end(eight_t sum, const clamp_t *clamp, int narrow, const kf_channel_t *channel, uint32x4_t places,
                             int8_t *out) {
    int32x4_t even = values_of(clamp, narrow, gather(&channel->mult, places), gather(&channel->right, places), sum.even);
    channel++;
    int32x4_t odd = values_of(clamp, narrow, gather(&channel->mult, places), gather(&channel->right, places), sum.odd);
    vstrbq_s16(out, vmovntq_s32(vreinterpretq_s16_s32(even), odd));
}

/* All channels of a place that fill eights; two eights share the list of taps. */
static KF_NOINLINE int32_t eights(const kf_depthwise_t *d, const int8_t *x, const tap_t *taps, int32_t count, int8_t *out) {
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 2), 3); /* 0, 6, 12, 18 */
    const clamp_t clamp = clamp_of(&d->output);
    const int16_t x_offset = (int16_t)d->x_offset;
    const int32_t narrow = d->output.narrow;
    const tap_t *end = taps + count;
    const kf_channel_t *channel = d->channels;
    const int8_t *w = d->w;
    int32_t left = d->out_c;
    for (; left >= 16; left -= 16, channel += 16, x += 16, w += 16, out += 16) {
        eight_t low = eight_begin(channel, places), high = eight_begin(channel + 8, places);
        for (const tap_t *tap = taps; tap != end; tap++) {
            const int8_t *x_at = x + tap->x, *w_at = w + tap->w;
            low = eight_add(low, x_at, x_offset, w_at);
            high = eight_add(high, x_at + 8, x_offset, w_at + 8);
        }
        eight_end(low, &clamp, narrow, channel, places, out);
        eight_end(high, &clamp, narrow, channel + 8, places, out + 8);
    }
    if (left >= 8) {
        eight_t sum = eight_begin(channel, places);
        for (const tap_t *tap = taps; tap != end; tap++) {
            sum = eight_add(sum, x + tap->x, x_offset, w + tap->w);
        }
        eight_end(sum, &clamp, narrow, channel, places, out);
        left -= 8;
    }
    return d->out_c - left;
}

static void one(const kf_depthwise_t *d, const int8_t *x, const tap_t *taps, int32_t count, int32_t channel, int8_t *out) {
    uint32_t sum = (uint32_t)d->channels[channel].bias;
    int32_t whole;
    for (const tap_t *tap = taps; tap != taps + count; tap++) {
        sum += (uint32_t)(d->w[channel + tap->w] * (x[channel + tap->x] + d->x_offset));
    }
    whole = (int32_t)sum;
    kf_finish(&d->output, d->channels + channel, &whole, 1, out + channel);
}

/* The usual case: taps are listed once for all channels of a place. */
static void listed(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    tap_t *taps = d->scratch;
    for (int32_t out_x = 0; out_x < d->out_w; out_x++, out += d->out_c) {
        int32_t origin = out_x * d->stride - d->pad, count = 0, channel;
        kf_part_t part = kf_window_part(origin, d->k_w, d->dilation, d->in_w);
        for (int32_t i = 0; i < d->k_h; i++) {
            for (int32_t j = part.first; rows[i] >= 0 && j < part.end; j++, count++) {
                taps[count].x = rows[i] + (origin + j * d->dilation) * d->in_c;
                taps[count].w = (i * d->k_w + j) * d->out_c;
            }
        }
        for (channel = eights(d, x, taps, count, out); channel < d->out_c; channel++) {
            one(d, x, taps, count, channel, out);
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
