/* Groups: runs of operators that go through images row by row, in turns, so that what lies between them never exists whole.
 *
 * A group runs in steps. In each, its operators run in their order, each up to a number of rows that a rule gives: after step r
 * min(rows, r * step + ahead) rows of its output are written. The last operator's output is whole. An output that only the
 * group reads may be a ring: row y lies at place y modulo `ring`, over a row that nobody reads any more.
 *
 * Groups come from the file, made by the host's planner (tools/kilofed_tools/streams.py). They are data, and judged when the
 * model is opened: no row is read before it is written or after it is overwritten, whatever the numbers are.
 */
#ifndef KF_MODEL_STREAM_H
#define KF_MODEL_STREAM_H

#include <stdint.h>

#include "../nn/op.h"

/* Rows of an image in a group, or of one that overlaps its input; operators of a group, and groups: they bound the time of the
 * judgement. */
enum { KF_PLAN_ROWS_MAX = 1024, KF_PLAN_GROUP_MAX = 32, KF_PLAN_GROUPS_MAX = 32 };

/* Operators first .. last. An operator that is in no group is a group of its own: one row of output a step. */
typedef struct kf_group {
    uint32_t rules; /* file position of three bytes an operator: step, ahead, ring; 0: of its own */
    uint16_t first, last;
} kf_group_t;

typedef struct kf_rule {
    uint8_t step, ahead, ring;
} kf_rule_t;

/* The group of operator `op`. */
kf_group_t kf_group_of(const kf_model_t *m, uint32_t op);

kf_rule_t kf_group_rule(const kf_model_t *m, const kf_group_t *g, uint32_t op);

/* Of `rows`, those written after step `step` - 1, that is in the first `step` steps. */
static inline int32_t kf_rule_rows(const kf_rule_t *rule, int32_t step, int32_t rows) {
    if (step == 0) {
        return 0;
    }
    uint32_t done = ((uint32_t)step - 1u) * rule->step + rule->ahead; /* below 2^32: a rule is three bytes, or 1, 1, 0 */
    return done < (uint32_t)rows ? (int32_t)done : rows;
}

/* Rows that the place of `tensor` has while operators of its group write and read it; 0: all. */
uint8_t kf_group_ring(const kf_model_t *m, const kf_group_t *g, uint16_t tensor);

/* Bytes of scratch of operators first .. last, one behind the other, each rounded up to 4. */
uint32_t kf_group_scratch(const kf_model_t *m, const kf_group_t *g);

/* 1 when all groups of the file's plan are sound. */
int kf_groups_check(const kf_model_t *m);

/* 1 when the output of the group's last operator may begin `below` bytes below `tensor`, which is read for the last time by this
 * group, and written before it: nothing is overwritten that is still to be read. */
int kf_group_clears(const kf_model_t *m, const kf_group_t *g, uint16_t tensor, int32_t below);

#endif
