/* kilofed: a .tflite file in memory, verified once and then read where it lies.
 *
 * A model comes over a link, so it is a message like any other: kf_model_open() checks every offset, count, shape,
 * type, scale and operator parameter it will ever use, and refuses what it cannot compute. Nothing is unpacked: the
 * structure below is a handful of cached positions, and everything else is read from the file when it is needed. The
 * file may lie at any address (no alignment is assumed) and in flash; it must not change while the model is in use.
 *
 * What is accepted: one subgraph with one input and one output, at most KF_MODEL_OPS_MAX operators, all of them in
 * the table of src/nn/op.c, weights constant and int8. Everything else is refused with the
 * operator, the tensor and the reason in `fault`.
 */
#ifndef KILOFED_MODEL_H
#define KILOFED_MODEL_H

#include <stdint.h>

#include "kilofed/status.h"

/* Limits. They bound the time of kf_model_open() (it is quadratic in the operators) and keep sums inside 32 bits. */
#define KF_MODEL_OPS_MAX 256u
#define KF_MODEL_TENSORS_MAX 4096u
#define KF_MODEL_RANK_MAX 5
#define KF_MODEL_INPUTS_MAX 64u       /* of one operator */
#define KF_MODEL_OUTPUTS_MAX 64u      /* of one operator */
#define KF_MODEL_READS_MAX 1024u      /* inputs of all operators together */
#define KF_MODEL_ACTIVATIONS_MAX 512u /* outputs of all operators together, and the model's input */
#define KF_MODEL_TENSOR_BYTES_MAX (1u << 24)
/* Activations (the input, what operators write, and what they keep) that the device can place by itself when the file
 * carries no memory plan. */
#define KF_MODEL_OWN_PLAN_MAX 80u

#define KF_MODEL_NONE 0xFFFFu /* no operator, no tensor */

/* Why a file was refused: the number the device reports; the host has the words. */
typedef enum kf_model_fault {
    KF_FAULT_NONE = 0,
    KF_FAULT_FILE = 1,          /* no "TFL3" identifier, wrong schema version, or larger than 2 GiB */
    KF_FAULT_OFFSET = 2,        /* an offset, vector or table leaves the file */
    KF_FAULT_COUNT = 3,         /* more (or fewer) subgraphs, operators, tensors, inputs, outputs than accepted */
    KF_FAULT_INDEX = 4,         /* an index of a tensor, buffer or operator code that does not exist */
    KF_FAULT_ORDER = 5,         /* an operator reads what nobody wrote before, or writes what is already written */
    KF_FAULT_OPERATOR = 6,      /* an operator that this build does not compute */
    KF_FAULT_TYPE = 7,          /* a tensor type that the operator does not compute */
    KF_FAULT_SHAPE = 8,         /* a shape that is impossible, too large, or does not follow from the operator's inputs */
    KF_FAULT_BUFFER = 9,        /* constant data of the wrong size, outside the file, or absent where it is needed */
    KF_FAULT_QUANTIZATION = 10, /* a scale, zero point or quantized dimension that is absent or out of range */
    KF_FAULT_OPTIONS = 11,      /* operator parameters that are absent, out of range or not computed here */
    KF_FAULT_PLAN = 12          /* no usable memory plan, and too many activations for the device's own planner */
} kf_model_fault_t;

/* The trainable head: the last FULLY_CONNECTED, when it has the form the trainer needs. */
typedef struct kf_model_head {
    uint16_t op;          /* its operator index; KF_MODEL_NONE: the model runs but has no trainable head */
    uint16_t input;       /* tensor of the features */
    uint16_t output;      /* tensor of the logits */
    uint16_t classes;     /* C: rows of the weights, 2..1024 */
    uint16_t features;    /* F: columns of the weights, 1..2048 */
    int16_t x_zp;         /* zero point of the features, -128..127: x = q - x_zp */
    uint32_t x_scale_f32; /* scale of the features, the bits of a positive float32 */
    uint32_t weights_at;  /* file position of the int8 weights [C][F] */
    uint32_t bias_at;     /* file position of the int32 biases [C], little endian, any alignment */
    uint32_t w_scale_f32; /* scale of the weights in the file (zero point 0) */
    uint32_t out_scale_f32;
    int16_t out_zp;
} kf_model_head_t;

typedef struct kf_model {
    /* Set by kf_model_open(); read only for everybody else. */
    const uint8_t *data;
    uint32_t size;
    uint16_t ops, tensors;   /* operators and tensors of the subgraph */
    uint16_t input, output;  /* tensor indices */
    uint32_t input_bytes;    /* int8: one byte a value; float32: four, little endian */
    uint32_t output_bytes;
    uint8_t input_type;      /* TensorType of the schema: 9 int8, 0 float32 */
    uint8_t output_type;
    uint8_t plan_from_file;  /* 2: the plan of the metadata entry kilofed.plan; 1: OfflineMemoryAllocation; 0: the device's own */
    uint8_t states;          /* 1: an operator keeps something from one inference to the next */
    kf_model_head_t head;
    uint32_t arena_bytes;    /* what kf_nn_begin() needs, to the byte; a multiple of 4 */
    uint32_t tensor_bytes;   /* of these, activations and operator scratch (the rest is the own plan's table) */

    /* Positions of vectors inside the file. */
    uint32_t at_tensors, at_ops, at_buffers, at_opcodes, at_plan;
    uint32_t buffers, opcodes;

    /* After a failed open: what is to blame. */
    uint16_t error_op;     /* operator index or KF_MODEL_NONE */
    uint16_t error_tensor; /* tensor index or KF_MODEL_NONE */
    uint8_t fault;         /* kf_model_fault_t */
} kf_model_t;

/* Verify `size` bytes of a .tflite at `data` and fill `m`.
 *
 * Returns KF_OK; KF_ERR_ARG for a null pointer; KF_ERR_MODEL for a malformed file; KF_ERR_UNSUPPORTED for a sound file
 * with something this build does not compute. After a failure `m` holds error_op, error_tensor and fault and must not be
 * run. Never reads outside data[0 .. size), whatever the bytes are; time is bounded by KF_MODEL_OPS_MAX. A model without
 * a trainable head opens (head.op is KF_MODEL_NONE): whoever needs the head asks kf_model_need_head(). */
KF_MUST_CHECK kf_status_t kf_model_open(kf_model_t *m, const uint8_t *data, uint32_t size);

/* KF_OK when the model has a trainable head: last FULLY_CONNECTED, followed by nothing or one SOFTMAX, batch 1, per-tensor
 * int8 weights, a bias, no fused activation, C in 2..1024, F in 1..2048. Else KF_ERR_HEAD: `kilofed convert` brings
 * a model into this form. */
KF_MUST_CHECK kf_status_t kf_model_need_head(const kf_model_t *m);

#endif
