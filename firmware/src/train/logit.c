/* |w rounded to 2^-12| <= 32767 and |x| <= 255, so 256 products stay below 2^31: each block of 256 features is summed in
 * int32, the blocks in int64. With one block and the bias (< 2^22 + 1) the sum fits int32 and never saturates. */
#include "logit.h"

enum { BLOCK = 256 };

static int32_t saturate(int64_t z)
{
    return z > INT32_MAX ? INT32_MAX : z < INT32_MIN ? INT32_MIN : (int32_t)z;
}

int32_t kf_logit(const int32_t *w, int32_t bias, const int8_t *q, uint32_t features, int32_t x_zp)
{
    int64_t z = (bias + 128) >> 8;
    while (features > 0) {
        const uint32_t n = features < BLOCK ? features : BLOCK;
        int32_t part = 0;
        for (uint32_t f = 0; f < n; f++) {
            part += ((w[f] + 128) >> 8) * (q[f] - x_zp);
        }
        z += part;
        w += n;
        q += n;
        features -= n;
    }
    return saturate(z);
}

int32_t kf_logit_head(const kf_head_view_t *head, uint32_t c, const int8_t *q, int32_t x_zp)
{
    int64_t z = (kf_head_bias(head, c) + 128) >> 8;
    for (uint32_t f = 0; f < head->features;) {
        const uint32_t end = head->features - f < BLOCK ? head->features : f + BLOCK;
        int32_t part = 0;
        for (; f < end; f++) {
            part += ((kf_head_weight(head, c, f) + 128) >> 8) * (q[f] - x_zp);
        }
        z += part;
    }
    return saturate(z);
}
