/* FULLY_CONNECTED on cores with the DSP extension. */
#include "words.h"

void kf_finish(const kf_output_t *o, const kf_channel_t *channels, const int32_t *sum, int32_t count, int8_t *out) {
    const kf_channel_t *end = channels + count;
    if (kf_is_tight(o)) {
        int32_t up = 2 * o->zp + 1;
        do {
            *out++ = (int8_t)kf_tight(*sum++, channels->mult, up << channels->right, channels->right);
        } while (++channels != end);
    } else {
        do {
            *out++ = kf_value(o, channels, *sum++);
        } while (++channels != end);
    }
}

/* Two filters' words of four weights, in wa and wb: eight instructions. */
#define PRODUCTS(first, second)                                 \
    "sxtb16 %[t], %[wa]\n\t"                                    \
    "smlad %[" first "], %[xe], %[t], %[" first "]\n\t"         \
    "sxtb16 %[wa], %[wa], ror #8\n\t"                           \
    "smlad %[" first "], %[xo], %[wa], %[" first "]\n\t"        \
    "sxtb16 %[t], %[wb]\n\t"                                    \
    "smlad %[" second "], %[xe], %[t], %[" second "]\n\t"       \
    "sxtb16 %[wb], %[wb], ror #8\n\t"                           \
    "smlad %[" second "], %[xo], %[wb], %[" second "]\n\t"

/* Four values meet four filters: 23 instructions, 25 cycles for 16 products. */
#define BODY                                    \
    "ldr %[xo], [%[x]], #4\n\t"                 \
    "ldr %[wb], [%[w], %[filter]]\n\t"          \
    "ldr %[wa], [%[w]], #4\n\t"                 \
    "sxtab16 %[xe], %[offset], %[xo]\n\t"       \
    "sxtab16 %[xo], %[offset], %[xo], ror #8\n\t" \
    PRODUCTS("s0", "s1")                        \
    "ldr %[wb], [%[w2], %[filter]]\n\t"         \
    "ldr %[wa], [%[w2]], #4\n\t"                \
    PRODUCTS("s2", "s3")

/* The whole words of x, one at least, four in a turn. All fourteen registers are needed, so the end stays in memory. */
static inline void dot_words(const int8_t *x, int32_t words, const int8_t *w, int32_t filter, int16x2_t offset, int32_t *sum) {
    const int8_t *w2 = w + 2 * filter, *end = x + 4 * words;
    int32_t sum0 = sum[0], sum1 = sum[1], sum2 = sum[2], sum3 = sum[3];
    uint32_t entry = (uint32_t)words & 3u, x_even, x_odd, w_a, w_b;
    __asm__("cmp %[t], #2\n\t"
            "bgt 3f\n\t"
            "beq 2f\n\t"
            "cmp %[t], #1\n\t"
            "beq 1f\n\t"
            ".p2align 2\n"
            "4:\n\t" BODY "3:\n\t" BODY "2:\n\t" BODY "1:\n\t" BODY
            "ldr %[t], %[end]\n\t"
            "cmp %[x], %[t]\n\t"
            "bne 4b"
            : [x] "+r"(x), [w] "+r"(w), [w2] "+r"(w2), [s0] "+r"(sum0), [s1] "+r"(sum1), [s2] "+r"(sum2), [s3] "+r"(sum3),
              [t] "+r"(entry), [xe] "=&r"(x_even), [xo] "=&r"(x_odd), [wa] "=&r"(w_a), [wb] "=&r"(w_b)
            : [filter] "r"(filter), [offset] "r"(offset), [end] "m"(end)
            : "cc", "memory");
    sum[0] = sum0;
    sum[1] = sum1;
    sum[2] = sum2;
    sum[3] = sum3;
}

static void dot4(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    int32_t words = terms >> 2;
    if (words != 0) {
        dot_words(x, words, w, terms, kf_both(x_offset), sum);
    }
    for (int32_t i = 4 * words; i < terms; i++) {
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
