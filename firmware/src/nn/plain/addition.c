/* ADD and SUB of inputs of one shape, in plain C, for any core. */
#include "../kernels.h"

/* One input's way to the common scale. Its multiplier is at most 1/2, and d = q - zp has 9 bits, so that kf_requant_any() of
 * d * 2^20 needs no long product: with mult = h * 2^16 + l,
 *
 *     (d * 2^20 * mult + 2^30) >> 31 = d * h * 2^5 + ((d * l + 2^10) >> 11)
 *
 * stays inside int32, and exact. A multiplier of just 1/2, which one of the inputs always has, has right = -1: twice the value,
 * halved by the rounding that all have. */
typedef struct way {
    int32_t zp, high, low, right;
} way_t;

static way_t way_of(const kf_addend_t *a) {
    way_t way = {a->zp, (a->mult >> 16) * 32, a->mult & 0xFFFF, a->right};
    if (a->right < 0) {
        way.high = a->mult == 0 ? 0 : 1 << KF_ADD_BITS;
        way.low = 0;
        way.right = 0;
    }
    return way;
}

static inline int32_t scaled(way_t a, int8_t q) {
    const int32_t d = q - a.zp;
    const int32_t y = d * a.high + ((d * a.low + (1 << 10)) >> 11);
    return (((y + (y >> 31)) >> a.right) + 1) >> 1;
}

enum { AT_ONCE = 4 };

void kf_add(const kf_addition_t *s, const int8_t *a, const int8_t *b, int8_t *out, uint32_t count) {
    const way_t one = way_of(&s->a);
    const way_t other = way_of(&s->b);
    kf_channel_t channels[AT_ONCE];
    for (uint32_t k = 0; k < AT_ONCE; k++) {
        channels[k] = s->out;
    }
    for (uint32_t some; count > 0; count -= some, a += some, b += some, out += some) {
        int32_t sum[AT_ONCE];
        some = count < AT_ONCE ? count : AT_ONCE;
        for (uint32_t k = 0; k < some; k++) {
            sum[k] = scaled(one, a[k]) + s->sign * scaled(other, b[k]);
        }
        kf_finish(&s->output, channels, sum, (int32_t)some, out);
    }
}
