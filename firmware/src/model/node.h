/* One operator of a model, decoded onto the stack.
 *
 * Decoding costs a few hundred instructions and saves the RAM of a table: it is done when the model is opened (where the
 * result is judged) and again whenever a slice of the operator runs (where it can no longer fail).
 * Letters: B batch, H height, W width, C channels, in this order in memory.
 */
#ifndef KF_MODEL_NODE_H
#define KF_MODEL_NODE_H

#include <stdint.h>

#include "flatbuffer.h"
#include "kilofed/model.h"
#include "kilofed/nn.h"
#include "schema.h"

struct kf_op;

/* Inputs that a node decodes at once. An operator may have more (CONCATENATION, SVDF); they are decoded one by one when they
 * are asked for, so that a node stays small. */
enum { KF_NODE_INPUTS = 3 };

typedef struct kf_tensor {
    const uint8_t *constant; /* its bytes in the file; NULL: an activation, which lives in the arena */
    uint32_t elements;       /* product of dims; 1 for a scalar */
    uint32_t bytes;
    uint32_t at_scales;      /* file position of the float32 scales */
    uint32_t at_zero_points; /* of the int64 zero points: as many as scales, or one */
    uint32_t scale_f32;      /* bits of the first scale; 0 without quantization */
    int32_t dims[KF_MODEL_RANK_MAX]; /* each >= 1 */
    uint16_t index;                  /* KF_MODEL_NONE: an absent optional input */
    uint16_t scales;                 /* count; more than one: per channel along `quantized_dimension` */
    int16_t zp;                      /* first zero point: -128..127 for int8, 0 for other types */
    uint8_t rank;                    /* 0..KF_MODEL_RANK_MAX */
    uint8_t type;                    /* KF_TYPE_* */
    uint8_t quantized_dimension;
    uint8_t one_zero_point; /* 1: a single zero point for all scales */
    uint8_t variable;       /* 1: keeps its values from one inference to the next */
} kf_tensor_t;

typedef struct kf_node {
    const kf_model_t *model;
    const struct kf_op *op;
    const kf_head_overlay_t *overlay; /* set on the head only, when its weights come from an overlay */
    uint32_t options;                 /* file position of the options table; 0: absent, defaults hold */
    kf_tensor_t in[KF_NODE_INPUTS]; /* the first ones; the rest: kf_node_input_read() */
    kf_tensor_t out;                /* the first; the rest: kf_node_output_read() */
    uint16_t index;
    uint16_t blame; /* tensor to report when decoding or the check fails */
    uint8_t inputs;  /* 1..KF_MODEL_INPUTS_MAX, trailing absent ones not counted */
    uint8_t outputs; /* 1..KF_MODEL_OUTPUTS_MAX */
    uint8_t state;   /* number of the input that keeps its values between inferences; 0: none */
} kf_node_t;

/* A reader over the model's file. */
static inline kf_fb_t kf_model_reader(const kf_model_t *m) {
    kf_fb_t fb = {m->data, m->size, 0};
    return fb;
}

/* Decode operator `index` (< m->ops). With an overlay, the head's weights scale and output quantization come from it, and
 * so does the input quantization of what follows the head. */
KF_MUST_CHECK kf_model_fault_t kf_node_read(const kf_model_t *m, uint16_t index, const kf_head_overlay_t *overlay,
                                            kf_node_t *node);

/* Decode tensor `index`. */
KF_MUST_CHECK kf_model_fault_t kf_tensor_read(const kf_model_t *m, uint32_t index, kf_tensor_t *t);

/* Decode input `i` (< node->inputs) or output `i` (< node->outputs) of a decoded node. KF_FAULT_INDEX for an input that is
 * left out. Cannot fail for a node that was judged, but for that. */
KF_MUST_CHECK kf_model_fault_t kf_node_input_read(const kf_node_t *node, uint32_t i, kf_tensor_t *t);
KF_MUST_CHECK kf_model_fault_t kf_node_output_read(const kf_node_t *node, uint32_t i, kf_tensor_t *t);

/* The tensors that an operator reads or writes, by number: the graph without the tensors, for questions of order and
 * lifetime. `at` is 0 for a damaged list. */
typedef struct kf_list {
    uint32_t at;    /* file position of the tensor numbers, 4 bytes each */
    uint32_t count;
} kf_list_t;

kf_list_t kf_node_inputs(const kf_model_t *m, uint32_t op);
kf_list_t kf_node_outputs(const kf_model_t *m, uint32_t op);

/* Tensor number `i` of a list, or KF_MODEL_NONE when the list has no such entry or no such tensor exists. */
uint16_t kf_list_tensor(const kf_model_t *m, kf_list_t list, uint32_t i);

/* How often operator `op` reads or writes a tensor that exists. */
uint32_t kf_node_reads(const kf_model_t *m, uint32_t op, uint16_t tensor);
uint32_t kf_node_writes(const kf_model_t *m, uint32_t op, uint16_t tensor);

/* The tensor that operator `op` keeps from one inference to the next, or KF_MODEL_NONE. */
uint16_t kf_node_state(const kf_model_t *m, uint32_t op);

/* The status that a fault means to the caller of kf_model_open(). */
kf_status_t kf_fault_status(kf_model_fault_t fault);

#endif
