/* What CONV_2D and DEPTHWISE_CONV_2D share: the walk over output pixels, and the way from a sum to an output value. */
#ifndef KF_NN_CONVOLVE_H
#define KF_NN_CONVOLVE_H

#include "kernels.h"
#include "window.h"

/* Field numbers of an operator's options; the filter is input 1 with [..][k_h][k_w][..]. */
typedef struct kf_conv_fields {
    uint8_t activation, dilation_w, dilation_h;
} kf_conv_fields_t;

/* A convolution while it runs. */
typedef struct kf_conv {
    const kf_node_t *node;
    const kf_io_t *io;
    kf_finish_t finish;
    int32_t x_offset; /* -x_zp */
    kf_window_t g;
} kf_conv_t;

/* What one output pixel reads: `rows` x `columns` window positions inside the image. */
typedef struct kf_patch {
    const int8_t *x;  /* channel 0 of the first of them */
    int32_t position; /* its number in the window, row by row */
    int32_t rows, columns;
} kf_patch_t;

/* Compute all channels of one output pixel, [out_c] from `out` on. */
typedef void (*kf_conv_pixel_t)(const kf_conv_t *c, const kf_patch_t *p, int8_t *out);

KF_MUST_CHECK kf_model_fault_t kf_conv_geometry(const kf_node_t *node, const kf_conv_fields_t *fields, kf_window_t *g);

/* kf_op_t's work(): a slice is one output row. */
void kf_conv_work(const kf_node_t *node, kf_work_t *work);

/* kf_op_t's run(), pixel by pixel. */
void kf_conv_run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count, const kf_conv_fields_t *fields,
                 kf_conv_pixel_t pixel);

/* sum[k] = the bias of channel + k, for `count` channels: what the kernels add to. */
void kf_conv_begin(const kf_conv_t *c, int32_t channel, int32_t *sum, int32_t count);

#endif
