#include "fixed.h"

#include "requant.h"

enum { Q31_MAX = 0x7FFFFFFF };

/* x * 2^places, saturating. */
static int32_t shift_up(int32_t x, int32_t places) {
    int32_t limit = Q31_MAX >> places;
    if (x > limit) {
        return Q31_MAX;
    }
    return x < -limit - 1 ? -Q31_MAX - 1 : (int32_t)((uint32_t)x << places);
}

/* exp(x) for x in [-1/4, 0) in Q0.31: Taylor's polynomial of degree 4 around -1/8. */
static int32_t exp_near_zero(int32_t x) {
    static const int32_t exp_minus_eighth = 1895147668, third = 715827883;
    int32_t y = x + (1 << 28);
    int32_t y2 = kf_mul_high(y, y);
    int32_t y3 = kf_mul_high(y2, y);
    int32_t y4_quarter = kf_round_shift(kf_mul_high(y2, y2), 2);
    int32_t tail = kf_round_shift(kf_mul_high(y4_quarter + y3, third) + y2, 1); /* y^4/24 + y^3/6 + y^2/2 */
    return exp_minus_eighth + kf_mul_high(exp_minus_eighth, y + tail);
}

int32_t kf_fixed_exp(int32_t x, int32_t integer_bits) {
    /* exp(-2^k) in Q0.31 for k = -2 .. 4. */
    static const int32_t factor[] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
    if (x == 0) {
        return Q31_MAX;
    }
    int32_t fraction_bits = 31 - integer_bits;
    int32_t quarter = 1 << (fraction_bits - 2);
    int32_t near = (x & (quarter - 1)) - quarter; /* in [-1/4, 0) */
    int32_t rest = near - x;                      /* a multiple of 1/4 */
    int32_t result = exp_near_zero(shift_up(near, integer_bits));
    for (int32_t k = 0; k < integer_bits + 2; k++) {
        if ((rest & (1 << (fraction_bits - 2 + k))) != 0) {
            result = kf_mul_high(result, factor[k]);
        }
    }
    return result;
}

/* 2 / (1 + x) in Q2.29. */
static int32_t twice_inverse(int32_t x) {
    static const int32_t c48_over_17 = 1515870810, minus_32_over_17 = -1010580540; /* Q2.29 */
    /* Newton-Raphson for the reciprocal of d = (1 + x) / 2, d in [1/2, 1). x + 1 cannot overflow as unsigned. */
    int32_t d = (int32_t)(((uint32_t)x + (uint32_t)Q31_MAX + 1u) >> 1);
    int32_t y = c48_over_17 + kf_mul_high(d, minus_32_over_17);
    for (int i = 0; i < 3; i++) {
        int32_t error = (1 << 29) - kf_mul_high(d, y); /* Q2.29 */
        y += shift_up(kf_mul_high(y, error), 2);
    }
    return y;
}

int32_t kf_fixed_inverse(int32_t x) {
    return shift_up(twice_inverse(x), 1); /* Q2.29 holding 1/d, read as Q1.30 it is 1/(2d): to Q0.31 */
}

int32_t kf_fixed_complement(int32_t x) {
    return shift_up(twice_inverse(x) - (1 << 29), 2); /* (1 - x) / (1 + x) = 2 / (1 + x) - 1 */
}
