/* The kernels for Arm cores with the DSP extension (ARMv7E-M, ARMv8-M Main with DSP): two multiply-accumulates an instruction.
 *
 * A word holds four int8 values. SXTB16 makes int16 pairs of values 0 and 2, and, rotated, of 1 and 3; SXTAB16 adds the input's
 * offset on the way, so x - zp costs nothing: |x - zp| <= 255 fits. SMLAD adds two products modulo 2^32, as the sums are
 * defined. Words are read with the compiler's own memcpy, which is one LDR on these cores
 * wherever the word lies (a call of memcpy would stay a call: there is no hosted library here).
 */
#include "../kernels.h"
#include "../window.h"

#include <arm_acle.h>
#include <stddef.h>

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

/* ---- from sums to values ----------------------------------------------------------------------------------------- */

/* __smmulr() of 2 x is the first rounding of kf_requant_narrow(), in one instruction. */
static inline int8_t value_of(const kf_output_t *o, const kf_channel_t *channel, int32_t sum) {
    int32_t value;
    if (o->narrow) {
        __asm__("smmulr %0, %1, %2" : "=r"(value) : "r"(2 * sum), "r"(channel->mult));
        value = (((value + (value >> 31)) >> channel->right) + 1) >> 1;
    } else {
        value = kf_requant_any(sum, channel->mult, channel->right);
    }
    return (int8_t)kf_clamp(value + o->zp, o->low, o->high);
}

void kf_finish(const kf_output_t *o, const kf_channel_t *channels, const int32_t *sum, int32_t count, int8_t *out) {
    for (int32_t k = 0; k < count; k++) {
        out[k] = value_of(o, &channels[k], sum[k]);
    }
}

/* ---- fully connected --------------------------------------------------------------------------------------------- */

void kf_dot4(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    int32_t in_words = terms & ~3;
    if (in_words != 0) {
        dot_words(x, x + in_words, w, terms, both(x_offset), sum);
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

void kf_dot1(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    int16x2_t offset = both(x_offset);
    int32_t total = *sum;
    int32_t i = 0;
    for (; i + 4 <= terms; i += 4) {
        uint32_t four = word(x + i);
        total = dot_word(total, even_plus(offset, four), odd_plus(offset, four), word(w + i));
    }
    for (; i < terms; i++) {
        total = __smlabb(w[i], x[i] + x_offset, total);
    }
    *sum = total;
}

/* ---- convolution --------------------------------------------------------------------------------------------------- */

/* Two patches of int16, one behind the other. Of each four values the order is 0, 2, 1, 3: what SXTB16 makes of four weights. What
 * does not fill a word of weights keeps its order. */
int32_t kf_patches_at_once(const kf_patches_t *p) {
    (void)p;
    return 2;
}

void kf_patch_put(kf_patches_t *p, int32_t index, int32_t at, const int8_t *x, int32_t count) {
    int16_t *patch = (int16_t *)p->memory + index * ((p->terms + 3) & ~3);
    int16x2_t offset = both(p->x_offset);
    int32_t in_words = p->terms & ~3;
    int32_t end = at + count;
    while (at < end) {
        if ((at & 3) == 0 && at + 4 <= end) {
            uint32_t *pair = (uint32_t *)(void *)(patch + at);
            pair[0] = x == NULL ? 0 : (uint32_t)even_plus(offset, word(x));
            pair[1] = x == NULL ? 0 : (uint32_t)odd_plus(offset, word(x));
            at += 4;
            x = x == NULL ? NULL : x + 4;
        } else {
            int32_t middle = at < in_words && (((at & 3) == 1) || (at & 3) == 2);
            patch[middle ? at ^ 3 : at] = x == NULL ? 0 : (int16_t)(*x + p->x_offset);
            at++;
            x = x == NULL ? NULL : x + 1;
        }
    }
}

/* Two filters on two patches: 18 instructions for 16 products, beside the loop's own. */
static inline void block(const int16_t *x, int32_t x_step, const int8_t *w, int32_t terms, int32_t sum[4]) {
    const uint32_t *x0 = (const uint32_t *)(const void *)x;
    const uint32_t *x1 = (const uint32_t *)(const void *)(x + x_step);
    const int8_t *w1 = w + terms;
    int32_t sum0 = sum[0], sum1 = sum[1], sum2 = sum[2], sum3 = sum[3];
    for (int32_t words = terms >> 2; words > 0; words--) {
        uint32_t u = word(w), v = word(w1);
        int16x2_t u_even = even(u), u_odd = odd(u), v_even = even(v), v_odd = odd(v);
        int16x2_t a = (int16x2_t)x0[0], b = (int16x2_t)x0[1];
        sum0 = __smlad(b, u_odd, __smlad(a, u_even, sum0));
        sum1 = __smlad(b, v_odd, __smlad(a, v_even, sum1));
        a = (int16x2_t)x1[0];
        b = (int16x2_t)x1[1];
        sum2 = __smlad(b, u_odd, __smlad(a, u_even, sum2));
        sum3 = __smlad(b, v_odd, __smlad(a, v_even, sum3));
        x0 += 2;
        x1 += 2;
        w += 4;
        w1 += 4;
    }
    x = (const int16_t *)(const void *)x0;
    for (int32_t i = 0; i < (terms & 3); i++) {
        sum0 = __smlabb(x[i], w[i], sum0);
        sum1 = __smlabb(x[i], w1[i], sum1);
        sum2 = __smlabb(x[x_step + i], w[i], sum2);
        sum3 = __smlabb(x[x_step + i], w1[i], sum3);
    }
    sum[0] = sum0;
    sum[1] = sum1;
    sum[2] = sum2;
    sum[3] = sum3;
}

static int32_t dot(const int16_t *x, const int8_t *w, int32_t terms, int32_t sum) {
    const uint32_t *pair = (const uint32_t *)(const void *)x;
    for (int32_t words = terms >> 2; words > 0; words--, pair += 2, w += 4) {
        sum = dot_word(sum, (int16x2_t)pair[0], (int16x2_t)pair[1], word(w));
    }
    x = (const int16_t *)(const void *)pair;
    for (int32_t i = 0; i < (terms & 3); i++) {
        sum = __smlabb(x[i], w[i], sum);
    }
    return sum;
}

void kf_convolve(const kf_filters_t *f, kf_patches_t *p, int8_t *out, int32_t out_step) {
    const int16_t *x = (const int16_t *)p->memory;
    int32_t x_step = (p->terms + 3) & ~3;
    const int8_t *w = f->w;
    const kf_channel_t *channel = f->channels;
    int32_t left = f->count;
    int32_t patches = p->patches;
    for (; patches == 2 && left >= 2; left -= 2, channel += 2, w += 2 * p->terms, out += 2) {
        int32_t sum[4] = {channel[0].bias, channel[1].bias, channel[0].bias, channel[1].bias};
        block(x, x_step, w, p->terms, sum);
        out[0] = value_of(&f->output, channel, sum[0]);
        out[1] = value_of(&f->output, channel + 1, sum[1]);
        out[out_step] = value_of(&f->output, channel, sum[2]);
        out[out_step + 1] = value_of(&f->output, channel + 1, sum[3]);
    }
    for (; left > 0; left--, channel++, w += p->terms, out++) {
        for (int32_t k = 0; k < patches; k++) {
            out[k * out_step] = value_of(&f->output, channel, dot(x + k * x_step, w, p->terms, channel->bias));
        }
    }
}

/* ---- depthwise convolution ----------------------------------------------------------------------------------------- */

/* Four channels of one window row. Channels lie side by side, so a word holds one value of each. */
static inline void along4(const int8_t *x, int32_t x_step, const int8_t *w, int32_t w_step, int32_t count, int16x2_t offset,
                          int32_t sum[4]) {
    for (; count > 0; count--, x += x_step, w += w_step) {
        uint32_t x_four = word(x);
        uint32_t w_four = word(w);
        int16x2_t x_even = even_plus(offset, x_four);
        int16x2_t x_odd = odd_plus(offset, x_four);
        int16x2_t w_even = even(w_four);
        int16x2_t w_odd = odd(w_four);
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
    int16x2_t offset = both(d->x_offset);
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
