/* FULLY_CONNECTED on Cortex-M3. */
#include "value.h"

int8_t kf_value(const kf_output_t *o, const kf_channel_t *channel, int32_t sum) {
    return (int8_t)kf_clamp(kf_requant_any(sum, channel->mult, channel->right) + o->zp, o->low, o->high);
}

void kf_finish(const kf_output_t *o, const kf_channel_t *channels, const int32_t *sum, int32_t count, int8_t *out) {
    int32_t half = 2 * o->zp + 1;
    if (kf_is_plain(o)) {
        for (; count > 0; count--, channels++) {
            *out++ = kf_plain_value(channels->mult, channels->right, *sum++, half);
        }
    }
    for (; count > 0; count--) {
        *out++ = kf_value(o, channels++, *sum++);
    }
}

/* Six filters share what is loaded of the image: three registers reach all of them, with shifts. The loops take all fourteen
 * registers. `sparse`: leave out products with zero, which costs those with other values one and a half instructions. */
#define TIMES_SIX                           \
    "ldrsb %[u], [%[w], %[f]]\n\t"          \
    "mla %[s1], %[u], %[v], %[s1]\n\t"      \
    "ldrsb %[u], [%[w], %[f], lsl #1]\n\t"  \
    "mla %[s2], %[u], %[v], %[s2]\n\t"      \
    "ldrsb %[u], [%[w], %[f3]]\n\t"         \
    "mla %[s3], %[u], %[v], %[s3]\n\t"      \
    "ldrsb %[u], [%[w], %[f], lsl #2]\n\t"  \
    "mla %[s4], %[u], %[v], %[s4]\n\t"      \
    "ldrsb %[u], [%[w], %[f5]]\n\t"         \
    "mla %[s5], %[u], %[v], %[s5]\n\t"
#define DENSE                               \
    "ldrsb %[v], [%[x]], #1\n\t"            \
    "add %[v], %[offset]\n\t"               \
    TIMES_SIX                               \
    "ldrsb %[u], [%[w]], #1\n\t"            \
    "mla %[s0], %[u], %[v], %[s0]\n\t"
#define SPARSE                              \
    "ldrsb %[v], [%[x]], #1\n\t"            \
    "add %[w], #1\n\t"                      \
    "adds %[v], %[offset]\n\t"              \
    "beq 3f\n\t"                            \
    TIMES_SIX                               \
    "ldrsb %[u], [%[w]]\n\t"                \
    "mla %[s0], %[u], %[v], %[s0]\n"        \
    "3:\n\t"
/* First as many as do not make eight. */
#define LOOP(ONE)                                                                                                              \
    __asm__ volatile("b 2f\n"                                                                                                  \
                     "1:\n\t" ONE                                                                                              \
                     "2:\n\t"                                                                                                  \
                     "ldr %[u], %[end]\n\t"                                                                                    \
                     "subs %[u], %[x]\n\t"                                                                                     \
                     "beq 5f\n\t"                                                                                              \
                     "lsls %[u], #29\n\t"                                                                                      \
                     "bne 1b\n"                                                                                                \
                     "4:\n\t" ONE ONE ONE ONE ONE ONE ONE ONE                                                                  \
                     "ldr %[u], %[end]\n\t"                                                                                    \
                     "cmp %[x], %[u]\n\t"                                                                                      \
                     "bne 4b\n"                                                                                                \
                     "5:"                                                                                                      \
                     : [x] "+r"(x), [w] "+r"(w), [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [s4] "+r"(s4),    \
                       [s5] "+r"(s5), [v] "=&r"(value), [u] "=&r"(weight)                                                      \
                     : [offset] "r"(x_offset), [f] "r"(terms), [f3] "r"(3 * terms), [f5] "r"(5 * terms), [end] "m"(end)        \
                     : "cc", "memory")

static void dot6(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t sparse, int32_t *sum) {
    const int8_t *end = x + terms;
    int32_t s0 = sum[0], s1 = sum[1], s2 = sum[2], s3 = sum[3], s4 = sum[4], s5 = sum[5], value, weight;
    if (sparse) {
        w--;
        LOOP(SPARSE);
    } else {
        LOOP(DENSE);
    }
    sum[0] = s0;
    sum[1] = s1;
    sum[2] = s2;
    sum[3] = s3;
    sum[4] = s4;
    sum[5] = s5;
}

/* Whether more than one of the first eight values are zero. */
static int32_t is_sparse(const int8_t *x, int32_t x_offset, int32_t terms) {
    int32_t zeros = 0, zp = -x_offset;
    for (const int8_t *end = x + (terms < 8 ? terms : 8); x != end; x++) {
        zeros += *x == zp;
    }
    return zeros > 1;
}

static int32_t dot1(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t sum) {
    uint32_t total = (uint32_t)sum;
#pragma GCC unroll 4
    for (int32_t i = 0; i < terms; i++) {
        total += (uint32_t)(w[i] * (x[i] + x_offset));
    }
    return (int32_t)total;
}

void kf_dots(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t count, int32_t *sum) {
    int32_t sparse = is_sparse(x, x_offset, terms);
    for (; count >= 6; count -= 6, w += 6 * terms, sum += 6) {
        dot6(x, x_offset, w, terms, sparse, sum);
    }
    for (; count > 0; count--, w += terms, sum++) {
        *sum = dot1(x, x_offset, w, terms, *sum);
    }
}
