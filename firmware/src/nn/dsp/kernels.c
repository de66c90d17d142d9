/* The kernels for Arm cores with the DSP extension (ARMv7E-M, ARMv8-M Main with DSP): two multiply-accumulates an instruction.
 *
 * A word holds four int8 values. SXTB16 makes int16 pairs of values 0 and 2, and, rotated, of 1 and 3; SXTAB16 adds the input's
 * offset on the way, so x - zp costs nothing: |x - zp| <= 255 fits. SMLAD adds two products modulo 2^32, as the sums are
 * defined. Words are read with the compiler's own memcpy, which is one LDR on these cores
 * wherever the word lies (a call of memcpy would stay a call: there is no hosted library here).
 */
#include "../kernels.h"

#include <arm_acle.h>

static inline uint32_t word(const int8_t *p) {
    uint32_t value;
    __builtin_memcpy(&value, p, sizeof value);
    return value;
}

/* int16 pairs: values 0 and 2, and 1 and 3, of four. The compiler has no intrinsic for the rotated form. */
static inline int16x2_t even(uint32_t four) {
    return __sxtb16((int8x4_t)four);
}

static inline int16x2_t odd(uint32_t four) {
    uint32_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(four));
    return (int16x2_t)pair;
}

static inline int16x2_t even_plus(int16x2_t offset, uint32_t four) {
    return __sxtab16(offset, (int8x4_t)four);
}

static inline int16x2_t odd_plus(int16x2_t offset, uint32_t four) {
    uint32_t pair;
    __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(pair) : "r"(offset), "r"(four));
    return (int16x2_t)pair;
}

static inline int16x2_t both(int32_t value) {
    return (int16x2_t)(((uint32_t)value & 0xFFFFu) * 0x10001u);
}

static inline int32_t dot_word(int32_t sum, int16x2_t x_even, int16x2_t x_odd, uint32_t w) {
    return __smlad(x_odd, odd(w), __smlad(x_even, even(w), sum));
}

/* The loop of kf_dot4(), from x to `end` (one word at least). Written out because it just fits into the registers, with two
 * pointers for four filters and the end on the stack; GCC 12.2 moves pointers and sums up and down, 31 instructions for 26. */
static inline void dot_words(const int8_t *x, const int8_t *end, const int8_t *w, int32_t filter, int16x2_t offset,
                             int32_t *sum) {
    const int8_t *w2 = w + 2 * filter;
    int32_t sum0 = sum[0], sum1 = sum[1], sum2 = sum[2], sum3 = sum[3];
    uint32_t x_even, x_odd, w_even, w_odd;
    __asm__("1:\n\t"
            "ldr %[xo], [%[x]], #4\n\t"
            "ldr %[wo], [%[w], %[filter]]\n\t"
            "sxtab16 %[xe], %[offset], %[xo]\n\t"
            "sxtab16 %[xo], %[offset], %[xo], ror #8\n\t"
            "sxtb16 %[we], %[wo]\n\t"
            "sxtb16 %[wo], %[wo], ror #8\n\t"
            "smlad %[s1], %[xe], %[we], %[s1]\n\t"
            "smlad %[s1], %[xo], %[wo], %[s1]\n\t"
            "ldr %[wo], [%[w]], #4\n\t"
            "sxtb16 %[we], %[wo]\n\t"
            "sxtb16 %[wo], %[wo], ror #8\n\t"
            "smlad %[s0], %[xe], %[we], %[s0]\n\t"
            "smlad %[s0], %[xo], %[wo], %[s0]\n\t"
            "ldr %[wo], [%[w2], %[filter]]\n\t"
            "sxtb16 %[we], %[wo]\n\t"
            "sxtb16 %[wo], %[wo], ror #8\n\t"
            "smlad %[s3], %[xe], %[we], %[s3]\n\t"
            "smlad %[s3], %[xo], %[wo], %[s3]\n\t"
            "ldr %[wo], [%[w2]], #4\n\t"
            "sxtb16 %[we], %[wo]\n\t"
            "sxtb16 %[wo], %[wo], ror #8\n\t"
            "smlad %[s2], %[xe], %[we], %[s2]\n\t"
            "smlad %[s2], %[xo], %[wo], %[s2]\n\t"
            "ldr %[wo], %[end]\n\t"
            "cmp %[x], %[wo]\n\t"
            "bne 1b"
            : [x] "+r"(x), [w] "+r"(w), [w2] "+r"(w2), [s0] "+r"(sum0), [s1] "+r"(sum1), [s2] "+r"(sum2), [s3] "+r"(sum3),
              [xe] "=&r"(x_even), [xo] "=&r"(x_odd), [we] "=&r"(w_even), [wo] "=&r"(w_odd)
            : [filter] "r"(filter), [offset] "r"(offset), [end] "m"(end)
            : "cc", "memory");
    sum[0] = sum0;
    sum[1] = sum1;
    sum[2] = sum2;
    sum[3] = sum3;
}

void kf_dot4(const kf_span_t *s, const int8_t *x, const int8_t *w, int32_t *sum) {
    int32_t in_words = s->values & ~3;
    int32_t filter = s->filter;
    for (int32_t row = s->rows; row > 0; row--) {
        if (in_words != 0) {
            dot_words(x, x + in_words, w, filter, both(s->x_offset), sum);
        }
        for (int32_t i = in_words; i < s->values; i++) {
            int32_t value = x[i] + s->x_offset;
            const int8_t *at = w + i;
            for (int32_t k = 0; k < 4; k++) {
                sum[k] = __smlabb(*at, value, sum[k]);
                at += filter;
            }
        }
        x += s->x_row;
        w += s->w_row;
    }
}

void kf_dot1(const kf_span_t *s, const int8_t *x, const int8_t *w, int32_t *sum) {
    int16x2_t offset = both(s->x_offset);
    int32_t total = *sum;
    for (int32_t row = s->rows; row > 0; row--) {
        int32_t i = 0;
        for (; i + 4 <= s->values; i += 4) {
            uint32_t four = word(x + i);
            total = dot_word(total, even_plus(offset, four), odd_plus(offset, four), word(w + i));
        }
        for (; i < s->values; i++) {
            total = __smlabb(w[i], x[i] + s->x_offset, total);
        }
        x += s->x_row;
        w += s->w_row;
    }
    *sum = total;
}

/* Channels lie side by side, so a word holds one value of each of four. */
void kf_depthwise4(const kf_places_t *p, const int8_t *x, const int8_t *w, int32_t *sum) {
    int32_t x_column = p->x_column;
    int32_t w_column = p->w_column;
    int16x2_t offset = both(p->x_offset);
    int32_t sum0 = sum[0], sum1 = sum[1], sum2 = sum[2], sum3 = sum[3];
    for (int32_t row = p->rows; row > 0; row--) {
        for (int32_t column = p->columns; column > 0; column--) {
            uint32_t x_four = word(x);
            uint32_t w_four = word(w);
            int16x2_t x_even = even_plus(offset, x_four);
            int16x2_t x_odd = odd_plus(offset, x_four);
            int16x2_t w_even = even(w_four);
            int16x2_t w_odd = odd(w_four);
            sum0 = __smlabb(x_even, w_even, sum0);
            sum1 = __smlabb(x_odd, w_odd, sum1);
            sum2 = __smlatt(x_even, w_even, sum2);
            sum3 = __smlatt(x_odd, w_odd, sum3);
            x += x_column;
            w += w_column;
        }
        x += p->x_row;
        w += p->w_row;
    }
    sum[0] = sum0;
    sum[1] = sum1;
    sum[2] = sum2;
    sum[3] = sum3;
}

void kf_depthwise1(const kf_places_t *p, const int8_t *x, const int8_t *w, int32_t *sum) {
    int32_t total = *sum;
    for (int32_t row = p->rows; row > 0; row--) {
        for (int32_t column = p->columns; column > 0; column--) {
            total = __smlabb(*w, *x + p->x_offset, total);
            x += p->x_column;
            w += p->w_column;
        }
        x += p->x_row;
        w += p->w_row;
    }
    *sum = total;
}

void kf_finish(const kf_finish_t *f, int32_t channel, const int32_t *sum, int32_t count, int8_t *out) {
    const kf_requant_t *by = f->by + channel * f->step;
    int32_t step = f->step, out_zp = f->out_zp, low = f->low, high = f->high;
    const int32_t *end = sum + count;
    do {
        *out++ = (int8_t)kf_clamp(kf_requant(*sum, *by) + out_zp, low, high);
        by += step;
    } while (++sum != end);
}
