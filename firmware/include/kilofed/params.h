/* kilofed: the head's parameters, and the two blobs that carry them.
 *
 * The head is the last FULLY_CONNECTED of a model: C classes x F features and C biases. It exists in three forms:
 *
 *   master   int32 weights [C][F] in units of 2^-20/s_x and int32 biases [C] in units of 2^-20 (kf_params_t): what the
 *            trainer moves. s_x is the scale of the int8 features, which no device needs to know.
 *   head     a blob, host to device: integers that times a step S give the master's units (kf_head_view_t).
 *   update   a blob, device to host: the change of the master that training made, quantised with error feedback.
 *
 * Both blobs are little-endian, are read and written by the byte (any alignment), and are trusted in nothing: parsing
 * checks every field against the length before a byte is used.
 *
 *   head     0 u8 version 1 | 1 u8 kind 1 | 2 u8 codec | 3 i8 out_zp | 4 u16 C | 6 u16 F | 8 u32 step S | 12 f32 out_scale
 *            16 weights [C][F] in the codec | zeros to a multiple of 4 | i32 bias [C], units of S * 2^-20
 *   update   0 u8 version 1 | 1 u8 kind 2 | 2 u8 codec | 3 u8 0 | 4 u16 C | 6 u16 F | 8 u32 step_w | 12 u32 step_b
 *            16 weights [C][F] in the codec | bias [C]: i32 with codec int32, else i8
 *
 * Nothing here allocates, keeps hidden state, or touches a float as a number. No call may run in an ISR while another
 * uses the same memory. TRAINING.md has the arithmetic and its reasons.
 */
#ifndef KILOFED_PARAMS_H
#define KILOFED_PARAMS_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/status.h"

/* ---- limits ---------------------------------------------------------------------------------------------------- */

#define KF_MAX_CLASSES 1024
#define KF_MAX_FEATURES 2048

/* Largest magnitude of a master weight: (W + 128) >> 8 then stays inside int16 without a clip, on both sides. */
#define KF_WEIGHT_MAX ((INT32_C(1) << 23) - 129)
/* Largest magnitude of a master bias: 1024 nats. */
#define KF_BIAS_MAX (INT32_C(1) << 30)
/* Largest step S of a head: no master weight needs more, and 128 * S then fits int32. */
#define KF_HEAD_STEP_MAX (UINT32_C(1) << 23)

#define KF_BLOB_VERSION 1
#define KF_BLOB_HEADER_BYTES 16

/* How the weights of a blob are packed. int4: two's complement nibbles, the low one first, over the whole C*F array; an
 * odd tail leaves the high nibble 0. Ternary: five trits a byte, sum of (t_i + 1) * 3^i; trits of the tail are 0. */
typedef enum kf_codec {
    KF_CODEC_INT32 = 0,
    KF_CODEC_INT8 = 1,
    KF_CODEC_INT4 = 2,
    KF_CODEC_TERNARY = 3 /* updates only */
} kf_codec_t;

/* ---- the master ------------------------------------------------------------------------------------------------ */

/* The trainer's parameters, in memory the caller owns and keeps alive. */
typedef struct kf_params {
    int32_t *weights;  /* [classes][features], |w| <= KF_WEIGHT_MAX */
    int32_t *bias;     /* [classes], |b| <= KF_BIAS_MAX */
    uint16_t classes;  /* 1 .. KF_MAX_CLASSES */
    uint16_t features; /* 1 .. KF_MAX_FEATURES */
} kf_params_t;

/* Bytes of a master; 0 when a count is outside its limit. */
size_t kf_params_bytes(uint16_t classes, uint16_t features);

/* Place a master in `mem` (aligned to 4) and set it to zero. `mem` must outlive `params`.
 * KF_ERR_ARG: a null pointer, a count outside its limit, `mem` not aligned. KF_ERR_MEMORY: less than kf_params_bytes. */
KF_MUST_CHECK kf_status_t kf_params_init(kf_params_t *params, uint16_t classes, uint16_t features, void *mem,
                                         size_t mem_bytes);

/* ---- the head blob --------------------------------------------------------------------------------------------- */

/* A checked head blob. The pointers go into the blob, which must stay where it is, unchanged, while the view is used. */
typedef struct kf_head_view {
    const uint8_t *weights;  /* packed in `codec` */
    const uint8_t *bias;     /* little-endian int32 [classes], units of step * 2^-20, any alignment */
    uint32_t step;           /* S, 1 .. KF_HEAD_STEP_MAX, units of 2^-20/s_x */
    uint32_t out_scale_bits; /* IEEE 754 binary32 of the logits' scale: positive, normal */
    uint16_t classes;
    uint16_t features;
    uint8_t codec; /* kf_codec_t, never KF_CODEC_TERNARY */
    int8_t out_zp; /* zero point of the int8 logits */
} kf_head_view_t;

/* Bytes of a head blob; 0 for a count outside its limit or a codec that heads do not have. */
size_t kf_head_bytes(kf_codec_t codec, uint16_t classes, uint16_t features);

/* Check a head blob of `blob_bytes` bytes whole and set `view` to it.
 * KF_ERR_BLOB, and `view` all zero: wrong version, kind, codec or length, a count or the step outside its limit, an
 * out_scale that is not a positive normal number, padding that is not zero. */
KF_MUST_CHECK kf_status_t kf_head_parse(kf_head_view_t *view, const uint8_t *blob, size_t blob_bytes);

/* Weight (c, f) = q * S and bias c = bq * S of the head in the master's units, saturated to KF_WEIGHT_MAX and
 * KF_BIAS_MAX. (Rounding a master up to a multiple of S may pass the limit by less than S.) c < classes, f < features. */
int32_t kf_head_weight(const kf_head_view_t *view, uint32_t c, uint32_t f);
int32_t kf_head_bias(const kf_head_view_t *view, uint32_t c);

/* Set the master to the head: where a round starts. KF_ERR_SHAPE when classes or features differ. */
KF_MUST_CHECK kf_status_t kf_head_load(const kf_head_view_t *view, kf_params_t *params);

/* The head's weights as int8 [classes][features], for an inference overlay: int4 is expanded, int8 copied.
 * KF_ERR_UNSUPPORTED for int32 (make it int8 with kf_head_load and kf_head_encode). KF_ERR_MEMORY: less than
 * classes * features bytes. */
KF_MUST_CHECK kf_status_t kf_head_expand(const kf_head_view_t *view, int8_t *weights, size_t weights_bytes);

/* Write the master as an int8 head blob of kf_head_bytes(KF_CODEC_INT8, ...) bytes: the personal head.
 * S = max(1, ceil(max|W| / 127)), q = floor((2W + S) / (2S)), bq = floor((2b + S) / (2S)).
 * `peak_q12` is the largest |logit| seen, in 2^-12 (kf_train_t reports one): out_zp is 0 and out_scale the smallest power of
 * two, from 2^-12 on, with 127 * out_scale >= 1.25 * peak. KF_ERR_MEMORY: `blob_bytes` too small. */
KF_MUST_CHECK kf_status_t kf_head_encode(const kf_params_t *params, uint32_t peak_q12, uint8_t *blob, size_t blob_bytes);

/* ---- the update blob ------------------------------------------------------------------------------------------- */

/* What quantising left unsent, fed into the next update (error feedback; Seide et al. 2014). The memory is one block, so
 * a device that wants to keep it over a reset stores kf_residual_bytes bytes from `bias` on. */
typedef struct kf_residual {
    int32_t *bias;    /* [classes] */
    int16_t *weights; /* [classes][features], saturating */
    uint16_t classes;
    uint16_t features;
} kf_residual_t;

/* Bytes of a residual; 0 when a count is outside its limit. */
size_t kf_residual_bytes(uint16_t classes, uint16_t features);

/* Place a residual in `mem` (aligned to 4), leaving its content as it is; kf_residual_clear sets it to zero, which is
 * where a device starts and what a new backbone or label list demands. Errors as kf_params_init. */
KF_MUST_CHECK kf_status_t kf_residual_init(kf_residual_t *residual, uint16_t classes, uint16_t features, void *mem,
                                           size_t mem_bytes);
void kf_residual_clear(kf_residual_t *residual);

/* Bytes of an update blob; 0 for a count outside its limit or an unknown codec. */
size_t kf_update_bytes(kf_codec_t codec, uint16_t classes, uint16_t features);

/* An encoder at work. Fields are private. `params`, `base`, `residual` and `blob` must outlive it and stay unchanged. */
typedef struct kf_update {
    const kf_params_t *params;
    const kf_head_view_t *base;
    const kf_residual_t *residual;
    uint8_t *blob;
    uint64_t sum;    /* ternary: sum of |v| in the scan under way */
    uint32_t largest;  /* max |v| */
    uint32_t count;    /* ternary: terms of `sum` above the threshold */
    uint32_t threshold;
    uint32_t step_w;
    uint32_t index;    /* next weight of the phase under way */
    uint8_t codec;
    uint8_t phase;
} kf_update_t;

/* Begin encoding v = master - base + residual (`residual` may be NULL: zero) into `blob`, which needs
 * kf_update_bytes(codec, ...) bytes. Nothing but `blob` is written: the residual changes in kf_update_accept.
 * KF_ERR_ARG: a null pointer or an unknown codec. KF_ERR_SHAPE: master, base and residual differ in size.
 * KF_ERR_MEMORY: `blob_bytes` too small. */
KF_MUST_CHECK kf_status_t kf_update_begin(kf_update_t *u, kf_codec_t codec, const kf_params_t *params,
                                          const kf_head_view_t *base, const kf_residual_t *residual, uint8_t *blob,
                                          size_t blob_bytes);

/* Encode on, for about `max_weights` weights (each is looked at two or three times; at least one byte is made).
 * KF_MORE: call again. KF_OK: the blob is complete. KF_ERR_STATE: never begun. */
KF_MUST_CHECK kf_status_t kf_update_step(kf_update_t *u, uint32_t max_weights);

/* Begin and step to the end in one call. */
KF_MUST_CHECK kf_status_t kf_update_encode(kf_codec_t codec, const kf_params_t *params, const kf_head_view_t *base,
                                           const kf_residual_t *residual, uint8_t *blob, size_t blob_bytes);

/* The host has taken the update: residual := v - q * step, from the same master, base and blob as at encoding (the residual
 * is recomputed rather than kept beside the old one, which would double its memory). Call it once for an accepted update
 * and never for a refused or lost one; then the unsent part is neither dropped nor sent twice.
 * KF_ERR_BLOB: not an update blob of this size, and the residual is unchanged. KF_ERR_SHAPE as above. */
KF_MUST_CHECK kf_status_t kf_update_accept(const kf_params_t *params, const kf_head_view_t *base, kf_residual_t *residual,
                                           const uint8_t *blob, size_t blob_bytes);

#endif
