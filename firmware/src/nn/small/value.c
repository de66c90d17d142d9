/* From sums to values on Cortex-M0 and M0+. */
#include "value.h"

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

int8_t kf_value(const kf_output_t *o, const kf_channel_t *channel, int32_t value) {
    if (channel->right < 0) {
        value = mul_high((int32_t)((uint32_t)value << (-1 - channel->right)), channel->mult);
    } else { /* see kf_requant_any() */
        value = mul_high(value, channel->mult);
        value = (((value + (value >> 31)) >> channel->right) + 1) >> 1;
    }
    return (int8_t)kf_clamp(value + o->zp, o->low, o->high);
}

/* The loop is kf_requant_narrow(). With the sum's lower half signed, a = a_high * 2^16 + a_low, |a_high| <= 2^14 and
 * |a_low| <= 2^15, and mult's halves below 2^15 and 2^16, products and their sum fit 32 bits:
 *
 *     (a * mult + 2^30) >> 31 = 2 a_high m_high + ((a_high m_low + a_low m_high + (a_low m_low >> 16) + 2^14) >> 15)
 *
 * where what the inner shift drops, less than 1, cannot matter to the outer. */
void kf_values(const kf_output_t *o, const kf_channel_t *channel, int32_t step, const int32_t *sum, int32_t count, int8_t *out,
               int32_t out_step) {
    const int32_t *end = sum + count;
    if (!o->narrow) {
        do {
            *out = kf_value(o, channel, *sum);
            channel = (const kf_channel_t *)((uintptr_t)channel + (uintptr_t)step);
            out += out_step;
        } while (++sum != end);
        return;
    }
    int32_t a, a_low, m_low, m_high, value;
    __asm__ volatile(".syntax unified\n"
            "1:\n\t"
            "ldmia %[sum]!, {%[a]}\n\t"
            "ldrh %[ml], [%[ch], #4]\n\t"
            "ldrh %[mh], [%[ch], #6]\n\t"
            "sxth %[al], %[a]\n\t"
            "subs %[a], %[a], %[al]\n\t"
            "asrs %[a], %[a], #16\n\t"
            "movs %[v], %[al]\n\t"
            "muls %[v], %[ml]\n\t"
            "asrs %[v], %[v], #16\n\t"
            "muls %[ml], %[a]\n\t"
            "muls %[al], %[mh]\n\t"
            "muls %[mh], %[a]\n\t"
            "adds %[v], %[v], %[ml]\n\t"
            "adds %[v], %[v], %[al]\n\t"
            "asrs %[v], %[v], #14\n\t"
            "adds %[v], #1\n\t"
            "asrs %[v], %[v], #1\n\t"
            "lsls %[mh], %[mh], #1\n\t"
            "adds %[v], %[v], %[mh]\n\t"
            "ldr %[ml], [%[ch], #8]\n\t"
            "asrs %[a], %[v], #31\n\t"
            "adds %[v], %[v], %[a]\n\t"
            "asrs %[v], %[ml]\n\t"
            "add %[v], %[half]\n\t"
            "asrs %[v], %[v], #1\n\t"
            "cmp %[v], %[low]\n\t"
            "blt 2f\n\t"
            "cmp %[v], %[high]\n\t"
            "bgt 3f\n"
            "4:\n\t"
            "strb %[v], [%[out]]\n\t"
            "add %[out], %[out_step]\n\t"
            "add %[ch], %[step]\n\t"
            "ldr %[a], %[end]\n\t"
            "cmp %[sum], %[a]\n\t"
            "bne 1b\n\t"
            "b 5f\n"
            "2:\n\t"
            "mov %[v], %[low]\n\t"
            "b 4b\n"
            "3:\n\t"
            "mov %[v], %[high]\n\t"
            "b 4b\n"
            "5:"
            : [sum] "+l"(sum), [ch] "+l"(channel), [out] "+l"(out), [a] "=&l"(a), [al] "=&l"(a_low), [ml] "=&l"(m_low),
              [mh] "=&l"(m_high), [v] "=&l"(value)
            : [half] "h"(2 * o->zp + 1), [low] "h"(o->low), [high] "h"(o->high), [end] "m"(end), [step] "h"(step),
              [out_step] "h"(out_step)
            : "cc", "memory");
}

void kf_finish(const kf_output_t *o, const kf_channel_t *channels, const int32_t *sum, int32_t count, int8_t *out) {
    kf_values(o, channels, (int32_t)sizeof *channels, sum, count, out, 1);
}
