#include "f32.h"

enum { EXPONENT_BIAS = 127, MANTISSA_BITS = 23, SATURATED = 1 << MANTISSA_BITS };

static const uint32_t infinity = 0x7F800000u;

kf_f32_t kf_f32_split(uint32_t bits) {
    kf_f32_t f;
    uint32_t biased = (bits >> MANTISSA_BITS) & 0xFFu;
    f.m = bits & ((1u << MANTISSA_BITS) - 1u);
    f.e = (int32_t)(biased == 0 ? 1u : biased) - EXPONENT_BIAS - MANTISSA_BITS;
    if (biased != 0) {
        f.m |= 1u << MANTISSA_BITS;
    } else if (f.m != 0) {
        while ((f.m >> MANTISSA_BITS) == 0) { /* subnormal */
            f.m <<= 1;
            f.e--;
        }
    }
    return f;
}

int kf_f32_is_scale(uint32_t bits) {
    return bits != 0 && bits < infinity; /* the sign is the highest bit, so this refuses negatives too */
}

uint32_t kf_f32_pack(uint64_t m, int32_t e) {
    if (m == 0) {
        return 0;
    }
    /* Bring m to 26 bits: 24 of the result, the half, and one bit that says whether anything lies below. */
    while ((m >> 26) != 0) {
        m = (m >> 1) | (m & 1u);
        e++;
    }
    uint32_t f = (uint32_t)m;
    while ((f >> 25) == 0) {
        f <<= 1;
        e--;
    }
    int32_t biased = e + 25 + EXPONENT_BIAS;
    if (biased > 254) {
        return infinity;
    }
    for (; biased < 1; biased++) { /* subnormal: at most 26 shifts matter, then f is 0 or 1 and stays */
        f = (f >> 1) | (f & 1u);
        if (f <= 1) {
            biased = 0;
        }
    }
    uint32_t low = f & 3u;
    uint32_t rounded = (f >> 2) + (low == 3u || (low == 2u && (f & 4u) != 0) ? 1u : 0u);
    /* For a normal result the leading bit of the mantissa adds 1 to the exponent field; a subnormal has none, and a carry
     * out of the mantissa moves into the exponent by itself. */
    return ((uint32_t)(biased - 1) << MANTISSA_BITS) + rounded;
}

uint32_t kf_f32_mul(uint32_t a, uint32_t b) {
    kf_f32_t x = kf_f32_split(a);
    kf_f32_t y = kf_f32_split(b);
    return kf_f32_pack((uint64_t)x.m * y.m, x.e + y.e);
}

uint32_t kf_f32_div(uint32_t a, uint32_t b) {
    const kf_f32_t x = kf_f32_split(a);
    const kf_f32_t y = kf_f32_split(b);
    /* Quotient bits: 1 or 0 before the point, then 25, then one that says whether anything is left. */
    uint32_t r = x.m;
    uint32_t q = 0;
    for (int i = 0; i < 26; i++) {
        q <<= 1;
        if (r >= y.m) {
            r -= y.m;
            q |= 1u;
        }
        r <<= 1;
    }
    return kf_f32_pack((q << 1) | (r != 0 ? 1u : 0u), x.e - y.e - 26);
}

int32_t kf_f32_div_round(uint32_t a, uint32_t scale) {
    uint32_t magnitude = a & 0x7FFFFFFFu;
    if (magnitude > infinity) {
        return 0;
    }
    kf_f32_t x = kf_f32_split(magnitude);
    kf_f32_t y = kf_f32_split(scale);
    int32_t e = x.e - y.e;
    int32_t result;
    if (magnitude == infinity || e > 24) {
        result = SATURATED; /* x.m / y.m > 1/2, so the quotient is at least 2^23 */
    } else if (x.m == 0 || e < -2) {
        result = 0; /* x.m / y.m < 2: the quotient is below 1/2, with room for rounding */
    } else {
        /* Quotient bits: 1 or 0 before the point, then 25; that is 24 or more with the half below them. */
        uint32_t r = x.m;
        uint32_t q = 0;
        for (int i = 0; i < 26; i++) {
            q <<= 1;
            if (r >= y.m) {
                r -= y.m;
                q |= 1u;
            }
            r <<= 1;
        }
        /* quotient = (q + a rest below 1) * 2^(e - 25), q in (2^24, 2^26). To 24 bits first. There are no ties to even: for
         * quotient = (2n + 1) / 2 in units of the 24th bit, 2n + 1 has 25 bits, is odd and would divide x.m, of 24 bits. */
        int32_t drop = (q >> 25) != 0 ? 2 : 1;
        q = (q + (1u << (drop - 1))) >> drop;
        int32_t places = 25 - e - drop; /* quotient = q * 2^-places, q in [2^23, 2^24] */
        if (places <= 0) {
            result = SATURATED;
        } else if (places > 25) {
            result = 0;
        } else {
            result = (int32_t)((q + (1u << (places - 1))) >> places);
        }
    }
    return (a >> 31) != 0 ? -result : result;
}
