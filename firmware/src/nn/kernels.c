/* The kernels in plain C. Sums are kept unsigned, because a bias may wrap them. */
#include "kernels.h"

/* Four filters share what is loaded of the image. */
void kf_dot4(const kf_span_t *s, const int8_t *x, const int8_t *w, int32_t *sum) {
    const int8_t *w1 = w + s->filter;
    const int8_t *w2 = w1 + s->filter;
    const int8_t *w3 = w2 + s->filter;
    int32_t x_offset = s->x_offset;
    uint32_t sum0 = (uint32_t)sum[0], sum1 = (uint32_t)sum[1], sum2 = (uint32_t)sum[2], sum3 = (uint32_t)sum[3];
    for (int32_t row = s->rows; row > 0; row--) {
        int32_t skip = s->w_row - s->values;
        const int8_t *end = x + s->values;
        do {
            int32_t value = *x++ + x_offset;
            sum0 += (uint32_t)(*w++ * value);
            sum1 += (uint32_t)(*w1++ * value);
            sum2 += (uint32_t)(*w2++ * value);
            sum3 += (uint32_t)(*w3++ * value);
        } while (x != end);
        x += s->x_row - s->values;
        w += skip;
        w1 += skip;
        w2 += skip;
        w3 += skip;
    }
    sum[0] = (int32_t)sum0;
    sum[1] = (int32_t)sum1;
    sum[2] = (int32_t)sum2;
    sum[3] = (int32_t)sum3;
}

void kf_dot1(const kf_span_t *s, const int8_t *x, const int8_t *w, int32_t *sum) {
    int32_t x_offset = s->x_offset;
    uint32_t total = (uint32_t)*sum;
    for (int32_t row = s->rows; row > 0; row--) {
        for (int32_t i = 0; i < s->values; i++) {
            total += (uint32_t)(w[i] * (x[i] + x_offset));
        }
        x += s->x_row;
        w += s->w_row;
    }
    *sum = (int32_t)total;
}

void kf_depthwise4(const kf_places_t *p, const int8_t *x, const int8_t *w, int32_t *sum) {
    int32_t x_offset = p->x_offset;
    uint32_t sum0 = (uint32_t)sum[0], sum1 = (uint32_t)sum[1], sum2 = (uint32_t)sum[2], sum3 = (uint32_t)sum[3];
    for (int32_t row = p->rows; row > 0; row--) {
        for (int32_t column = p->columns; column > 0; column--) {
            sum0 += (uint32_t)(w[0] * (x[0] + x_offset));
            sum1 += (uint32_t)(w[1] * (x[1] + x_offset));
            sum2 += (uint32_t)(w[2] * (x[2] + x_offset));
            sum3 += (uint32_t)(w[3] * (x[3] + x_offset));
            x += p->x_column;
            w += p->w_column;
        }
        x += p->x_row;
        w += p->w_row;
    }
    sum[0] = (int32_t)sum0;
    sum[1] = (int32_t)sum1;
    sum[2] = (int32_t)sum2;
    sum[3] = (int32_t)sum3;
}

void kf_depthwise1(const kf_places_t *p, const int8_t *x, const int8_t *w, int32_t *sum) {
    int32_t x_offset = p->x_offset;
    int32_t x_column = p->x_column;
    int32_t w_column = p->w_column;
    uint32_t total = (uint32_t)*sum;
    for (int32_t row = p->rows; row > 0; row--) {
        for (int32_t column = p->columns; column > 0; column--) {
            total += (uint32_t)(*w * (*x + x_offset));
            x += x_column;
            w += w_column;
        }
        x += p->x_row;
        w += p->w_row;
    }
    *sum = (int32_t)total;
}

void kf_finish(const kf_finish_t *f, int32_t channel, const int32_t *sum, int32_t count, int8_t *out) {
    const kf_requant_t *by = f->by + channel * f->step;
    const int32_t *end = sum + count;
    do {
        *out++ = (int8_t)kf_clamp(kf_requant(*sum, *by) + f->out_zp, f->low, f->high);
        by += f->step;
    } while (++sum != end);
}
