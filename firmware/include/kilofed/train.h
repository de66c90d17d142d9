/* kilofed: the integer-only trainer and the evaluation.
 *
 * Minibatch stochastic gradient descent on softmax cross-entropy for the head, optionally with FedProx's proximal term, in
 * 32-bit integers: the same ring, head and configuration give the same bytes on every machine. TRAINING.md defines each
 * rounding and proves each bound; tools/kilofed_tools/trainer.py is the same in numpy.
 *
 * Order of use:
 *   kf_head_load(&view, &params);                       start from the received head
 *   kf_train_begin(&t, &cfg, &ring, &params, &view, mem, bytes);
 *   while ((s = kf_train_step(&t, 2000)) == KF_MORE) {  answer the link between slices }
 *   kf_update_encode(...)                               see params.h
 *
 * All memory is the caller's. Nothing here may be called from an ISR.
 */
#ifndef KILOFED_TRAIN_H
#define KILOFED_TRAIN_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/params.h"
#include "kilofed/ring.h"
#include "kilofed/status.h"

#define KF_MAX_BATCH 256

/* A positive factor: mantissa * 2^-shift. mantissa 2^14 .. 2^15 - 1 and shift 1 .. KF_RATE_SHIFT_MAX; mantissa 0 is the
 * factor 0, whatever the shift. Beyond that shift the largest possible mean gradient would move no weight by a unit. */
#define KF_RATE_SHIFT_MAX 38
typedef struct kf_rate {
    uint16_t mantissa;
    uint8_t shift;
} kf_rate_t;

typedef struct kf_train_config {
    uint32_t seed;   /* of the shuffle; any value */
    uint16_t batch;  /* samples a step, 1 .. KF_MAX_BATCH */
    uint8_t epochs;  /* passes over the training slots, 1 .. 255 */
    int8_t x_zp;     /* zero point of the features: x = q - x_zp */
    kf_rate_t lr_w;  /* weights: lr * 32 / mean square of x; 0 leaves them alone. Divided by the batch's size inside */
    kf_rate_t lr_b;  /* biases: lr * 32; 0 leaves them alone. Divided by the batch's size inside */
    kf_rate_t prox;  /* lr * mu of FedProx; 0 is plain SGD */
} kf_train_config_t;

/* A training. Fields are private but for the two results. */
typedef struct kf_train {
    kf_train_config_t cfg;
    kf_ring_t *ring;
    kf_params_t *params;
    const kf_head_view_t *base;
    int32_t *logits;  /* [C][8] of up to eight samples under way, 2^-12; while weights are moved, the kernels' scratch */
    uint32_t *at;     /* [batch] where in the ring's features each sample of the batch under way begins */
    int16_t *errors;  /* [C][batch rounded up to a multiple of 4] p - y, 2^-15 */
    uint8_t *order;   /* training slots in this epoch's order, one byte each when capacity <= 256, else two */
    uint32_t random;  /* state of the generator */
    uint32_t loss;    /* sum over the epoch so far, 2^-12 nats */
    uint32_t peak;    /* largest |logit| of the epoch so far */
    uint32_t largest; /* largest |weight| after the last batch, while a batch moves the weights: so far */
    uint16_t samples; /* training slots */
    uint16_t done;    /* samples of this epoch in finished batches */
    uint16_t size;    /* samples of the batch under way */
    uint16_t i;       /* sample in the batch, or position of the shuffle */
    uint16_t c;       /* class under way */
    uint16_t f;       /* first of the features whose weights are moved next */
    uint16_t count;   /* of them, the same for all classes */
    kf_rate_t step_w; /* rates of the batch under way */
    kf_rate_t step_b;
    uint8_t epoch;
    uint8_t phase;
    uint8_t shift; /* of the dot products of the batch under way */

    /* Results, of the last finished epoch. */
    uint16_t loss_q12; /* mean loss in 2^-12 nats, each sample's capped at 65535; 65535 before the first epoch has ended */
    uint32_t peak_q12; /* largest |logit|, 2^-12 */
} kf_train_t;

/* Working memory of a training, in bytes, for a ring of that capacity and holdout. 0 when a count is outside its limit. */
size_t kf_train_bytes(uint16_t classes, uint16_t batch, uint16_t capacity, uint16_t holdout);

/* Begin, which looks once at every weight. Trains from what `params` holds. `base` is the received head; only the proximal term reads it, and it may be NULL
 * when cfg->prox is 0. `mem` (aligned to 4) holds the working memory. `cfg` is copied; everything else must outlive `t` and
 * stay as it is. On KF_OK the ring is locked until the last step or kf_train_cancel.
 * KF_ERR_ARG: a null pointer, batch, epochs or a rate outside its range, `mem` not aligned.
 * KF_ERR_SHAPE: ring, params and base differ in size. KF_ERR_STATE: no training sample. KF_ERR_MEMORY: mem_bytes below
 * kf_train_bytes. After a failure `t` is idle and nothing is locked. */
KF_MUST_CHECK kf_status_t kf_train_begin(kf_train_t *t, const kf_train_config_t *cfg, kf_ring_t *ring, kf_params_t *params,
                                         const kf_head_view_t *base, void *mem, size_t mem_bytes);

/* Train on for about `max_macs` multiply-accumulates, or what costs as much; the last unit of work begun is finished, which
 * adds at most max(8 F, 8 C, 8 batch + 64). Larger slices are cheaper: a unit is as large as what is left of them. How the work is cut changes no byte of the result.
 * KF_MORE: call again. KF_OK: finished; params hold the trained head. KF_ERR_STATE: not begun, or cancelled. */
KF_MUST_CHECK kf_status_t kf_train_step(kf_train_t *t, uint32_t max_macs);

/* Give up: unlocks the ring. `params` are then in range but neither old nor new: load a head before using them.
 * Fine at any time after kf_train_begin, also when nothing is under way. */
void kf_train_cancel(kf_train_t *t);

/* Samples seen and samples to see, over all epochs (epochs * training slots). Both 0 when idle. */
typedef struct kf_train_progress {
    uint32_t done;
    uint32_t total;
    uint8_t epoch; /* finished epochs */
} kf_train_progress_t;
kf_train_progress_t kf_train_progress(const kf_train_t *t);

/* ---- evaluation ------------------------------------------------------------------------------------------------ */

/* Counts over the held-out slots. A sample's answer is the class with the largest logit, the lowest class on a tie. The
 * logits are the trainer's, so a head and a master are compared by the same arithmetic. */
typedef struct kf_eval {
    kf_ring_t *ring;             /* private, as the next ones */
    const kf_params_t *params;
    const kf_head_view_t *head;
    int32_t best;
    uint16_t best_class;
    uint16_t slot;
    uint16_t c;
    int8_t x_zp;
    uint8_t phase;
    uint8_t params_shift;
    uint8_t head_shift;

    uint16_t total;          /* results: held-out samples */
    uint16_t params_correct; /* of them right by `params` */
    uint16_t head_correct;   /* and by `head` */
} kf_eval_t;

/* Begin, which looks once at every weight. `params` or `head` may be NULL and is then not counted. Everything given must outlive `e` and stay as it is; the
 * ring is locked until the last step or kf_eval_cancel. No held-out sample is not an error: the totals are 0.
 * KF_ERR_ARG: a null pointer where none may be, or neither head nor params. KF_ERR_SHAPE: they differ from the ring. */
KF_MUST_CHECK kf_status_t kf_eval_begin(kf_eval_t *e, kf_ring_t *ring, int8_t x_zp, const kf_params_t *params,
                                        const kf_head_view_t *head);

/* As kf_train_step; the unit of work is F multiply-accumulates. */
KF_MUST_CHECK kf_status_t kf_eval_step(kf_eval_t *e, uint32_t max_macs);

/* Stops a measurement and unlocks the ring; harmless when none runs. */
void kf_eval_cancel(kf_eval_t *e);

#endif
