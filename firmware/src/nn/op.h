/* What an operator is to the interpreter, and the table of all of them.
 *
 * A new operator is one C file with a kf_op_t, and one line in ops.def.
 */
#ifndef KF_NN_OP_H
#define KF_NN_OP_H

#include <stdint.h>

#include "../model/node.h"

/* Small leaves that must not be inlined: inner loops, which want all registers, and functions with a node on the stack, which
 * must not add up. */
#define KF_NOINLINE __attribute__((noinline))

/* a / b and a modulo b for a >= 0 and b > 0: as unsigned numbers. Cores without a division then link one instead of two. */
static inline int32_t kf_quotient(int32_t a, int32_t b) {
    return (int32_t)((uint32_t)a / (uint32_t)b);
}

static inline int32_t kf_remainder(int32_t a, int32_t b) {
    return (int32_t)((uint32_t)a % (uint32_t)b);
}

/* How an operator goes through its inputs while it writes its first output from the first byte to the last. */
typedef enum kf_pace {
    KF_PACE_NONE = 0, /* in no such order */
    KF_PACE_ROWS,     /* by rows alone: all that output row y is made of is read before row y + 1 is written */
    KF_PACE_PIXELS,   /* and pixel n of the input is read before pixel n of the output is written, and not after it */
    KF_PACE_WINDOWS,  /* and no value before value n is read once value n of the output is written */
    KF_PACE_VALUES    /* and value n is made of value n of each input, all of one shape: a row may be handed over alone */
} kf_pace_t;

/* The rows, of images of rank 4 with one batch: output row y is made of input rows y * stride - pad to y * stride - pad + reach - 1,
 * as far as there are such rows. reach 0: there are no rows. */
typedef struct kf_walk {
    int32_t reach, pad;
    uint16_t stride;
    uint8_t pace;   /* kf_pace_t */
    uint8_t inputs; /* bit i: of input i. The operator reads no other activation. */
} kf_walk_t;

/* Whether input i is gone through so. */
static inline int kf_walks(const kf_walk_t *walk, uint32_t i) {
    return i < 8 && ((uint32_t)walk->inputs & (1u << i)) != 0;
}

/* How an operator's work is cut, slices of equal cost, run in order from 0; and what it needs beside its tensors. */
typedef struct kf_work {
    uint32_t slices;
    uint32_t macs;          /* of one slice; other work is counted at about its price in multiply-accumulates */
    uint32_t scratch_bytes; /* in the arena while the operator runs, aligned to 4, kept between its slices */
    uint32_t in_place;      /* bit i: the output may lie exactly where input i lies, when that input is not read later */
    kf_walk_t walk;
} kf_work_t;

/* Where the tensors of a running operator lie. */
typedef struct kf_io {
    const uint8_t *in[KF_NODE_INPUTS]; /* the first ones; NULL for an absent input */
    uint8_t *out;  /* the first */
    void *scratch; /* aligned to 4 */
    uint8_t *arena;
    const uint16_t *own; /* the own plan's table, NULL when the file has a plan */
    uint8_t in_rings[KF_NODE_INPUTS], out_ring; /* rows that the places of inputs and output have: kf_ring_row() */
} kf_io_t;

/* Where row y of an image lies whose place has `ring` rows; 0: all of them. */
static inline int32_t kf_ring_row(int32_t y, uint32_t ring) {
    return ring == 0 ? y : (int32_t)((uint32_t)y % ring);
}

typedef struct kf_op {
    uint8_t code;         /* KF_BUILTIN_* */
    uint8_t options_type; /* the options table it reads, KF_OPTIONS_NONE when it reads none */

    /* Judge the node: everything that work() and run() rely on. Called with a decoded node whose tensors have sane shapes
     * and whose constants have their full size. May set node->blame. */
    kf_model_fault_t (*check)(kf_node_t *node);

    /* Fill `work`, which comes zeroed. The node passed check(); so it did for run(). */
    void (*work)(const kf_node_t *node, kf_work_t *work);

    /* Compute slices [first, first + count). Slice 0 comes first and may prepare scratch for the rest. */
    void (*run)(const kf_node_t *node, const kf_io_t *io, uint32_t first, uint32_t count);
} kf_op_t;

/* A line of the table in op.c: an operator, and how many tensors it may have. What is within these limits is decoded and
 * brought into order before its check() sees it. */
typedef struct kf_op_line {
    const kf_op_t *op;
    uint8_t inputs, outputs; /* at most: up to KF_MODEL_INPUTS_MAX and KF_MODEL_OUTPUTS_MAX */
    uint8_t state;           /* number of the input that is kept between inferences, KF_NODE_INPUTS at least; 0: none */
} kf_op_line_t;

/* The operator with a builtin code, or NULL. */
const kf_op_line_t *kf_op_find(uint32_t code);

/* Where input `i`, output `i` or the state of a running operator lies, whatever its number; the tensor is decoded into `t`. For
 * operators with many of them: io->in and io->out have the first ones at hand. NULL for an input that is left out. */
const uint8_t *kf_io_input(const kf_node_t *node, const kf_io_t *io, uint32_t i, kf_tensor_t *t);
uint8_t *kf_io_state(const kf_node_t *node, const kf_io_t *io);
uint8_t *kf_io_output(const kf_node_t *node, const kf_io_t *io, uint32_t i, kf_tensor_t *t);

/* Decode operator `op` of an opened model and say how its work is cut. */
KF_MUST_CHECK kf_model_fault_t kf_op_work(const kf_model_t *m, uint16_t op, const kf_head_overlay_t *overlay, kf_node_t *node,
                                          kf_work_t *work);

#define KF_OP(builtin, name, inputs, outputs, state) extern const kf_op_t kf_op_##name;
#include "ops.def"
#undef KF_OP

#endif
