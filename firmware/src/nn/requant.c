#include "requant.h"

/* Long division, one bit at a time. num is normalised to 48 bits, so num / den lies in (2^23, 2^25) and the quotient's
 * leading bit is bit 24 or bit 23. 32 quotient bits are made: 31 of the result and the half below it.
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
    uint32_t r = high; /* < 2^24; below, r < 2 * den < 2^25 */
    uint32_t q = 0;
    if (r >= den) {
        r -= den;
        q = 1;
    }
    by.shift = (int32_t)(24u + q) + num_e - den_e;
    for (uint32_t steps = 32u - q; steps > 0; steps--) {
        r = (r << 1) | (low >> 23);
        low = (low << 1) & 0xFFFFFFu;
        q <<= 1;
        if (r >= den) {
            r -= den;
            q |= 1u;
        }
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
