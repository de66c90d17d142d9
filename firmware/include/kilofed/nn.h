/* kilofed: int8 inference over an opened model, in slices, in memory the caller owns.
 *
 * Results equal TFLite Micro's reference kernels byte for byte (tests/firmware/engine compares them). No floating point
 * is used, not even in software: scales are read as the bits of a float32 and multipliers are prepared in integers.
 *
 *     kf_nn_t nn;
 *     status = kf_nn_begin(&nn, &model, arena, sizeof arena, NULL);
 *     memcpy(kf_nn_input(&nn), sample, model.input_bytes);
 *     while ((status = kf_nn_step(&nn, 20000)) == KF_MORE) { other_work(); }
 *     if (status == KF_OK) { use(kf_nn_output(&nn)); }
 *
 * A kf_nn_t serves one inference after another: kf_nn_restart() (cheap) makes it ready for the next input. The arena
 * is one block for input, output, activations and operator scratch; the memory of the input is reused during the
 * run, so every inference writes its input anew. What an operator keeps (the state of an SVDF) is cleared by kf_nn_begin() and
 * goes on from one inference to the next, as in the reference.
 */
#ifndef KILOFED_NN_H
#define KILOFED_NN_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/model.h"
#include "kilofed/status.h"

/* A head that replaces the one in the file (the file stays in flash, the head moves). Everything pointed to must live
 * as long as the kf_nn_t that uses it; contents may change between inferences, not during one. */
typedef struct kf_head_overlay {
    const int8_t *weights;  /* [C][F], zero point 0 */
    const int32_t *bias;    /* [C], in units of float32(x_scale * w_scale) */
    uint32_t w_scale_f32;   /* bits of a positive float32 */
    uint32_t out_scale_f32; /* scale of the logits; a SOFTMAX behind the head takes it over */
    int32_t out_zp;         /* zero point of the logits, -128..127 */
} kf_head_overlay_t;

/* One interpreter: 28 bytes on a 32-bit core. Private to src/nn; complete so that it can be placed. */
typedef struct kf_nn {
    const kf_model_t *model;
    uint8_t *arena;
    const kf_head_overlay_t *overlay;
    uint32_t scratch;  /* arena offset of the scratch of the current operator, or of the group that it runs in */
    uint32_t slice;    /* next slice of the current operator, or step of its group */
    uint16_t op;       /* current operator */
    uint16_t stop;     /* run until this operator is next */
    uint16_t before;   /* scratch of the group's operators before the current one, in units of 4 bytes */
    uint8_t ready;     /* 1 between begin and the first failure */
} kf_nn_t;

/* Bytes kf_nn_begin() needs, exactly; the same number as m->arena_bytes and as kilofed_tools.plan computes. */
size_t kf_nn_arena_bytes(const kf_model_t *m);

/* Whether an opened model runs with this overlay: KF_OK, or KF_ERR_HEAD as kf_nn_begin() would say. For heads from
 * outside, before anything relies on them. KF_ERR_ARG for a null pointer. */
KF_MUST_CHECK kf_status_t kf_nn_check_overlay(const kf_model_t *m, const kf_head_overlay_t *overlay);

/* Make `nn` ready to run `m` in `arena` to the end of the model. `arena` must be aligned to 4 bytes and, like `m` and
 * `overlay`, must outlive `nn`. overlay NULL: the head in the file.
 * Returns KF_OK; KF_ERR_ARG (null pointer, misaligned arena, model not opened); KF_ERR_MEMORY (see kf_nn_arena_bytes());
 * KF_ERR_HEAD (an overlay for a model without a head, or with a scale or zero point that cannot be). */
KF_MUST_CHECK kf_status_t kf_nn_begin(kf_nn_t *nn, const kf_model_t *m, uint8_t *arena, size_t arena_bytes,
                                      const kf_head_overlay_t *overlay);

/* Stop when the features are ready, before the head. Call after begin or restart, before the first step.
 * KF_ERR_HEAD when the model has no trainable head; KF_ERR_STATE before kf_nn_begin(). */
KF_MUST_CHECK kf_status_t kf_nn_stop_at_features(kf_nn_t *nn);

/* Ready for the next input, running to the end of the model again. Keeps arena, model and overlay. */
void kf_nn_restart(kf_nn_t *nn);

/* Go on from features to the end of the model: the features are still in place. */
void kf_nn_continue(kf_nn_t *nn);

/* Where the caller writes model->input_bytes of input before the first step. NULL before kf_nn_begin(). */
int8_t *kf_nn_input(kf_nn_t *nn);

/* Run a slice of about `max_macs` multiply-accumulates (0 counts as 1): at least one row of one operator, and not more
 * than one row beyond the budget; of operators that the plan lets run in turns, the rows of one turn. KF_MORE: call again. KF_OK: the wanted stop is reached, and every further call
 * returns KF_OK at once. KF_ERR_STATE before kf_nn_begin(). */
KF_MUST_CHECK kf_status_t kf_nn_step(kf_nn_t *nn, uint32_t max_macs);

/* int8 features [F], valid when a run with kf_nn_stop_at_features() returned KF_OK, until the next kf_nn_continue(),
 * kf_nn_restart() input or step. NULL when the model has no head. */
const int8_t *kf_nn_features(const kf_nn_t *nn);

/* model->output_bytes of output, valid when a run to the end returned KF_OK, until the next input is written. */
const int8_t *kf_nn_output(const kf_nn_t *nn);

/* Multiply-accumulates of one inference as kf_nn_step() counts them (stop 1: up to the features): for progress
 * displays and for budgets. Fills no memory; reads the model only. */
uint32_t kf_nn_macs(const kf_model_t *m, int to_features);

#endif
