/* The sliding window that convolutions and pooling share.
 *
 * Letters: in [B][in_h][in_w][in_c], out [B][out_h][out_w][out_c], window k_h x k_w with strides and dilations. Padding is
 * by omission: places outside the input take no part.
 */
#ifndef KF_NN_WINDOW_H
#define KF_NN_WINDOW_H

#include "check.h"

typedef struct kf_window {
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t k_h, k_w;
    int32_t stride_h, stride_w;
    int32_t dilation_h, dilation_w;
    int32_t pad_h, pad_w; /* above and left; negative never */
    kf_range_t range;
} kf_window_t;

/* Window and dilation are set by the caller: fill the rest from the node and judge it. Input and output must have rank 4. */
KF_MUST_CHECK kf_model_fault_t kf_window_read(const kf_node_t *node, uint32_t activation_field, kf_window_t *w);

/* How the operator goes through its input, one row of the output after another, for a judged node with windows of k rows. */
void kf_window_walk(const kf_node_t *node, int32_t k, int32_t dilation, kf_walk_t *walk);

/* The part [first, end) of k window positions, `dilation` apart, that falls inside [0, size) when position 0 lies at
 * `origin`. Empty: first == end. */
typedef struct kf_part {
    int32_t first, end;
} kf_part_t;

static inline kf_part_t kf_window_part(int32_t origin, int32_t k, int32_t dilation, int32_t size) {
    kf_part_t part = {0, k};
    while (part.first < k && origin + part.first * dilation < 0) {
        part.first++;
    }
    while (part.end > part.first && origin + (part.end - 1) * dilation >= size) {
        part.end--;
    }
    return part;
}

/* Output row `slice` of all batches: batch and y. */
typedef struct kf_row {
    int32_t b, y;
} kf_row_t;

static inline kf_row_t kf_window_row(const kf_window_t *w, uint32_t slice) {
    kf_row_t row;
    row.b = (int32_t)(slice / (uint32_t)w->out_h);
    row.y = (int32_t)(slice % (uint32_t)w->out_h);
    return row;
}

#endif
