#include "stream.h"

#include <stddef.h>

#include "../bytes.h"
#include "graph.h"
#include "plan.h"

enum { GROUP_BYTES = 3, RULE_BYTES = 3, SCRATCH_MAX = 4 * 0xFFFF };

/* The groups of the plan, one by one. `at`: file position of the next one, `end` behind the last. */
typedef struct groups {
    uint32_t at, end;
} groups_t;

static groups_t groups_of(const kf_model_t *m) {
    groups_t all = {0, 0};
    if (m->plan_from_file == KF_PLAN_KILOFED) {
        all.at = m->at_plan + KF_PLAN_HEAD_BYTES + 2u * (kf_get_u16(m->data + m->at_plan + 6) + (uint32_t)m->ops);
        all.end = m->at_plan + kf_get_u32(m->data + m->at_plan - 4);
    }
    return all;
}

/* 1 and the next group; 0 at the end, or where the plan is cut off: then `at` is not `end`. */
static int next_group(const kf_model_t *m, groups_t *all, kf_group_t *g) {
    if (all->end - all->at < GROUP_BYTES) {
        return 0;
    }
    const uint8_t *group = m->data + all->at;
    uint32_t bytes = GROUP_BYTES + RULE_BYTES * (uint32_t)group[2];
    uint32_t last = (uint32_t)kf_get_u16(group) + group[2] - 1u;
    if (all->end - all->at < bytes || group[2] == 0 || last >= m->ops) {
        return 0;
    }
    g->rules = all->at + GROUP_BYTES;
    g->first = kf_get_u16(group);
    g->last = (uint16_t)last;
    all->at += bytes;
    return 1;
}

kf_group_t kf_group_of(const kf_model_t *m, uint32_t op) {
    groups_t all = groups_of(m);
    kf_group_t g;
    while (next_group(m, &all, &g)) {
        if (g.first <= op && op <= g.last) {
            return g;
        }
    }
    g.rules = 0;
    g.first = (uint16_t)op;
    g.last = (uint16_t)op;
    return g;
}

kf_rule_t kf_group_rule(const kf_model_t *m, const kf_group_t *g, uint32_t op) {
    kf_rule_t rule = {1, 1, 0};
    if (g->rules != 0) {
        const uint8_t *at = m->data + g->rules + RULE_BYTES * (op - g->first);
        rule.step = at[0];
        rule.ahead = at[1];
        rule.ring = at[2];
    }
    return rule;
}

uint8_t kf_group_ring(const kf_model_t *m, const kf_group_t *g, uint16_t tensor) {
    int32_t writer = g->rules == 0 ? -1 : kf_graph_written(m, tensor, (uint32_t)g->last + 1u);
    return writer < (int32_t)g->first || writer > (int32_t)g->last ? 0 : kf_group_rule(m, g, (uint32_t)writer).ring;
}

/* An operator by rows, and the images that it goes through: of rank 4, else without rows. */
typedef struct lane {
    kf_work_t work;
    int32_t rows, row;       /* of the first output: how many, and bytes of each */
    int32_t in_rows, in_row; /* of input 0 */
    int32_t width;           /* pixels of a row of the output */
    int sound; /* 1: it goes by rows, is not too large, writes one tensor and reads no activation in another way */
} lane_t;

static int32_t row_of(const kf_tensor_t *t) {
    return t->rank == 4 ? t->dims[2] * t->dims[3] : 0;
}

/* A node is big: it leaves the stack here. */
static KF_NOINLINE void read_lane(const kf_model_t *m, uint32_t op, lane_t *lane) {
    kf_node_t node;
    if (kf_op_work(m, (uint16_t)op, NULL, &node, &lane->work) != KF_FAULT_NONE) {
        node.outputs = 0; /* cannot be: it was judged */
        node.inputs = 0;
    }
        lane->rows = node.out.rank == 4 ? node.out.dims[1] : 0;
    lane->row = row_of(&node.out);
    lane->in_rows = node.in[0].rank == 4 ? node.in[0].dims[1] : 0;
    lane->in_row = row_of(&node.in[0]);
    lane->width = node.out.rank == 4 ? node.out.dims[2] : 1;
    lane->sound = lane->work.walk.reach != 0 && node.outputs == 1 && lane->in_rows <= KF_PLAN_ROWS_MAX &&
                  lane->rows <= KF_PLAN_ROWS_MAX;
    for (uint32_t i = 0; i < node.inputs; i++) {
        if (i >= KF_NODE_INPUTS || (node.in[i].index != KF_MODEL_NONE && node.in[i].constant == NULL &&
                                    !kf_walks(&lane->work.walk, i))) {
            lane->sound = 0;
        }
    }
}

/* The first input row that is still to be read when `done` output rows are written. */
static int32_t low(const lane_t *lane, int32_t done) {
    int32_t row = done * lane->work.walk.stride - lane->work.walk.pad;
    return done >= lane->rows ? lane->in_rows : row < 0 ? 0 : row;
}

/* How many input rows must be there for `done` output rows. */
static int32_t need(const lane_t *lane, int32_t done) {
    const kf_walk_t *walk = &lane->work.walk;
    int32_t rows = done == 0 ? 0 : (done - 1) * walk->stride + walk->reach - walk->pad;
    return rows < lane->in_rows ? rows : lane->in_rows;
}

/* Steps until an operator has written all of `rows`; 0: never. */
static int32_t steps_of(const kf_rule_t *rule, int32_t rows) {
    if ((uint32_t)rows <= rule->ahead) {
        return 1;
    }
    return rule->step == 0 ? 0 : 1 + (int32_t)(((uint32_t)rows - rule->ahead + rule->step - 1u) / rule->step);
}

static uint32_t round_up(uint32_t bytes) {
    return (bytes + 3u) & ~3u;
}

KF_NOINLINE uint32_t kf_group_scratch(const kf_model_t *m, const kf_group_t *g) {
    kf_node_t node;
    kf_work_t work;
    uint32_t total = 0;
    for (uint16_t op = g->first; op <= g->last; op++) {
        if (kf_op_work(m, op, NULL, &node, &work) == KF_FAULT_NONE) {
            total += round_up(work.scratch_bytes); /* far below 2^31 each, and the sum of a group is judged */
        }
    }
    return total;
}

/* What an operator reads of another of its group: 1 when it is written in time and, if it is a ring, overwritten in time. */
static int in_time(const kf_rule_t *writes, const lane_t *reader, const kf_rule_t *reads, int32_t steps) {
    for (int32_t i = 0; i < steps; i++) {
        int32_t written = kf_rule_rows(writes, i + 1, reader->in_rows);
        int32_t before = kf_rule_rows(reads, i, reader->rows);
        if (need(reader, kf_rule_rows(reads, i + 1, reader->rows)) > written ||
            (writes->ring != 0 && before < reader->rows && written - low(reader, before) > (int32_t)writes->ring)) {
            return 0;
        }
    }
    return 1;
}

/* Everything that operator `op` reads of its own group. Inputs of one operator have as many rows each. */
static int reads_in_time(const kf_model_t *m, const kf_group_t *g, uint32_t op, const lane_t *lane, int32_t steps) {
    kf_list_t inputs = kf_node_inputs(m, op);
    kf_rule_t reads = kf_group_rule(m, g, op);
    for (uint32_t i = 0; i < inputs.count; i++) {
        int32_t writer = kf_graph_written(m, kf_list_tensor(m, inputs, i), op);
        if (writer >= (int32_t)g->first && writer < (int32_t)op) {
            kf_rule_t writes = kf_group_rule(m, g, (uint32_t)writer);
            if (!in_time(&writes, lane, &reads, steps)) {
                return 0;
            }
        }
    }
    return 1;
}

/* When the first output of operator `op` is read last. */
static int32_t last_read(const kf_model_t *m, uint32_t op) {
    kf_activation_t a = {(int32_t)op, 0, 0, kf_list_tensor(m, kf_node_outputs(m, op), 0), 0};
    return kf_graph_to(m, &a);
}

static int check_group(const kf_model_t *m, const kf_group_t *g) {
    lane_t lane;
    kf_rule_t rule = kf_group_rule(m, g, g->last);
    read_lane(m, g->last, &lane);
    int32_t steps = steps_of(&rule, lane.rows);
    uint32_t scratch = 0;
    if (!lane.sound || rule.ring != 0 || steps == 0 || g->first == g->last || g->last - g->first >= KF_PLAN_GROUP_MAX) {
        return 0;
    }
    for (uint32_t op = g->first; op <= g->last; op++) {
        rule = kf_group_rule(m, g, op);
        read_lane(m, op, &lane);
        uint32_t own = round_up(lane.work.scratch_bytes);
        if (!lane.sound || own > SCRATCH_MAX - scratch) {
            return 0;
        }
        scratch += own;
        int good = rule.ring == 0 ? kf_rule_rows(&rule, steps, lane.rows) == lane.rows
                                  : (int32_t)rule.ring < lane.rows && last_read(m, op) <= (int32_t)g->last;
        if (!good || !reads_in_time(m, g, op, &lane, steps)) {
            return 0;
        }
    }
    return 1;
}

int kf_groups_check(const kf_model_t *m) {
    groups_t all = groups_of(m);
    kf_group_t g;
    uint32_t next = 0;
    for (uint32_t count = 0; next_group(m, &all, &g); count++) {
        if (count == KF_PLAN_GROUPS_MAX || g.first < next || !check_group(m, &g)) {
            return 0;
        }
        next = (uint32_t)g.last + 1u;
    }
    return all.at == all.end;
}

/* How operator `op` reads `tensor`: 0 not at all, 1 as it walks, 2 in another way too. */
static uint32_t reads(const kf_model_t *m, uint32_t op, const lane_t *lane, uint16_t tensor) {
    kf_list_t inputs = kf_node_inputs(m, op);
    uint32_t how = 0;
    for (uint32_t i = 0; i < inputs.count; i++) {
        if (kf_list_tensor(m, inputs, i) == tensor) {
            uint32_t walked = kf_walks(&lane->work.walk, i) ? 1 : 2;
            how = walked > how ? walked : how;
        }
    }
    return how;
}

/* The operator that writes reads the tensor itself. */
static int clears_itself(const lane_t *last, int32_t below) {
    int32_t grows;
    switch (last->work.walk.pace) {
    case KF_PACE_WINDOWS:
    case KF_PACE_VALUES:
        return below >= 0;
    case KF_PACE_PIXELS:
        /* Linear in the number of pixels: the first and the last but one decide. */
        grows = kf_quotient(last->row, last->width) - kf_quotient(last->in_row, last->width);
        return last->rows * last->width == 1 || (grows <= below && (last->rows * last->width - 1) * grows <= below);
    default:
        break;
    }
    for (int32_t y = 0; y < last->rows; y++) {
        if ((y + 1) * last->row - low(last, y) * last->in_row > below) {
            return 0;
        }
    }
    return last->work.walk.pace == KF_PACE_ROWS && last->rows <= KF_PLAN_ROWS_MAX;
}

/* An earlier operator of the group reads it: in each step before the last one writes `row` bytes a row, `rows` in all. */
static int clears_reader(const kf_rule_t *writes, int32_t rows, int32_t row, const lane_t *reader, const kf_rule_t *rule,
                         int32_t below) {
    int32_t steps = steps_of(writes, rows);
    for (int32_t i = 1; i <= steps; i++) {
        int32_t done = kf_rule_rows(rule, i, reader->rows);
        if (done < reader->rows && kf_rule_rows(writes, i, rows) * row - low(reader, done) * reader->in_row > below) {
            return 0;
        }
    }
    return 1;
}

int kf_group_clears(const kf_model_t *m, const kf_group_t *g, uint16_t tensor, int32_t below) {
    kf_rule_t writes = kf_group_rule(m, g, g->last);
    lane_t lane;
    read_lane(m, g->last, &lane);
    int32_t rows = lane.rows;
    int32_t row = lane.row;
    for (uint32_t op = g->first; op <= g->last; op++) {
        read_lane(m, op, &lane);
        uint32_t how = reads(m, op, &lane, tensor);
        kf_rule_t rule = kf_group_rule(m, g, op);
        if (how == 2 || (how == 1 && !(op == g->last ? clears_itself(&lane, below)
                                                     : clears_reader(&writes, rows, row, &lane, &rule, below)))) {
            return 0;
        }
    }
    return 1;
}
