/* ADD and SUB of inputs of one shape for Arm cores with the vector extension MVE. */
#include "../op.h"
#include "values.h"

/* One input's way to the common scale: (q - zp) 2^20 times a multiplier of at most 1/2. */
typedef struct way {
    int32_t scale, start, mult, shift; /* q scale + start, times mult 2^-31, shifted by a negative number */
} way_t;

/* 1/2, which one of the inputs always has, is without a shift. Twice the value and a shift by one, as all others have, gives the same:
 * nothing is rounded. So does 0. */
static way_t way_of(const kf_addend_t *a) {
    const int32_t more = a->right < 0;
    const int32_t scale = 1 << (KF_ADD_BITS + more);
    way_t way = {scale, -a->zp * scale, a->mult, -1 - a->right - more};
    return way;
}

static int is_half(const kf_addend_t *a) {
    return a->right < 0 && a->mult != 0;
}

/* Exact for a multiplier of 1/2: only q scale + start counts. */
static way_t half_of(const kf_addend_t *a, int32_t sign) {
    const int32_t scale = sign * (1 << (KF_ADD_BITS - 1));
    way_t way = {scale, -a->zp * scale, 0, 0};
    return way;
}

/* Four values a turn of 18 instructions, the last ones under a mask; right >= 0. `half` has a multiplier of 1/2, and its sign in it.
 * JOIN, vadd or vsub, is how `other` joins it. |sum| < 2^29. */
#define SUMS(JOIN)                                                                                                         \
    __asm__ volatile("dlstp.32 lr, %[n]\n"                                                                                 \
                     "1:\n\t"                                                                                              \
                     "vldrb.s32 %q[y], [%[b]], #4\n\t"                                                                     \
                     "vmlas.s32 %q[y], %q[other_scale], %[other_start]\n\t"                                                \
                     "vqrdmulh.s32 %q[y], %q[y], %[other_mult]\n\t"                                                        \
                     "vshr.s32 %q[t], %q[y], #31\n\t"                                                                      \
                     "vadd.i32 %q[y], %q[y], %q[t]\n\t"                                                                    \
                     "vrshl.s32 %q[y], %[other_shift]\n\t"                                                                 \
                     "vldrb.s32 %q[x], [%[a]], #4\n\t"                                                                     \
                     "vmlas.s32 %q[x], %q[half_scale], %[half_start]\n\t" JOIN " %q[x], %q[x], %q[y]\n\t"                  \
                     "vqrdmulh.s32 %q[x], %q[x], %[mult]\n\t"                                                              \
                     "vshr.s32 %q[t], %q[x], #31\n\t"                                                                      \
                     "vadd.i32 %q[x], %q[x], %q[t]\n\t"                                                                    \
                     "vrshl.s32 %q[x], %[shift]\n\t"                                                                       \
                     "vadd.i32 %q[x], %q[x], %[zp]\n\t"                                                                    \
                     "vmax.s32 %q[x], %q[x], %q[low]\n\t"                                                                  \
                     "vmin.s32 %q[x], %q[x], %q[high]\n\t"                                                                 \
                     "vstrb.32 %q[x], [%[out]], #4\n\t"                                                                    \
                     "letp lr, 1b"                                                                                         \
                     : [a] "+l"(a), [b] "+l"(b), [out] "+l"(out), [x] "=&w"(x), [y] "=&w"(y), [t] "=&w"(t), [n] "+r"(left) \
                     : [other_scale] "w"(vdupq_n_s32(other.scale)), [other_start] "r"(other.start),                        \
                       [other_mult] "r"(other.mult), [other_shift] "r"(other.shift),                                       \
                       [half_scale] "w"(vdupq_n_s32(half.scale)), [half_start] "r"(half.start), [mult] "r"(s->out.mult),   \
                       [shift] "r"(-1 - s->out.right), [zp] "r"(s->output.zp), [low] "w"(vdupq_n_s32(s->output.low)),      \
                       [high] "w"(vdupq_n_s32(s->output.high))                                                             \
                     : "memory")

static KF_NOINLINE void sums(const kf_addition_t *s, way_t half, way_t other, const int8_t *a, const int8_t *b, int8_t *out,
                             uint32_t count) {
    register uint32_t left __asm__("lr") = count; /* where it goes to: no other register is free */
    int32x4_t x, y, t;
    SUMS("vadd.i32");
}

static KF_NOINLINE void differences(const kf_addition_t *s, way_t half, way_t other, const int8_t *a, const int8_t *b, int8_t *out,
                                    uint32_t count) {
    register uint32_t left __asm__("lr") = count; /* where it goes to: no other register is free */
    int32x4_t x, y, t;
    SUMS("vsub.i32");
}

/* Multipliers of any kind. */
static KF_NOINLINE void any(const kf_addition_t *s, const int8_t *a, const int8_t *b, int8_t *out, uint32_t count) {
    const clamp_t clamp = clamp_of(&s->output);
    const int32x4_t mult = vdupq_n_s32(s->out.mult), right = vdupq_n_s32(s->out.right);
    for (uint32_t i = 0; i < count; i += 4) {
        const mve_pred16_t some = vctp32q(count - i);
        const clamp_t wide = {vdupq_n_s32(INT32_MIN), vdupq_n_s32(INT32_MAX), 0};
        int32x4_t x = vshlq_n_s32(vsubq_n_s32(vldrbq_z_s32(a + i, some), s->a.zp), KF_ADD_BITS);
        int32x4_t y = vshlq_n_s32(vsubq_n_s32(vldrbq_z_s32(b + i, some), s->b.zp), KF_ADD_BITS);
        x = values_of(&wide, 0, vdupq_n_s32(s->a.mult), vdupq_n_s32(s->a.right), x);
        y = values_of(&wide, 0, vdupq_n_s32(s->b.mult), vdupq_n_s32(s->b.right), y);
        vstrbq_p_s32(out + i, values_of(&clamp, 0, mult, right, vmlaq_n_s32(x, y, s->sign)), some);
    }
}

void kf_add(const kf_addition_t *s, const int8_t *a, const int8_t *b, int8_t *out, uint32_t count) {
    if (count == 0) {
        return;
    }
    if (s->out.right < 0) {
        any(s, a, b, out, count);
    } else if (is_half(&s->a)) {
        const way_t half = half_of(&s->a, 1), other = way_of(&s->b);
        (s->sign > 0 ? sums : differences)(s, half, other, a, b, out, count);
    } else if (is_half(&s->b)) {
        const way_t half = half_of(&s->b, s->sign), other = way_of(&s->a);
        sums(s, half, other, b, a, out, count);
    } else {
        any(s, a, b, out, count);
    }
}
