/* The windows of pooling in plain C, for any core: channel by channel. */
#include "../kernels.h"
#include "../op.h"

static inline const int8_t *row_of(const kf_pooled_t *p, int32_t row) {
    return p->image + kf_ring_row(p->y + row, p->ring) * p->row_bytes;
}

/* Sum of at most 2^16 values, |sum| <= 2^23. */
static int32_t average(const kf_pooled_t *p, int32_t channel) {
    int32_t sum = 0;
    int32_t count = p->rows * p->columns;
    for (int32_t r = 0; r < p->rows; r++) {
        const int8_t *at = row_of(p, r) + channel;
        for (int32_t c = 0; c < p->columns; c++) {
            sum += *at;
            at += p->channels;
        }
    }
    int32_t size = kf_quotient((sum < 0 ? -sum : sum) + (count >> 1), count);
    return sum < 0 ? -size : size;
}

static int32_t maximum(const kf_pooled_t *p, int32_t channel) {
    int32_t max = -128;
    for (int32_t r = 0; r < p->rows; r++) {
        const int8_t *at = row_of(p, r) + channel;
        for (int32_t c = 0; c < p->columns; c++) {
            if (*at > max) {
                max = *at;
            }
            at += p->channels;
        }
    }
    return max;
}

void kf_pool(const kf_pooled_t *p, kf_pooling_t pooling, int8_t *out) {
    for (int32_t channel = 0; channel < p->channels; channel++) {
        int32_t value = pooling == KF_POOL_MAXIMUM ? maximum(p, channel) : average(p, channel);
        out[channel] = (int8_t)kf_clamp(value, p->low, p->high);
    }
}
