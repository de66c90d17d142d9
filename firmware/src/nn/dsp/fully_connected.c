/* FULLY_CONNECTED on cores with the DSP extension. */
#include "words.h"

/* The loop of dot4(), from x to `end` (one word at least). Written out because it just fits into the registers, with two
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

void kf_finish(const kf_output_t *o, const kf_channel_t *channels, const int32_t *sum, int32_t count, int8_t *out) {
    for (int32_t k = 0; k < count; k++) {
        out[k] = kf_value(o, &channels[k], sum[k]);
    }
}

/* ---- fully connected --------------------------------------------------------------------------------------------- */

static void dot4(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    int32_t in_words = terms & ~3;
    if (in_words != 0) {
        dot_words(x, x + in_words, w, terms, kf_both(x_offset), sum);
    }
    for (int32_t i = in_words; i < terms; i++) {
        int32_t value = x[i] + x_offset;
        const int8_t *at = w + i;
        for (int32_t k = 0; k < 4; k++) {
            sum[k] = __smlabb(*at, value, sum[k]);
            at += terms;
        }
    }
}

static void dot1(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    int16x2_t offset = kf_both(x_offset);
    int32_t total = *sum;
    int32_t i = 0;
    for (; i + 4 <= terms; i += 4) {
        uint32_t four = kf_word(x + i);
        total = kf_dot_word(total, kf_even_plus(offset, four), kf_odd_plus(offset, four), kf_word(w + i));
    }
    for (; i < terms; i++) {
        total = __smlabb(w[i], x[i] + x_offset, total);
    }
    *sum = total;
}

void kf_dots(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t count, int32_t *sum) {
    for (; count >= 4; count -= 4, w += 4 * terms, sum += 4) {
        dot4(x, x_offset, w, terms, sum);
    }
    for (; count > 0; count--, w += terms) {
        dot1(x, x_offset, w, terms, sum++);
    }
}
