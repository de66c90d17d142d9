/* What operators of two int8 inputs share: their shapes are aligned at the last axes, and a size of 1 is repeated. */
#ifndef KF_NN_PAIR_H
#define KF_NN_PAIR_H

#include "check.h"

/* A walk over the output's values, with the position in each input of the value that meets it. */
typedef struct kf_pair {
    uint32_t a, b;
    int32_t rank;
    int32_t at[KF_MODEL_RANK_MAX], size[KF_MODEL_RANK_MAX];     /* of the output */
    int32_t step_a[KF_MODEL_RANK_MAX], step_b[KF_MODEL_RANK_MAX]; /* 0 where an input is repeated */
} kf_pair_t;

/* Two int8 inputs, an int8 output, and shapes that fit. */
KF_MUST_CHECK kf_model_fault_t kf_pair_check(kf_node_t *node);

/* A slice is one value, of `macs`. An input that is not repeated is read just before the output is written there. */
void kf_pair_work(const kf_node_t *node, kf_work_t *work, uint32_t macs);

/* Stand at output value `index`. */
void kf_pair_begin(const kf_node_t *node, uint32_t index, kf_pair_t *p);

/* Go on to the next value. */
static inline void kf_pair_next(kf_pair_t *p) {
    for (int32_t axis = p->rank - 1; axis >= 0; axis--) {
        p->a += (uint32_t)p->step_a[axis];
        p->b += (uint32_t)p->step_b[axis];
        if (++p->at[axis] < p->size[axis]) {
            return;
        }
        p->at[axis] = 0;
        p->a -= (uint32_t)(p->step_a[axis] * p->size[axis]);
        p->b -= (uint32_t)(p->step_b[axis] * p->size[axis]);
    }
}

#endif
