/* Fully connected layers for Arm cores with the vector extension MVE: sum w (q - zp) = sum w q - zp sum w. All sums are modulo 2^32. */
#include "values.h"

/* |sum(w)| <= 2^23. */
static inline int32x4_t offsets4(const int8_t *w, int32_t terms, int32_t x_offset) {
    const sums_t offsets = {kf_patch_bias(w, terms, x_offset), kf_patch_bias(w + terms, terms, x_offset),
                            kf_patch_bias(w + 2 * terms, terms, x_offset), kf_patch_bias(w + 3 * terms, terms, x_offset)};
    return vector_of(offsets);
}

void kf_dots(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t count, int32_t *sum) {
    const sums_t none = {0, 0, 0, 0};
    for (; count >= 4; count -= 4, w += 4 * terms, sum += 4) {
        int32x4_t total = vaddq_s32(vldrwq_s32(sum), vector_of(four(none, x, w, terms)));
        vstrwq_s32(sum, vaddq_s32(total, offsets4(w, terms, x_offset)));
    }
    for (; count > 0; count--, w += terms, sum++) {
        *sum = (int32_t)((uint32_t)one_dot(*sum, x, w, terms) + (uint32_t)kf_patch_bias(w, terms, x_offset));
    }
}
