/* Shapes: z, errors (C). Units: z 2^-12 nats; e, p and errors 2^-15. */
#include "softmax.h"

#include "fixed.h"

/* round(2^15 * 2^(-i/32)), i = 0..32. Straight lines between them overestimate by at most (ln 2 / 32)^2 / 8 = 6e-5. */
static const uint16_t EXP2[33] = {
    32768, 32066, 31379, 30706, 30048, 29405, 28774, 28158, 27554, 26964, 26386, 25821, 25268, 24726, 24196, 23678, 23170,
    22674, 22188, 21713, 21247, 20792, 20347, 19911, 19484, 19066, 18658, 18258, 17867, 17484, 17109, 16743, 16384,
};

/* 2^15 * exp(-d / 4096), rounded; 32768 at d = 0 and falling. d 0 .. 65535 (16 nats). */
static inline uint32_t exp_q15(uint32_t d) {
    /* log2(e) = 23637 * 2^-14 to 5e-6: u is d in octaves of 2^15, n of them whole. 65535 * 23637 + 2^10 < 2^31; n <= 23. */
    const uint32_t u = (d * 23637u + 1024u) >> 11;
    const uint32_t n = u >> 15, i = u >> 10 & 31u, r = u & 1023u;
    const uint32_t v = EXP2[i] - (((uint32_t)(EXP2[i] - EXP2[i + 1]) * r + 512u) >> 10);
    return (v + ((UINT32_C(1) << n) >> 1)) >> n;
}

/* How far sum, 2^15 <= sum < 2^26, must be shifted right to lie in [2^15, 2^16). */
static uint32_t excess(uint32_t sum) {
    uint32_t n = 0;
    while (sum >> n > 0xFFFFu) {
        n++;
    }
    return n;
}

/* ln(sum / 2^15) in 2^-12, for 2^15 <= sum < 2^26. */
static uint32_t ln_q12(uint32_t sum) {
    const uint32_t n = excess(sum);
    uint32_t m = sum >> n, log2_q12 = n;
    /* Squaring m in [1, 2) (2^-15) doubles its logarithm; passing 2 is the next bit. A floor loses less than 2^-15 of m, 0.18
     * units of the result, and each counts half as much as the one before: 0.36 together. m * m < 2^32. */
    for (int bit = 0; bit < 12; bit++) {
        m = m * m >> 15;
        const uint32_t passed = m >> 16; /* 0 or 1 */
        m >>= passed;
        log2_q12 = 2u * log2_q12 + passed;
    }
    /* ln 2 = 45426 * 2^-16; 11 * 4096 * 45426 < 2^31. */
    return (log2_q12 * 45426u + 32768u) >> 16;
}

static uint32_t distance(int32_t top, int32_t z) {
    const uint32_t d = (uint32_t)top - (uint32_t)z; /* exact: 0 <= top - z < 2^32 */
    return d > 65535u ? 65535u : d;
}

uint32_t kf_softmax_errors(int32_t *z, uint32_t classes, uint32_t label, int16_t *errors, uint32_t stride, uint32_t *peak) {
    const int32_t *const end = z + classes;
    int32_t top = z[0], bottom = z[0];
    for (const int32_t *at = z + 1; at < end; at++) {
        top = *at > top ? *at : top;
        bottom = *at < bottom ? *at : bottom;
    }
    const uint32_t farthest = magnitude(top) > magnitude(bottom) ? magnitude(top) : magnitude(bottom);
    *peak = farthest > *peak ? farthest : *peak;
    const uint32_t label_d = distance(top, z[label]);

    uint32_t sum = 0; /* 2^15 <= sum <= 1024 * 2^15: the largest logit alone adds 2^15 */
    int32_t *e = z;
    do {
        const uint32_t v = exp_q15(distance(top, *e));
        *e++ = (int32_t)v;
        sum += v;
    } while (e != end);

    /* One division a sample: s = sum brought to 16 bits, R = 2^31 / s in [2^15, 2^16], p = e R / 2^(16+n).
     * e R <= 2^31 and the rounding adds at most 2^25, so uint32 holds it. p <= 2^15, equal when all others vanish. */
    const uint32_t n = excess(sum);
    const uint32_t s = (sum + ((UINT32_C(1) << n) >> 1)) >> n;
    const uint32_t reciprocal = ((UINT32_C(1) << 31) + s / 2u) / s;
    const uint32_t half = UINT32_C(1) << (15 + n), shift = 16 + n;
    const uint32_t label_p = ((uint32_t)z[label] * reciprocal + half) >> shift;
    int16_t *error = errors;
    e = z;
    do {
        const uint32_t p = ((uint32_t)*e++ * reciprocal + half) >> shift;
        *error = (int16_t)(p - (p >> 15)); /* 32768 becomes 32767: certain, and wrong unless it is the label */
        error += stride;
    } while (e != end);
    errors[label * stride] = (int16_t)((int32_t)label_p - 32768);

    const uint32_t loss = label_d + ln_q12(sum);
    return loss > 65535u ? 65535u : loss;
}
