/* Order and lifetimes of the activations of an opened (or being opened) model.
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

#endif
