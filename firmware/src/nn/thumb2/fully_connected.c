/* FULLY_CONNECTED on Cortex-M3. */
#include "value.h"

int8_t kf_value(const kf_output_t *o, const kf_channel_t *channel, int32_t sum) {
    return (int8_t)kf_clamp(kf_requant_any(sum, channel->mult, channel->right) + o->zp, o->low, o->high);
}

void kf_finish(const kf_output_t *o, const kf_channel_t *channels, const int32_t *sum, int32_t count, int8_t *out) {
    for (; count > 0; count--) {
        kf_finish_some(o, channels++, sum++, 1, out++);
    }
}

void kf_dot4(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    const int8_t *w1 = w + terms;
    const int8_t *w2 = w1 + terms;
    const int8_t *w3 = w2 + terms;
    const int8_t *end = x + terms;
    int32_t sum0 = sum[0], sum1 = sum[1], sum2 = sum[2], sum3 = sum[3], value, weight;
    __asm__("1:\n\t"
            "ldrsb %[v], [%[x]], #1\n\t"
            "ldrsb %[u], [%[w]], #1\n\t"
            "add %[v], %[offset]\n\t"
            "mla %[s0], %[u], %[v], %[s0]\n\t"
            "ldrsb %[u], [%[w1]], #1\n\t"
            "mla %[s1], %[u], %[v], %[s1]\n\t"
            "ldrsb %[u], [%[w2]], #1\n\t"
            "mla %[s2], %[u], %[v], %[s2]\n\t"
            "ldrsb %[u], [%[w3]], #1\n\t"
            "cmp %[x], %[end]\n\t"
            "mla %[s3], %[u], %[v], %[s3]\n\t"
            "bne 1b"
            : [x] "+r"(x), [w] "+r"(w), [w1] "+r"(w1), [w2] "+r"(w2), [w3] "+r"(w3), [s0] "+r"(sum0), [s1] "+r"(sum1),
              [s2] "+r"(sum2), [s3] "+r"(sum3), [v] "=&r"(value), [u] "=&r"(weight)
            : [offset] "r"(x_offset), [end] "r"(end)
            : "cc", "memory");
    sum[0] = sum0;
    sum[1] = sum1;
    sum[2] = sum2;
    sum[3] = sum3;
}

void kf_dot1(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    uint32_t total = (uint32_t)*sum;
    for (int32_t i = 0; i < terms; i++) {
        total += (uint32_t)(w[i] * (x[i] + x_offset));
    }
    *sum = (int32_t)total;
}
