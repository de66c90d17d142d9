/* Shapes: z (C, KF_TILE), of which one column; errors (C, stride), of which one column. Units: z 2^-12 nats; e, p and errors 2^-15. */
#include "softmax.h"

#include "fixed.h"
#include "kernels.h"

/* How far sum, 2^15 <= sum < 2^26, must be shifted right to lie in [2^15, 2^16). */
static uint32_t excess(uint32_t sum) {
    uint32_t n = 0;
    while (sum >> n > 0xFFFFu) {
        n++;
    }
    return n;
}

static inline uint32_t next_bit(uint32_t *m, uint32_t log2) {
    const uint32_t square = *m * *m, passed = square >> 31;
    *m = square >> 15 >> passed;
    return 2u * log2 + passed;
}

/* ln(sum / 2^15) in 2^-12, for 2^15 <= sum < 2^26 and n = excess(sum). */
static uint32_t ln_q12(uint32_t sum, uint32_t n) {
    uint32_t m = sum >> n, log2_q12 = n;
    /* Squaring m in [1, 2) (2^-15) doubles its logarithm; passing 2 is the next bit. A floor loses less than 2^-15 of m, 0.18
     * units of the result, and each counts half as much as the one before: 0.36 together. m * m < 2^32. */
    for (int bits = 0; bits < 12; bits += 3) {
        log2_q12 = next_bit(&m, log2_q12);
        log2_q12 = next_bit(&m, log2_q12);
        log2_q12 = next_bit(&m, log2_q12);
    }
    /* ln 2 = 45426 * 2^-16; 11 * 4096 * 45426 < 2^31. */
    return (log2_q12 * 45426u + 32768u) >> 16;
}

/* The largest logit; *peak is raised to the largest |z|. A function for each pass, so that its values stay in registers. */
KF_NOINLINE static int32_t largest_logit(const int32_t *z, uint32_t classes, uint32_t *peak) {
    int32_t top = INT32_MIN;
    uint32_t far = *peak;
    do {
        const int32_t v = *z;
        z += KF_TILE;
        top = v > top ? v : top;
        if ((uint32_t)(v ^ (v >> 31)) >= far) { /* v or -1-v, |v| at least by one: seldom */
            far = magnitude(v) > far ? magnitude(v) : far;
        }
    } while (--classes != 0);
    *peak = far;
    return top;
}

/* error = (e * reciprocal + half) >> shift for each e. */
KF_NOINLINE static void probabilities(const int32_t *e, uint32_t classes, uint32_t reciprocal, uint32_t shift, int16_t *error,
                                      uint32_t stride) {
    const uint32_t half = (UINT32_C(1) << shift) >> 1;
    do {
        const uint32_t p = ((uint32_t)*e * reciprocal + half) >> shift;
        e += KF_TILE;
        *error = (int16_t)p;
        error += stride;
    } while (--classes != 0);
}

uint32_t kf_softmax_errors(int32_t *z, uint32_t classes, uint32_t label, int16_t *errors, uint32_t stride, uint32_t *peak) {
    const int32_t top = largest_logit(z, classes, peak);
    const uint32_t label_d = kf_distance(top, z[label * KF_TILE], 65535);
    const uint32_t sum = kf_exponentials(z, classes, top); /* 2^15, of the largest logit alone, to 1024 * 2^15 */

    /* One division a sample: s = sum brought to 16 bits, R = 2^31 / s in [2^15, 2^16], p = e R / 2^(16+n).
     * e R <= 2^31 and the rounding adds at most 2^25, so uint32 holds it. p <= 2^15, equal only when all others vanish. */
    const uint32_t n = excess(sum);
    const uint32_t s = (sum + ((UINT32_C(1) << n) >> 1)) >> n;
    const uint32_t reciprocal = ((UINT32_C(1) << 31) + s / 2u) / s;
    probabilities(z, classes, reciprocal, 16 + n, errors, stride);
    const uint32_t label_p = (uint16_t)errors[label * stride];
    for (uint32_t c = 0; sum == 32768 && c < classes; c++) {
        if (z[c * KF_TILE] != 0) {
            errors[c * stride] = 32767; /* certain, and wrong unless it is the label */
        }
    }
    errors[label * stride] = (int16_t)((int32_t)label_p - 32768);

    const uint32_t loss = label_d + ln_q12(sum, n);
    return loss > 65535u ? 65535u : loss;
}
