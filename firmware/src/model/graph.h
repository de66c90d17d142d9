/* Order, lifetimes and places of the activations of an opened (or being opened) model.
 *
 * Time runs over operators: operator k reads and writes at time k. The model's input is written at time -1. An activation
 * is alive from the time it is written to its last reading; the model's output to time `ops`.
 * No table is kept: every question is answered by walking the operators, which costs flash reads instead of RAM.
 */
#ifndef KF_MODEL_GRAPH_H
#define KF_MODEL_GRAPH_H

#include <stdint.h>

#include "node.h"

/* When `tensor` is written: -1 for the model's input, the operator's index, or m->ops when nobody writes it. Only operators
 * below `before` are asked. */
int32_t kf_graph_written(const kf_model_t *m, uint16_t tensor, uint32_t before);

/* When `tensor` is read last: an operator's index, m->ops for the model's output, or `written` when nobody reads it. */
int32_t kf_graph_last_read(const kf_model_t *m, uint16_t tensor, int32_t written);

/* The activation written at time `time` (-1 .. ops-1). */
uint16_t kf_graph_tensor_at(const kf_model_t *m, int32_t time);

/* Where activations lie. With a plan from the file `own` is not used; otherwise own[time + 1] is the offset of the
 * activation written at `time`, in units of 4 bytes. */
uint32_t kf_plan_offset(const kf_model_t *m, const uint16_t *own, uint16_t tensor);

/* KF_FAULT_NONE when the file's plan (m->at_plan) places every activation, and no two that are alive together overlap.
 * One case of overlap is allowed: the output of an operator at exactly the place of an input that dies there, where the
 * operator can work in place. */
KF_MUST_CHECK kf_model_fault_t kf_plan_check(const kf_model_t *m);

/* The device's own plan: largest activation first (the earlier one of two equals), each at the lowest free place that is a
 * multiple of 4. Fills own[0 .. ops]. KF_FAULT_PLAN when a place does not fit the table. */
KF_MUST_CHECK kf_model_fault_t kf_plan_make(const kf_model_t *m, uint16_t own[KF_MODEL_OWN_PLAN_MAX]);

/* First byte behind all activations. */
uint32_t kf_plan_end(const kf_model_t *m, const uint16_t *own);

/* Lowest multiple of 4 at which `bytes` bytes are free while operator `op` runs. */
uint32_t kf_plan_gap(const kf_model_t *m, const uint16_t *own, uint16_t op, uint32_t bytes);

#endif
