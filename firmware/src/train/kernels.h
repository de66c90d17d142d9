/* The loops of training that take the time, as families: the same functions in several files, of which the build links one
 * (KF_TRAIN_KERNELS in CMakeLists.txt, by the board's core). Each gives the same integers, those of TRAINING.md.
 *
 *     kernels.c         exp.c        plain C, for any core
 *     small/kernels.c   exp.c        cores with few registers and without a long multiplication: Cortex-M0, M0+
 *     dsp/kernels.c     dsp/exp.c    Arm cores with the DSP extension: Cortex-M4, M7, M33
 *     mve/kernels.c     mve/exp.c    Arm cores with the vector extension: Cortex-M55
 *
 * C classes, F features. Samples lie in the ring: `features` + at[i] is where the F int8 values of sample i begin, at no alignment.
 * x = q - x_zp, -255 .. 255. The zero point may be taken out of a sum, since sum w (q - zp) = sum w q - zp sum w.
 */
#ifndef KILOFED_TRAIN_KERNELS_H
#define KILOFED_TRAIN_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/params.h"
#include "kilofed/train.h"

/* Samples that share a look at the weights, at most: what rounds a weight is paid once for all of them. */
enum { KF_TILE = 8 };
/* Features whose gradients a backward pass holds at once. */
enum { KF_FEATURES_AT_ONCE = 8 };

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* Up to this many features a logit is summed in int32 with its bias: |dot| <= 128 * 2^15 * 255 < 2^30 - 2^21, |bias| <= 2^30 and
 * the rounding adds 2^7. More are summed in blocks of it, each in int32, and the blocks in int64. */
enum { KF_BLOCK = 128 };

/* Logits of `classes` classes for `samples` samples. */
typedef struct kf_forward {
    const int32_t *w;      /* [classes][width], |w| <= KF_WEIGHT_MAX */
    const int32_t *bias;   /* [classes] */
    const int8_t *features;
    const uint32_t *at;    /* [samples] */
    int32_t *z;            /* [classes][KF_TILE], 2^-12 nats; behind the last sample a family may write anything */
    uint32_t width;        /* F */
    uint32_t classes;      /* 1 at least */
    uint32_t samples;      /* 1 .. KF_TILE */
    uint32_t k;            /* 0 .. 8: every (w + floor(2^k / 2)) >> k fits int16 */
    int32_t x_zp;
} kf_forward_t;

void kf_forward(const kf_forward_t *p);

/* Bias in 2^(k-20), with what rounds the shift by 8 - k: the sum's first term. |bias| <= 2^30, so the result is below 2^30 + 2^8. */
static inline int32_t kf_first_term(int32_t bias, uint32_t k) {
    return ((bias + ((INT32_C(1) << k) >> 1)) >> k) + ((INT32_C(1) << (8u - k)) >> 1);
}

/* A logit from a sum of more than one block, its first term included. */
static inline int32_t kf_wide_logit(int64_t sum, uint32_t k) {
    const int64_t z = sum >> (8u - k);
    return z > INT32_MAX ? INT32_MAX : z < INT32_MIN ? INT32_MIN : (int32_t)z;
}

/* ---- softmax ----------------------------------------------------------------------------------------------------- */

/* The classes' z of one sample, KF_TILE apart, become e = 2^15 * exp((z - top) / 4096), rounded; `top` is the largest. Returns their sum. */
uint32_t kf_exponentials(int32_t *z, uint32_t classes, int32_t top);

/* The upper half is v(i) = round(2^15 * 2^(-i/32)), the lower v(i) - v(i+1). */
extern const uint32_t kf_exp2_lines[32];

/* min(top - z, most); 0 <= top - z < 2^32. */
static inline uint32_t kf_distance(int32_t top, int32_t z, uint32_t most) {
    const uint32_t d = (uint32_t)top - (uint32_t)z;
    return d > most ? most : d;
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* The step of a rectangle of weights, `classes` x `count`, from the errors of the batch. */
typedef struct kf_backward {
    int32_t *w;              /* of the rectangle's first class and feature; its rows are `width` apart */
    const int16_t *errors;   /* [classes][stride], 2^-15; of samples from `samples` on there is anything */
    const int8_t *features;  /* of the rectangle's first feature */
    const uint32_t *at;      /* [samples] */
    void *scratch;           /* KF_BACKWARD_BYTES(batch) bytes, aligned to 4 */
    const kf_head_view_t *base; /* for the proximal term */
    kf_rate_t rate;          /* of the mean gradient */
    kf_rate_t prox;
    uint32_t width;          /* F */
    uint32_t stride;         /* samples rounded up to a multiple of 4, at least */
    uint32_t samples;        /* 1 .. KF_MAX_BATCH */
    uint32_t classes;        /* 1 at least */
    uint32_t count;          /* features, 1 at least */
    uint32_t c, f;           /* the rectangle's first class and feature, of the whole head */
    int32_t x_zp;
    uint32_t largest;        /* in and out: largest |weight| that was moved so far */
} kf_backward_t;

void kf_backward(kf_backward_t *p);

/* Room that a family may use while it works on a rectangle: one word for each of KF_FEATURES_AT_ONCE features and pair of samples, or
 * two for each sample. */
#define KF_BACKWARD_BYTES(batch) (16u * (((batch) + 3u) & ~3u))

/* Features of a rectangle, at most, a multiple of KF_FEATURES_AT_ONCE: few where the family prepares samples, which all classes share; all
 * where it prepares the errors of a class. */
extern const uint32_t kf_backward_features;

#endif
