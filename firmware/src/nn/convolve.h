/* What convolutions share: their window, their channels as the kernels want them, and the walk over output rows. */
#ifndef KF_NN_CONVOLVE_H
#define KF_NN_CONVOLVE_H

#include "kernels.h"
#include "window.h"

/* Field numbers of an operator's options; the filter is input 1 with [..][k_h][k_w][..]. */
typedef struct kf_conv_fields {
    uint8_t activation, dilation_w, dilation_h;
} kf_conv_fields_t;

/* What slice 0 leaves in scratch for the others; `channels` of them, then what the kernels need. */
typedef struct kf_prepared {
    int32_t narrow; /* see kf_output_t */
    kf_channel_t channel[];
} kf_prepared_t;

/* A convolution while it runs. */
typedef struct kf_conv {
    const kf_node_t *node;
    const kf_io_t *io;
    kf_window_t g;
    kf_output_t output;
    const kf_channel_t *channels;
    void *scratch; /* behind the prepared channels */
} kf_conv_t;

/* Compute output row `at`, [out_w][out_c] from `out` on. */
typedef void (*kf_conv_row_t)(const kf_conv_t *c, kf_row_t at, int8_t *out);

KF_MUST_CHECK kf_model_fault_t kf_conv_geometry(const kf_node_t *node, const kf_conv_fields_t *fields, kf_window_t *g);

/* kf_op_t's work(), as far as it is common: a slice is one output row. `kernel_bytes`: scratch beside the channels. */
void kf_conv_work(const kf_node_t *node, const kf_conv_fields_t *fields, uint32_t kernel_bytes, kf_work_t *work);

/* kf_op_t's run(), row by row. `terms`: products of a sum. */
void kf_conv_run(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count, const kf_conv_fields_t *fields,
                 uint32_t terms, kf_conv_row_t row);

/* Where row y of the input begins, relative to the input; negative when there is no such row. */
int32_t kf_conv_input_row(const kf_conv_t *c, int32_t batch, int32_t y);

#endif
