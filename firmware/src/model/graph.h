/* Order, lifetimes and places of the activations of an opened (or being opened) model.
 *
 * Time runs over operators: operator k reads and writes at time k. The model's input is written at time -1. An activation
 * is alive from the time it is written to its last reading; the model's output to time `ops`. What an operator keeps
 * between inferences, its state, is alive all the time.
 * No table is kept: every question is answered by walking the operators, which costs flash reads instead of RAM.
 */
#ifndef KF_MODEL_GRAPH_H
#define KF_MODEL_GRAPH_H

#include <stdint.h>

#include "node.h"

/* A walk over all activations, in the order of the own plan's table: the model's input; then, operator by operator, what it
 * writes, in order, and its state. */
typedef struct kf_activation {
    int32_t time;    /* of the operator it belongs to; -1: the model's input */
    uint32_t slot;   /* which of the operator's outputs; the state comes behind them */
    uint32_t number; /* 0, 1, ... */
    uint16_t tensor;
    uint8_t state; /* 1: kept between inferences */
} kf_activation_t;

kf_activation_t kf_graph_first(const kf_model_t *m);

/* Go on to the next activation; 0 behind the last. */
int kf_graph_next(const kf_model_t *m, kf_activation_t *a);

/* How many there are. */
uint32_t kf_graph_count(const kf_model_t *m);

/* When it is written first, and read last. */
int32_t kf_graph_from(const kf_activation_t *a);
int32_t kf_graph_to(const kf_model_t *m, const kf_activation_t *a);

/* When `tensor` is written: -1 for the model's input, the operator's index, or m->ops when nobody writes it. Only operators
 * below `before` are asked. */
int32_t kf_graph_written(const kf_model_t *m, uint16_t tensor, uint32_t before);

/* Bytes of the own plan's table at the end of the arena: one uint16_t an activation, rounded up to 4. */
uint32_t kf_plan_table_bytes(const kf_model_t *m);

/* Where activations lie. With a plan from the file `own` is not used; otherwise own[number] is the offset of an
 * activation in units of 4 bytes. */
uint32_t kf_plan_offset(const kf_model_t *m, const uint16_t *own, uint16_t tensor);

/* KF_FAULT_NONE when the file's plan (m->at_plan) places every activation, and no two that are alive together overlap.
 * One case of overlap is allowed: the first output of an operator at exactly the place of an input that dies there, where
 * the operator can work in place. */
KF_MUST_CHECK kf_model_fault_t kf_plan_check(const kf_model_t *m);

/* The device's own plan: largest activation first (the earlier one of two equals), each at the lowest free place that is a
 * multiple of 4. Fills own[0 .. count - 1]. KF_FAULT_PLAN when a place does not fit the table. */
KF_MUST_CHECK kf_model_fault_t kf_plan_make(const kf_model_t *m, uint16_t own[KF_MODEL_OWN_PLAN_MAX]);

/* First byte behind all activations. */
uint32_t kf_plan_end(const kf_model_t *m, const uint16_t *own);

/* Lowest multiple of 4 at which `bytes` bytes are free while operator `op` runs. */
uint32_t kf_plan_gap(const kf_model_t *m, const uint16_t *own, uint16_t op, uint32_t bytes);

#endif
