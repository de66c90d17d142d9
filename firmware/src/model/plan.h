/* The memory plan: where activations and scratch lie in the arena.
 *
 * Activations that are alive together do not overlap, with two exceptions, both between the first output of an operator and an
 * input that dies there: where the operator can work in place, the output may lie exactly where the input lies; and in a plan
 * of our own format, so far below the input that nothing is overwritten that is still to be read (stream.h). What is alive while
 * one operator of a group runs is alive while all of it run. An operator's scratch, and that of a whole group, lies where nothing
 * is alive. The host computes the same (tools/kilofed_tools/layout.py); a test compares the two.
 */
#ifndef KF_MODEL_PLAN_H
#define KF_MODEL_PLAN_H

#include "stream.h"

/* kf_model_t's plan_from_file. */
enum {
    KF_PLAN_OWN = 0,      /* a table at the end of the arena: one uint16_t an activation, in units of 4 bytes */
    KF_PLAN_STANDARD = 1, /* m->at_plan: the offsets in "OfflineMemoryAllocation", int32 each */
    KF_PLAN_KILOFED = 2   /* m->at_plan: the entry "kilofed.plan" */
};

/* "kilofed.plan": u8 version 1, u8 shift (places are multiples of 2^shift), u16 place of the model's input, u16 first tensor, u16
 * count of tensors, u16 place of each (0xFFFF: none), u16 place of the scratch of each operator (of a group: that of its first one
 * holds), then to the end of the entry the groups: u16 first operator, u8 operators, and of each operator u8 step, u8 ahead, u8
 * ring (stream.h). */
enum { KF_PLAN_HEAD_BYTES = 8, KF_PLAN_VERSION = 1, KF_PLAN_SHIFT_MIN = 2, KF_PLAN_SHIFT_MAX = 15 };

/* Bytes of the own plan's table, rounded up to 4. */
uint32_t kf_plan_table_bytes(const kf_model_t *m);

/* Where an activation lies. With a plan from the file `own` is not used. */
uint32_t kf_plan_offset(const kf_model_t *m, const uint16_t *own, uint16_t tensor);

/* Find the file's plan: sets m->at_plan and m->plan_from_file, KF_PLAN_OWN when there is none that is whole. */
void kf_plan_find(kf_model_t *m);

/* KF_FAULT_NONE when the file's plan holds, as far as activations go: each has a place, groups are sound, and nothing is
 * overwritten before it is read. */
KF_MUST_CHECK kf_model_fault_t kf_plan_check(const kf_model_t *m);

/* The device's own plan: largest activation first (the earlier one of two equals), each at the lowest free place that is a
 * multiple of 4. Fills own[0 .. count - 1]. KF_FAULT_PLAN when a place does not fit the table. */
KF_MUST_CHECK kf_model_fault_t kf_plan_make(const kf_model_t *m, uint16_t own[KF_MODEL_OWN_PLAN_MAX]);

/* First byte behind all activations. */
uint32_t kf_plan_end(const kf_model_t *m, const uint16_t *own);

/* Where the `bytes` (1 at least) of a group's scratch lie: where a plan of our own format says, else in the lowest gap while the
 * group runs; and whether nothing alive lies there. */
uint32_t kf_plan_scratch(const kf_model_t *m, const uint16_t *own, const kf_group_t *g, uint32_t bytes);
int kf_plan_scratch_holds(const kf_model_t *m, const kf_group_t *g, uint32_t bytes);

#endif
