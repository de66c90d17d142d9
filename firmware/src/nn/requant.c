#include "requant.h"

/* Long division, eight bits at a time: what is left, below den < 2^24, and the next eight bits make 32. num is normalised to 48
 * bits, so num / den lies in (2^23, 2^25) and the quotient's leading bit is bit 24 or bit 23. 32 quotient bits are made: 31 of
 * the result and the half below it.
 *
 * The reference rounds twice: to 53 bits, ties to even, then to 31, ties away. With the half bit set the result goes up
 * whatever the first rounding did. With it clear, the result goes up only when the first rounding carries into the half bit:
 * when the remaining fraction r/den, of which the double keeps 21 bits, is at least 1 - 2^-22 (its tie is even). That is
 * (den - r) * 2^22 <= den, or den - r <= den >> 22. */
kf_requant_t kf_requant_ratio(uint64_t num, int32_t num_e, uint32_t den, int32_t den_e) {
    kf_requant_t by = {0, 0};
    if (num == 0) {
        return by;
    }
    uint32_t high = (uint32_t)(num >> 24);
    uint32_t low = (uint32_t)num & 0xFFFFFFu;
    while ((high >> 23) == 0) {
        high = (high << 1) | (low >> 23);
        low = (low << 1) & 0xFFFFFFu;
        num_e--;
    }
    uint32_t carry = high >= den ? 1 : 0;
    by.shift = (int32_t)(24u + carry) + num_e - den_e;
    uint32_t r = high >> carry; /* < den: high < 2^24 <= 2 den */
    uint32_t rest = (carry == 0 ? 0 : high << 31) | low << (8u - carry); /* the 32 bits that follow it */
    uint32_t q = 0;
    for (int32_t digits = 4; digits > 0; digits--) {
        r = r << 8 | rest >> 24;
        rest <<= 8;
        uint32_t part = r / den;
        q = q << 8 | part;
        r -= part * den;
    }
    uint32_t up = (q & 1u) != 0 || den - r <= (den >> 22) ? 1u : 0u;
    uint32_t mult = (q >> 1) + up; /* in [2^30, 2^31] */
    if ((mult >> 31) != 0) {
        mult >>= 1;
        by.shift++;
    }
    if (by.shift < -31) {
        by.shift = 0;
        mult = 0;
    }
    by.mult = (int32_t)mult;
    return by;
}

kf_requant_t kf_requant_scales(uint32_t a, uint32_t b) {
    kf_f32_t x = kf_f32_split(a);
    kf_f32_t y = kf_f32_split(b);
    return kf_requant_ratio(x.m, x.e, y.m, y.e);
}

kf_requant_t kf_requant_product(uint32_t x, uint32_t w, uint32_t out) {
    kf_f32_t a = kf_f32_split(x);
    kf_f32_t b = kf_f32_split(w);
    kf_f32_t c = kf_f32_split(out);
    return kf_requant_ratio((uint64_t)a.m * b.m, a.e + b.e, c.m, c.e);
}

kf_requant_t kf_requant_product_f32(uint32_t x, uint32_t w, uint32_t out) {
    return kf_requant_scales(kf_f32_mul(x, w), out);
}
