/* kilofed: the feature ring, all that a device keeps of its samples.
 *
 * A sample is reduced by the backbone to F int8 features and a label and put here; raw data is never stored. When the ring
 * is full the oldest sample goes. Every `holdout`-th slot (slot i with i % holdout == holdout - 1) is held out: it is never
 * trained on, only evaluated, and a slot keeps its part for life, so no sample drifts from one side to the other.
 *
 * Memory: capacity * F bytes of features, then capacity labels of one byte (C <= 256) or two. No alignment is needed.
 * While a training or an evaluation walks over the ring it is locked, so that the samples of a round are one fixed set.
 */
#ifndef KILOFED_RING_H
#define KILOFED_RING_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/status.h"

#define KF_HOLDOUT_DEFAULT 5

/* Fields may be read; the calls below write them. */
typedef struct kf_ring {
    int8_t *features;  /* [capacity][width] */
    uint8_t *labels;   /* [capacity], one byte each when classes <= 256, else two, low byte first */
    uint16_t width;    /* F, features a sample */
    uint16_t classes;  /* C, labels are < C */
    uint16_t capacity; /* slots; a multiple of holdout when that is not 0 */
    uint16_t holdout;  /* 0: nothing is held out; else 2 or more */
    uint16_t count;    /* slots in use: 0 .. count-1 */
    uint16_t next;     /* slot the next sample takes */
    uint16_t locks;    /* trainings and evaluations under way */
} kf_ring_t;

/* Bytes of a ring; 0 when a count is outside its limit (width 1..2048, classes 1..1024, capacity 1..65535). */
size_t kf_ring_bytes(uint16_t width, uint16_t classes, uint16_t capacity);

/* Place an empty ring in `mem`, which must outlive it. KF_ERR_ARG: a null pointer, a count outside its limit, `holdout` of
 * 1, or a capacity that is not a multiple of it. KF_ERR_MEMORY: less than kf_ring_bytes. */
KF_MUST_CHECK kf_status_t kf_ring_init(kf_ring_t *ring, uint16_t width, uint16_t classes, uint16_t capacity,
                                       uint16_t holdout, void *mem, size_t mem_bytes);

/* After kf_ring_init over memory that still holds samples (a warm reset, a copy from flash): take the first `count` slots
 * as filled, the next sample going to slot `next`. KF_ERR_ARG, and the ring stays empty: count or next that no sequence of
 * pushes gives, or a stored label >= classes. */
KF_MUST_CHECK kf_status_t kf_ring_restore(kf_ring_t *ring, uint16_t count, uint16_t next);

/* Copy a sample in, over the oldest when full. `features` has `features_bytes` == width int8 values.
 * KF_ERR_SHAPE: another width. KF_ERR_ARG: null, or label >= classes. KF_ERR_BUSY: locked. The ring is then unchanged. */
KF_MUST_CHECK kf_status_t kf_ring_push(kf_ring_t *ring, const int8_t *features, size_t features_bytes, uint16_t label);

/* Forget all samples and clear their memory: after a new backbone. KF_ERR_BUSY: locked. */
KF_MUST_CHECK kf_status_t kf_ring_clear(kf_ring_t *ring);

/* Of a slot < count. */
const int8_t *kf_ring_features(const kf_ring_t *ring, uint32_t slot);
uint16_t kf_ring_label(const kf_ring_t *ring, uint32_t slot);
int kf_ring_is_held_out(const kf_ring_t *ring, uint32_t slot);

/* How many of the filled slots are held out, and how many are trained on. */
uint16_t kf_ring_held_out_count(const kf_ring_t *ring);
uint16_t kf_ring_train_count(const kf_ring_t *ring);

#endif
