/* The inner loops of the operators that take the time, as families: the same functions in several files, of which the build
 * links one (KF_KERNELS in CMakeLists.txt, by the board's core). Each gives the same integers.
 *
 *     kernels.c          plain C, for any core
 *     small/kernels.c    plain C for cores with few registers and without a long multiplication: Cortex-M0, M0+
 *     dsp/kernels.c      Arm cores with the DSP extension: Cortex-M4, M7, M33
 *
 * Nothing here assumes an alignment. Sums stay inside int32 as KF_TERMS_MAX (check.h) has it; biases may wrap them.
 */
#ifndef KF_NN_KERNELS_H
#define KF_NN_KERNELS_H

#include <stdint.h>

#include "requant.h"

/* A part of an image and the same part of a filter: `rows` runs of `values`, each contiguous in both. */
typedef struct kf_span {
    int32_t rows;         /* 1 at least */
    int32_t x_row, w_row; /* from one row to the next */
    int32_t values;       /* 1 at least */
    int32_t filter;       /* from one filter to the next */
    int32_t x_offset;     /* -x_zp, -127..128 */
} kf_span_t;

/* sum[k] += the products of the image's part with that of filter k, for 4 filters, or for 1. */
void kf_dot4(const kf_span_t *s, const int8_t *x, const int8_t *w, int32_t *sum);
void kf_dot1(const kf_span_t *s, const int8_t *x, const int8_t *w, int32_t *sum);

/* Window positions, of which every channel is convolved with its own filter. */
typedef struct kf_places {
    int32_t rows, columns;      /* 1 at least */
    int32_t x_column, w_column; /* from one position to the next */
    int32_t x_row, w_row;       /* from behind a row to the start of the next one */
    int32_t x_offset;           /* -x_zp */
} kf_places_t;

/* sum[k] += the products of channel k of the image with channel k of the filter, for 4 channels side by side, or for 1. */
void kf_depthwise4(const kf_places_t *p, const int8_t *x, const int8_t *w, int32_t *sum);
void kf_depthwise1(const kf_places_t *p, const int8_t *x, const int8_t *w, int32_t *sum);

/* What makes an output of a sum. */
typedef struct kf_finish {
    const kf_requant_t *by; /* of channel 0 */
    int32_t step;           /* 1: by[channel]; 0: by[0] */
    int32_t out_zp, low, high;
} kf_finish_t;

/* out[k] = the value of sum[k], for `count` (1 at least) channels from `channel` on. */
void kf_finish(const kf_finish_t *f, int32_t channel, const int32_t *sum, int32_t count, int8_t *out);

#endif
