/* FULLY_CONNECTED on Cortex-M0 and M0+. */
#include "value.h"

/* Four filters share what is loaded of the image, where it is not zero. x and w point behind their last value, and one index,
 * from -terms up, serves all five pointers. */
static void dot4(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    const int8_t *w1, *w2, *w3;
    x += terms;
    w += terms;
    w1 = w + terms;
    w2 = w1 + terms;
    w3 = w2 + terms;
    int32_t sum0 = sum[0], sum1 = sum[1], sum2 = sum[2], sum3 = sum[3];
    int32_t i = -terms, value, product;
#define ONE                            \
    "ldrsb %[v], [%[x], %[i]]\n\t"     \
    "add %[v], %[offset]\n\t"          \
    "cmp %[v], #0\n\t"                 \
    "beq 3f\n\t"                       \
    "ldrsb %[p], [%[w], %[i]]\n\t"     \
    "muls %[p], %[v]\n\t"              \
    "add %[s0], %[p]\n\t"              \
    "ldrsb %[p], [%[w1], %[i]]\n\t"    \
    "muls %[p], %[v]\n\t"              \
    "add %[s1], %[p]\n\t"              \
    "ldrsb %[p], [%[w2], %[i]]\n\t"    \
    "muls %[p], %[v]\n\t"              \
    "add %[s2], %[p]\n\t"              \
    "ldrsb %[p], [%[w3], %[i]]\n\t"    \
    "muls %[p], %[v]\n\t"              \
    "add %[s3], %[p]\n"                \
    "3:\n\t"                           \
    "adds %[i], #1\n\t"
    __asm__ volatile(".syntax unified\n\t"
                     "lsrs %[v], %[i], #1\n\t"
                     "bcc 2f\n\t" /* an even number of them */
                     ONE
                     "beq 4f\n"
                     "2:\n\t" ONE ONE
                     "bne 2b\n"
                     "4:"
                     : [i] "+l"(i), [v] "=&l"(value), [p] "=&l"(product), [s0] "+h"(sum0), [s1] "+h"(sum1),
                       [s2] "+h"(sum2), [s3] "+h"(sum3)
                     : [x] "l"(x), [w] "l"(w), [w1] "l"(w1), [w2] "l"(w2), [w3] "l"(w3), [offset] "h"(x_offset)
                     : "cc", "memory");
#undef ONE
    sum[0] = sum0;
    sum[1] = sum1;
    sum[2] = sum2;
    sum[3] = sum3;
}

static void dot1(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t *sum) {
    uint32_t total = (uint32_t)*sum;
    for (int32_t i = 0; i < terms; i++) {
        total += (uint32_t)(w[i] * (x[i] + x_offset));
    }
    *sum = (int32_t)total;
}

void kf_dots(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t count, int32_t *sum) {
    for (; count >= 4; count -= 4, w += 4 * terms, sum += 4) {
        dot4(x, x_offset, w, terms, sum);
    }
    for (; count > 0; count--, w += terms) {
        dot1(x, x_offset, w, terms, sum++);
    }
}
