#include "ratio.h"

kf_requant_t kf_ratio_of(uint32_t bits) {
    const kf_f32_t f = kf_f32_split(bits);
    kf_requant_t by = {0, 0};
    if (f.m != 0 && f.e + 24 >= -31) {
        by.mult = (int32_t)(f.m << 7); /* m * 2^e = (m * 2^7) * 2^(shift - 31) */
        by.shift = f.e + 24;
    }
    return by;
}

kf_requant_t kf_ratio_scales(uint32_t a, uint32_t b) {
    return kf_ratio_of(kf_f32_div(a, b));
}
