/* Depthwise convolution for Arm cores with the vector extension MVE. Sums are modulo 2^32. */
#include "../window.h"

#include "../op.h"
#include "values.h"

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
