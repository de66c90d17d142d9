/* The kernels in plain C. Sums are kept unsigned, because a bias may wrap them. */
#include "kernels.h"

#include <stddef.h>

static inline int8_t value_of(const kf_output_t *o, const kf_channel_t *channel, uint32_t sum) {
    return (int8_t)kf_clamp(kf_requant_any((int32_t)sum, channel->mult, channel->right) + o->zp, o->low, o->high);
}

void kf_finish(const kf_output_t *o, const kf_channel_t *channels, const int32_t *sum, int32_t count, int8_t *out) {
    for (int32_t k = 0; k < count; k++) {
        out[k] = value_of(o, &channels[k], (uint32_t)sum[k]);
    }
}

/* ---- fully connected --------------------------------------------------------------------------------------------- */

/* Two filters share what is loaded of the image; a last one keeps itself company. */
void kf_dots(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t count, int32_t *sum) {
    for (; count > 0; count -= 2, w += 2 * terms, sum += 2) {
        const int8_t *other = count > 1 ? w + terms : w;
        uint32_t a = (uint32_t)sum[0], b = 0;
        for (int32_t i = 0; i < terms; i++) {
            int32_t value = x[i] + x_offset;
            a += (uint32_t)(w[i] * value);
            b += (uint32_t)(other[i] * value);
        }
        sum[0] = (int32_t)a;
        if (count > 1) {
            sum[1] = (int32_t)((uint32_t)sum[1] + b);
        }
    }
}

/* ---- convolution: two patches of int16, one behind the other ------------------------------------------------------- */

int32_t kf_patch_bias(const int8_t *w, int32_t terms, int32_t x_offset) {
    (void)w;
    (void)terms;
    (void)x_offset;
    return 0;
}

int32_t kf_patches_at_once(const kf_patches_t *p) {
    (void)p;
    return 2;
}

void kf_patch_put(kf_patches_t *p, int32_t index, int32_t at, const int8_t *x, int32_t count) {
    int16_t *to = (int16_t *)p->memory + index * p->terms + at;
    int32_t x_offset = p->x_offset;
    for (int32_t i = 0; i < count; i++) {
        to[i] = x == NULL ? 0 : (int16_t)(x[i] + x_offset);
    }
}

void kf_patch_fill(kf_patches_t *p, int32_t index, const int8_t *x, int32_t count, int32_t rows, int32_t step) {
    for (int32_t at = 0; rows > 0; rows--, at += count, x += step) {
        kf_patch_put(p, index, at, x, count);
    }
}

/* Two filters on two patches: four loads for four products. */
static void block(const int16_t *x, const int8_t *w, int32_t terms, uint32_t sum[4]) {
    const int16_t *x1 = x + terms;
    const int8_t *w1 = w + terms;
    const int16_t *end = x1;
    uint32_t sum0 = sum[0], sum1 = sum[1], sum2 = sum[2], sum3 = sum[3];
    do {
        int32_t a = *x++, b = *x1++, u = *w++, v = *w1++;
        sum0 += (uint32_t)(a * u);
        sum1 += (uint32_t)(a * v);
        sum2 += (uint32_t)(b * u);
        sum3 += (uint32_t)(b * v);
    } while (x != end);
    sum[0] = sum0;
    sum[1] = sum1;
    sum[2] = sum2;
    sum[3] = sum3;
}

static uint32_t dot(const int16_t *x, const int8_t *w, int32_t terms, uint32_t sum) {
    for (int32_t i = 0; i < terms; i++) {
        sum += (uint32_t)(x[i] * w[i]);
    }
    return sum;
}

void kf_convolve(const kf_filters_t *f, kf_patches_t *p, int8_t *out, int32_t out_step) {
    const int16_t *x = (const int16_t *)p->memory;
    const int8_t *w = f->w;
    const kf_channel_t *channel = f->channels;
    int32_t left = f->count;
    int32_t patches = p->patches;
    for (; patches == 2 && left >= 2; left -= 2, channel += 2, w += 2 * p->terms, out += 2) {
        uint32_t sum[4] = {(uint32_t)channel[0].bias, (uint32_t)channel[1].bias, (uint32_t)channel[0].bias,
                           (uint32_t)channel[1].bias};
        block(x, w, p->terms, sum);
        out[0] = value_of(&f->output, channel, sum[0]);
        out[1] = value_of(&f->output, channel + 1, sum[1]);
        out[out_step] = value_of(&f->output, channel, sum[2]);
        out[out_step + 1] = value_of(&f->output, channel + 1, sum[3]);
    }
    for (; left > 0; left--, channel++, w += p->terms, out++) {
        for (int32_t k = 0; k < patches; k++) {
            out[k * out_step] = value_of(&f->output, channel, dot(x + k * p->terms, w, p->terms, (uint32_t)channel->bias));
        }
    }
}

/* ---- depthwise convolution: as the tensors lie --------------------------------------------------------------------- */

void kf_depthwise_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    for (int32_t out_x = 0; out_x < d->out_w; out_x++) {
        int32_t origin = out_x * d->stride - d->pad;
        for (int32_t c = 0, in_c = 0, copy = 0; c < d->out_c; c++) {
            uint32_t sum = (uint32_t)d->channels[c].bias;
            const int8_t *w = d->w + c;
            for (int32_t i = 0; i < d->k_h; i++) {
                const int8_t *row = x + rows[i] + in_c;
                int32_t at = origin;
                for (int32_t j = 0; j < d->k_w; j++, at += d->dilation, w += d->out_c) {
                    if (rows[i] >= 0 && at >= 0 && at < d->in_w) {
                        sum += (uint32_t)(*w * (row[at * d->in_c] + d->x_offset));
                    }
                }
            }
            *out++ = value_of(&d->output, &d->channels[c], sum);
            if (++copy == d->multiplier) {
                copy = 0;
                in_c++;
            }
        }
    }
}
