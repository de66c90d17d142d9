/* From sums to values, four at a time, for Arm cores with the vector extension MVE. */
#ifndef KF_NN_MVE_VALUES_H
#define KF_NN_MVE_VALUES_H

#include <arm_mve.h>

#include "../kernels.h"

/* What clamps values. */
typedef struct clamp {
    int32x4_t low, high;
    int32_t zp;
} clamp_t;

static inline clamp_t clamp_of(const kf_output_t *o) {
    clamp_t clamp = {vdupq_n_s32(o->low), vdupq_n_s32(o->high), o->zp};
    return clamp;
}

static inline int32x4_t clamped(const clamp_t *clamp, int32x4_t value) {
    return vminq_s32(vmaxq_s32(vaddq_n_s32(value, clamp->zp), clamp->low), clamp->high);
}

/* kf_requant_narrow(), or kf_requant_any() for right >= 0. VQRDMULH is kf_mul_high(), VRSHL by a negative number shifts right and
 * rounds ties up, and adding -1 to what is negative before it turns those into ties away from zero. shift: -1 - right. */
static inline int32x4_t scaled(int32x4_t mult, int32x4_t shift, int32x4_t sum) {
    sum = vqrdmulhq_s32(sum, mult);
    sum = vaddq_s32(sum, vshrq_n_s32(sum, 31));
    return vrshlq_s32(sum, shift);
}

/* kf_requant_any() and the clamp; the values stay int32. */
static inline int32x4_t values_of(const clamp_t *clamp, int narrow, int32x4_t mult, int32x4_t right, int32x4_t sum) {
    int32x4_t shift = vmvnq_s32(right); /* -1 - right */
    if (narrow) {
        sum = scaled(mult, shift, sum);
    } else {
        int32x4_t zero = vdupq_n_s32(0);
        sum = vqrdmulhq_s32(vshlq_s32(sum, vmaxq_s32(shift, zero)), mult);
        sum = vaddq_m_s32(sum, sum, vshrq_n_s32(sum, 31), vcmpltq_n_s32(shift, 0));
        sum = vrshlq_s32(sum, vminq_s32(shift, zero));
    }
    return clamped(clamp, sum);
}

static inline int32x4_t gather(const int32_t *first, uint32x4_t places) {
    return vldrwq_gather_shifted_offset_s32(first, places);
}

/* Places of one member of every channel, or of every second one, in words. */
static inline uint32x4_t channel_places(void) {
    return vmulq_n_u32(vidupq_n_u32(0, 1), 3);
}

/* Two sums into lanes 0 and 2, or 1 and 3: one instruction, where the compiler takes two. */
static inline int32x4_t even_lanes(int32x4_t vector, int32_t a, int32_t b) {
    __asm__("vmov %q0[2], %q0[0], %1, %2" : "+w"(vector) : "r"(a), "r"(b));
    return vector;
}

static inline int32x4_t odd_lanes(int32x4_t vector, int32_t a, int32_t b) {
    __asm__("vmov %q0[3], %q0[1], %1, %2" : "+w"(vector) : "r"(a), "r"(b));
    return vector;
}

/* Four sums in general registers while they grow. */
typedef struct sums {
    int32_t s0, s1, s2, s3;
} sums_t;

static inline int32x4_t vector_of(sums_t sums) {
    return odd_lanes(even_lanes(vuninitializedq_s32(), sums.s0, sums.s2), sums.s1, sums.s3);
}

/* The products of four filters, `terms` apart, and one patch, added to the sums. VMLADAVA takes sums in even registers only; a loop that
 * begins with DLSTP ends a run of bytes by itself: lanes behind the last are neither read nor counted. terms >= 1. */
static inline sums_t four(sums_t s, const int8_t *x, const int8_t *w, int32_t terms) {
    const int8_t *w1 = w + terms, *w2 = w1 + terms, *w3 = w2 + terms;
    int8x16_t u, v;
    __asm__("dlstp.8 lr, %[n]\n"
            "1:\n\t"
            "vldrb.8 %q[v], [%[x]], #16\n\t"
            "vldrb.8 %q[u], [%[w0]], #16\n\t"
            "vmladava.s8 %[s0], %q[u], %q[v]\n\t"
            "vldrb.8 %q[u], [%[w1]], #16\n\t"
            "vmladava.s8 %[s1], %q[u], %q[v]\n\t"
            "vldrb.8 %q[u], [%[w2]], #16\n\t"
            "vmladava.s8 %[s2], %q[u], %q[v]\n\t"
            "vldrb.8 %q[u], [%[w3]], #16\n\t"
            "vmladava.s8 %[s3], %q[u], %q[v]\n\t"
            "letp lr, 1b"
            : [x] "+r"(x), [w0] "+r"(w), [w1] "+r"(w1), [w2] "+r"(w2), [w3] "+r"(w3), [s0] "+Te"(s.s0), [s1] "+Te"(s.s1),
              [s2] "+Te"(s.s2), [s3] "+Te"(s.s3), [u] "=&w"(u), [v] "=&w"(v)
            : [n] "r"(terms)
            : "lr", "memory");
    return s;
}

/* The products of one filter and one patch. */
static inline int32_t one_dot(int32_t sum, const int8_t *x, const int8_t *w, int32_t terms) {
    int8x16_t u, v;
    __asm__("dlstp.8 lr, %[n]\n"
            "1:\n\t"
            "vldrb.8 %q[v], [%[x]], #16\n\t"
            "vldrb.8 %q[u], [%[w]], #16\n\t"
            "vmladava.s8 %[s], %q[u], %q[v]\n\t"
            "letp lr, 1b"
            : [x] "+r"(x), [w] "+r"(w), [s] "+Te"(sum), [u] "=&w"(u), [v] "=&w"(v)
            : [n] "r"(terms)
            : "lr", "memory");
    return sum;
}

#endif
