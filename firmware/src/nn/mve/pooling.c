/* The windows of pooling for Arm cores with the vector extension MVE: sixteen channels at once, or the sums of four. */
#include <arm_mve.h>

#include "../kernels.h"
#include "../op.h"

static inline const int8_t *row_of(const kf_pooled_t *p, int32_t row) {
    return p->image + kf_ring_row(p->y + row, p->ring) * p->row_bytes;
}

/* Sums of at most 2^16 values, |sum| <= 2^23. */
static KF_NOINLINE void average(const kf_pooled_t *p, int8_t *out) {
    const int32_t count = p->rows * p->columns;
    for (int32_t channel = 0; channel < p->channels; channel += 4) {
        const int32_t left = p->channels - channel;
        const mve_pred16_t some = vctp32q((uint32_t)left);
        int32x4_t total = vdupq_n_s32(0);
        int32_t sums[4];
        for (int32_t r = 0; r < p->rows; r++) {
            const int8_t *at = row_of(p, r) + channel;
            for (int32_t c = p->columns; c > 0; c--, at += p->channels) {
                total = vaddq_s32(total, vldrbq_z_s32(at, some));
            }
        }
        vstrwq_s32(sums, total);
        __asm__("" : "+m"(sums)); /* GCC 12.2 does not see that VSTRW wrote it */
        for (int32_t k = 0; k < 4 && k < left; k++) {
            const int32_t sum = sums[k], size = kf_quotient((sum < 0 ? -sum : sum) + (count >> 1), count);
            out[channel + k] = (int8_t)kf_clamp(sum < 0 ? -size : size, p->low, p->high);
        }
    }
}

static KF_NOINLINE void maximum(const kf_pooled_t *p, int8_t *out) {
    const int8x16_t low = vdupq_n_s8((int8_t)p->low), high = vdupq_n_s8((int8_t)p->high);
    for (int32_t channel = 0; channel < p->channels; channel += 16) {
        const mve_pred16_t some = vctp8q((uint32_t)(p->channels - channel));
        int8x16_t max = low;
        for (int32_t r = 0; r < p->rows; r++) {
            const int8_t *at = row_of(p, r) + channel;
            for (int32_t c = p->columns; c > 0; c--, at += p->channels) {
                max = vmaxq_s8(max, vldrbq_z_s8(at, some));
            }
        }
        vstrbq_p_s8(out + channel, vminq_s8(max, high), some);
    }
}

void kf_pool(const kf_pooled_t *p, kf_pooling_t pooling, int8_t *out) {
    if (pooling == KF_POOL_MAXIMUM) {
        maximum(p, out);
    } else {
        average(p, out);
    }
}
