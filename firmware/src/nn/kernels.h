/* The inner loops of the operators that take the time, as families: the same functions in several files, of which the build
 * links one (KF_KERNELS in CMakeLists.txt, by the board's core). Each gives the same integers.
 *
 *     kernels.c          plain C, for any core
 *     small/             cores with few registers and without a long multiplication: Cortex-M0, M0+
 *     thumb2/            Arm cores with one multiply-accumulate an instruction: Cortex-M3
 *     dsp/               Arm cores with the DSP extension: Cortex-M4, M7, M33
 *     mve/               Arm cores with the vector extension: Cortex-M55
 *
 * Nothing here assumes an alignment of tensors. Sums stay inside int32 as KF_TERMS_MAX (check.h) has it; biases may wrap them.
 *
 * A convolution goes over its output row by row. What a window position reads is first copied into a *patch*, in the form the
 * family's inner loop wants (widened, offset added, reordered); from then on nothing of the image is read. So the window may be
 * cut off by the image's edge, dilated, or one group of many, its rows may lie anywhere, and the output may overwrite what
 * was read: the inner loop sees one contiguous run of values against filters that are contiguous in the file.
 */
#ifndef KF_NN_KERNELS_H
#define KF_NN_KERNELS_H

#include <stdint.h>

#include "requant.h"

/* What an output channel needs beside its weights: 12 bytes. */
typedef struct kf_channel {
    int32_t bias;
    int32_t mult;  /* [2^30, 2^31), or 0 */
    int32_t right; /* -1 - shift of kf_requant_t: -31..30; from 0 on the value is shifted right by right + 1 places */
} kf_channel_t;

/* 1: sums of the channel's bias and `terms` products, whatever the input, suit kf_requant_narrow(). A product is below 2^15. */
static inline int32_t kf_channel_narrow(const kf_channel_t *channel, uint32_t terms) {
    uint32_t size = channel->bias < 0 ? 0u - (uint32_t)channel->bias : (uint32_t)channel->bias;
    return channel->right >= 0 && channel->right <= KF_RIGHT_NARROW && terms <= 1u << 14 && size < (1u << 30) - (terms << 15);
}

/* How sums become values. */
typedef struct kf_output {
    int32_t zp, low, high; /* -128..127 */
    int32_t narrow;        /* 1: |sum| < 2^30 for every input, and kf_requant_narrow() takes right, for every channel */
} kf_output_t;

/* out[k] = the value of sum[k], which holds its bias already, for `count` (1 at least) channels. */
void kf_finish(const kf_output_t *o, const kf_channel_t *channels, const int32_t *sum, int32_t count, int8_t *out);

/* ---- fully connected --------------------------------------------------------------------------------------------- */

/* sum[k] += the products of x[terms] and filter k of w[count][terms]; terms >= 1. */
enum { KF_DOTS_MAX = 12 };
void kf_dots(const int8_t *x, int32_t x_offset, const int8_t *w, int32_t terms, int32_t count, int32_t *sum);

/* ---- addition ---------------------------------------------------------------------------------------------------- */

/* An input of ADD or SUB: (q - zp) * 2^KF_ADD_BITS * multiplier, the multiplier at most 1/2, mult and right as of a channel. */
enum { KF_ADD_BITS = 20 };

typedef struct kf_addend {
    int32_t zp, mult, right;
} kf_addend_t;

typedef struct kf_addition {
    kf_addend_t a, b;
    int32_t sign;     /* of b: 1 or -1 */
    kf_channel_t out; /* its bias is 0 */
    kf_output_t output;
} kf_addition_t;

/* out[i] from a[i] and b[i], for `count` values. out may be a or b. (plain/, dsp/ and mve/addition.c) */
void kf_add(const kf_addition_t *s, const int8_t *a, const int8_t *b, int8_t *out, uint32_t count);

/* ---- pooling ----------------------------------------------------------------------------------------------------- */

/* The part of a window that lies inside the image: `rows` from row y on, `columns` in each, 1 at least; together KF_TERMS_MAX at most. */
typedef struct kf_pooled {
    const int8_t *image; /* the window's first column, in the row at the image's place 0 */
    int32_t y, rows, columns;
    int32_t row_bytes, channels;
    uint32_t ring;     /* rows that the image's place has: kf_ring_row() */
    int32_t low, high; /* what clamps the values */
} kf_pooled_t;

typedef enum kf_pooling { KF_POOL_AVERAGE, KF_POOL_MAXIMUM } kf_pooling_t; /* averages to nearest, ties away from zero */

/* out[channel] of one window. out may lie where the window begins, or below: a channel is read before it is written, and none behind it is
 * written first. (plain/pooling.c, mve/pooling.c) */
void kf_pool(const kf_pooled_t *p, kf_pooling_t pooling, int8_t *out);

/* ---- convolution ------------------------------------------------------------------------------------------------- */

/* Room for the patches that a family works on at once, for patches of `terms` values; a multiple of 4. The same for all families,
 * since the host plans with it: three patches of int16, six of int8, or one of index and value. */
static inline uint32_t kf_patches_bytes(uint32_t terms) {
    return 6u * ((terms + 3u) & ~3u);
}

/* Patches under way: `memory` has kf_patches_bytes(terms) bytes, aligned to 4. One of these is set up for each output row. */
typedef struct kf_patches {
    uint32_t *memory;
    int32_t terms;    /* values of a patch, 1..KF_TERMS_MAX */
    int32_t x_offset; /* -x_zp, -127..128 */
    int32_t patches;  /* how many there will be: set before they are filled, 1..kf_patches_at_once() */
    int32_t filled;   /* the family's own; 0 before the first value of patch 0 */
    int32_t dense;    /* the family's own; 0 at the start of a row */
} kf_patches_t;

/* How many patches this family works on at once, at most, after what it has seen of this row: 1 or more. */
int32_t kf_patches_at_once(const kf_patches_t *p);

/* Values [at, at + count) of patch `index` are x[count]; x NULL: they lie outside the image, whose value there is the zero point.
 * Patches are filled one after another, each from its first value to its last. count >= 0. */
void kf_patch_put(kf_patches_t *p, int32_t index, int32_t at, const int8_t *x, int32_t count);

/* All of patch `index` at once, for windows inside the image: `rows` runs of `count` values each, one after another in the patch, x the
 * first, and each `step` values behind the one before. */
void kf_patch_fill(kf_patches_t *p, int32_t index, const int8_t *x, int32_t count, int32_t rows, int32_t step);

/* What a filter's bias needs beside itself: 0 in families whose patches hold x + x_offset, and x_offset times the sum of w[terms]
 * in those whose patches hold the image as it is. Asked once a filter and inference. */
int32_t kf_patch_bias(const int8_t *w, int32_t terms, int32_t x_offset);

/* The filters of a convolution, or of one of its groups. Their channels' biases hold kf_patch_bias() already. */
typedef struct kf_filters {
    const int8_t *w;              /* [count][terms] */
    const kf_channel_t *channels; /* [count] */
    int32_t count;                /* 1 at least */
    kf_output_t output;
} kf_filters_t;

/* Every filter on every patch: out[patch * out_step + filter]. */
void kf_convolve(const kf_filters_t *f, kf_patches_t *p, int8_t *out, int32_t out_step);

/* ---- depthwise convolution --------------------------------------------------------------------------------------- */

/* A depthwise convolution, for one output row. w is [k_h][k_w][out_c]; output channel c reads input channel c / multiplier. */
typedef struct kf_depthwise {
    const int8_t *w;
    const kf_channel_t *channels; /* [out_c] */
    int32_t k_h, k_w;
    int32_t in_w, in_c, out_w, out_c, multiplier;
    int32_t stride, dilation, pad; /* along the row; pad before it */
    int32_t x_offset;
    kf_output_t output;
    void *scratch; /* kf_depthwise_bytes() bytes, aligned to 4; kept between rows, arbitrary before the first */
} kf_depthwise_t;

enum { KF_DEPTHWISE_TAPS_MAX = 25 };

/* Scratch of a depthwise convolution: for windows of at most KF_DEPTHWISE_TAPS_MAX places with one filter a channel, room for four
 * channels of filters and of what the window's rows span, as int16. `reach` is (out_w - 1) * stride + (k_w - 1) * dilation + 1.
 * 0 for others, and where it would not fit 16 MB. */
static inline uint32_t kf_depthwise_bytes(uint32_t k_h, uint32_t k_w, uint32_t reach, uint32_t multiplier) {
    if (multiplier != 1 || k_h > KF_DEPTHWISE_TAPS_MAX || k_w > KF_DEPTHWISE_TAPS_MAX || k_h * k_w > KF_DEPTHWISE_TAPS_MAX ||
        reach > (1u << 16)) {
        return 0;
    }
    return 8u * k_h * (k_w + reach);
}

/* All of one output row, [out_w][out_c]. rows[i] is where the window's row i begins, relative to x; negative: outside the image. */
void kf_depthwise_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out);

#endif
