/* |w rounded to 2^k units| <= 2^15 and |x| <= 255, so 256 products stay below 2^31: each block of 256 features is summed in
 * int32, the blocks and the bias in int64. With k = 8 and one block the logit is below 2^31 / 2^12 nats and fits int32 as it
 * is; it saturates only for more than 256 features with weights near their limit. */
#include "logit.h"

#include "fixed.h"

enum { BLOCK = 256 };

uint32_t kf_weight_shift(uint32_t largest) {
    uint32_t k = 0;
    while ((largest + ((UINT32_C(1) << k) >> 1)) >> k > 32767u) {
        k++;
    }
    return k;
}

uint32_t kf_largest_weight(const kf_params_t *params) {
    const uint32_t n = (uint32_t)params->classes * params->features;
    uint32_t largest = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t m = magnitude(params->weights[i]);
        largest = m > largest ? m : largest;
    }
    return largest;
}

uint32_t kf_largest_head_weight(const kf_head_view_t *head) {
    uint32_t largest = 0;
    for (uint32_t c = 0; c < head->classes; c++) {
        for (uint32_t f = 0; f < head->features; f++) {
            const uint32_t m = magnitude(kf_head_weight(head, c, f));
            largest = m > largest ? m : largest;
        }
    }
    return largest;
}

/* Bias and dot product, both in 2^(k-20), to 2^-12. |bias| + 2^7 fits int32. */
static int32_t finish(int64_t dot, int32_t bias, uint32_t k) {
    const int32_t half = (INT32_C(1) << (8 - k)) >> 1;
    const int64_t z = (dot + ((bias + ((INT32_C(1) << k) >> 1)) >> k) + half) >> (8 - k);
    return z > INT32_MAX ? INT32_MAX : z < INT32_MIN ? INT32_MIN : (int32_t)z;
}

/* One block of a dot product, 1 <= n <= 256. Functions of their own, so that a core with eight registers keeps the loops'
 * values in them. With k = 0, the usual case, there is nothing to round. */
KF_NOINLINE static int32_t dot_exact(const int32_t *w, const int8_t *q, uint32_t n, int32_t x_zp) {
    const int32_t *const end = w + n;
    int32_t sum = 0;
    do {
        sum += *w++ * (*q++ - x_zp);
    } while (w != end);
    return sum;
}

/* k >= 1: floor((w + 2^(k-1)) / 2^k) = floor((floor(w / 2^(k-1)) + 1) / 2), which needs one value less in the loop. */
KF_NOINLINE static int32_t dot_rounded(const int32_t *w, const int8_t *q, uint32_t n, int32_t x_zp, uint32_t k_less_1) {
    const int32_t *const end = w + n;
    int32_t sum = 0;
    do {
        sum += (((*w++ >> k_less_1) + 1) >> 1) * (*q++ - x_zp);
    } while (w != end);
    return sum;
}

int32_t kf_logit(const int32_t *w, int32_t bias, uint32_t k, const int8_t *q, uint32_t features, int32_t x_zp) {
    int64_t dot = 0;
    for (uint32_t left = features; left > 0;) {
        const uint32_t n = left < BLOCK ? left : BLOCK;
        dot += k == 0 ? dot_exact(w, q, n, x_zp) : dot_rounded(w, q, n, x_zp, k - 1);
        w += n;
        q += n;
        left -= n;
    }
    return finish(dot, bias, k);
}

int32_t kf_logit_head(const kf_head_view_t *head, uint32_t c, uint32_t k, const int8_t *q, int32_t x_zp) {
    const int32_t half = (INT32_C(1) << k) >> 1;
    int64_t dot = 0;
    for (uint32_t f = 0; f < head->features;) {
        const uint32_t end = head->features - f < BLOCK ? head->features : f + BLOCK;
        int32_t part = 0;
        for (; f < end; f++) {
            part += ((kf_head_weight(head, c, f) + half) >> k) * (q[f] - x_zp);
        }
        dot += part;
    }
    return finish(dot, kf_head_bias(head, c), k);
}
