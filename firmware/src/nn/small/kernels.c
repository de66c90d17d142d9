/* The kernels for cores of the first Thumb instruction set, Cortex-M0 and M0+: eight registers that calculate and five that can
 * only be moved and added, and a multiplication that keeps 32 bits.
 *
 * GCC keeps sums in the low registers and moves pointers up and down for it. The loop of kf_dot4() is therefore written out:
 * sums and offset live in the high registers, where an addition costs the same, and one index serves five pointers. That
 * makes 16 instructions for 4 products; GCC 12.2 needs 22.
 */
#include "../kernels.h"

#include "../op.h"

/* x and w point behind their last value; sum[4], one for each filter. */
static KF_NOINLINE void run4(const int8_t *x, const int8_t *w, const kf_span_t *s, int32_t *sum) {
    const int8_t *w1 = w + s->filter;
    const int8_t *w2 = w1 + s->filter;
    const int8_t *w3 = w2 + s->filter;
    int32_t sum0 = sum[0], sum1 = sum[1], sum2 = sum[2], sum3 = sum[3];
    int32_t i = -s->values, value, product;
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
            : [x] "l"(x), [w] "l"(w), [w1] "l"(w1), [w2] "l"(w2), [w3] "l"(w3), [offset] "h"(s->x_offset)
            : "cc", "memory");
    sum[0] = sum0;
    sum[1] = sum1;
    sum[2] = sum2;
    sum[3] = sum3;
}

void kf_dot4(const kf_span_t *s, const int8_t *x, const int8_t *w, int32_t *sum) {
    x += s->values;
    w += s->values;
    for (int32_t row = s->rows; row > 0; row--) {
        run4(x, w, s, sum);
        x += s->x_row;
        w += s->w_row;
    }
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

/* Channel by channel: four sums and their pointers do not fit. */
void kf_depthwise4(const kf_places_t *p, const int8_t *x, const int8_t *w, int32_t *sum) {
    for (int32_t k = 0; k < 4; k++) {
        kf_depthwise1(p, x + k, w + k, sum + k);
    }
}

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

void kf_finish(const kf_finish_t *f, int32_t channel, const int32_t *sum, int32_t count, int8_t *out) {
    const kf_requant_t *by = f->by + channel * f->step;
    const int32_t *end = sum + count;
    do {
        int32_t value = *sum;
        if (by->shift >= 0) {
            value = mul_high((int32_t)((uint32_t)value << by->shift), by->mult);
        } else { /* see kf_requant() */
            value = mul_high(value, by->mult);
            value = (((value + (value >> 31)) >> (-1 - by->shift)) + 1) >> 1;
        }
        *out++ = (int8_t)kf_clamp(value + f->out_zp, f->low, f->high);
        by += f->step;
    } while (++sum != end);
}
