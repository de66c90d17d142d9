/* Depthwise convolutions on cores with the DSP extension. */
#include "../window.h"
#include "words.h"

/* Four channels of one window row. Channels lie side by side, so a word holds one value of each. */
static inline void along4(const int8_t *x, int32_t x_step, const int8_t *w, int32_t w_step, int32_t count, int16x2_t offset,
                          int32_t sum[4]) {
    for (; count > 0; count--, x += x_step, w += w_step) {
        uint32_t x_four = kf_word(x);
        uint32_t w_four = kf_word(w);
        int16x2_t x_even = kf_even_plus(offset, x_four);
        int16x2_t x_odd = kf_odd_plus(offset, x_four);
        int16x2_t w_even = kf_even(w_four);
        int16x2_t w_odd = kf_odd(w_four);
        sum[0] = __smlabb(x_even, w_even, sum[0]);
        sum[1] = __smlabb(x_odd, w_odd, sum[1]);
        sum[2] = __smlatt(x_even, w_even, sum[2]);
        sum[3] = __smlatt(x_odd, w_odd, sum[3]);
    }
}

static int32_t along1(const int8_t *x, int32_t x_step, const int8_t *w, int32_t w_step, int32_t count, int32_t x_offset) {
    int32_t sum = 0;
    for (; count > 0; count--, x += x_step, w += w_step) {
        sum = __smlabb(*w, *x + x_offset, sum);
    }
    return sum;
}

void kf_depthwise_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    int16x2_t offset = kf_both(d->x_offset);
    int32_t x_step = d->dilation * d->in_c;
    for (int32_t out_x = 0; out_x < d->out_w; out_x++) {
        int32_t origin = out_x * d->stride - d->pad;
        kf_part_t part = kf_window_part(origin, d->k_w, d->dilation, d->in_w);
        const int8_t *start = x + (origin + part.first * d->dilation) * d->in_c;
        for (int32_t c = 0, in_c = 0, copy = 0, some; c < d->out_c; c += some) {
            const int8_t *w = d->w + c + part.first * d->out_c;
            int32_t sum[4];
            some = d->multiplier == 1 && c + 4 <= d->out_c ? 4 : 1;
            for (int32_t k = 0; k < some; k++) {
                sum[k] = d->channels[c + k].bias;
            }
            for (int32_t i = 0; i < d->k_h; i++, w += d->k_w * d->out_c) {
                if (rows[i] < 0) {
                    continue;
                }
                if (some == 4) {
                    along4(start + rows[i] + in_c, x_step, w, d->out_c, part.end - part.first, offset, sum);
                } else {
                    sum[0] += along1(start + rows[i] + in_c, x_step, w, d->out_c, part.end - part.first, d->x_offset);
                }
            }
            kf_finish(&d->output, d->channels + c, sum, some, out);
            out += some;
            copy += some;
            if (copy >= d->multiplier) {
                copy = 0;
                in_c += some;
            }
        }
    }
}
