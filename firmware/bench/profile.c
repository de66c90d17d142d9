/* Which operator runs, for the profile image only: tells the counting plugin (plugin/blocks.c) by an address.
 *
 * The linker puts this before the engine's own kf_op_work() (`--wrap`), which the interpreter calls whenever it turns to an
 * operator. The store's address is what the plugin sees; that of operator 255 stands for all further ones. What is executed
 * here is not counted as the engine's (kilofed.profiling.counts leaves out what begins with `bench_` or `__wrap_`).
 */
#include <stdint.h>

#include "../src/nn/op.h"

enum { LAST = 255 };

volatile uint8_t bench_operator[LAST + 1];

kf_model_fault_t __real_kf_op_work(const kf_model_t *m, uint16_t op, const kf_head_overlay_t *overlay, kf_node_t *node,
                                   kf_work_t *work);
kf_model_fault_t __wrap_kf_op_work(const kf_model_t *m, uint16_t op, const kf_head_overlay_t *overlay, kf_node_t *node,
                                   kf_work_t *work);

kf_model_fault_t __wrap_kf_op_work(const kf_model_t *m, uint16_t op, const kf_head_overlay_t *overlay, kf_node_t *node,
                                   kf_work_t *work) {
    bench_operator[op < LAST ? op : LAST] = 0;
    return __real_kf_op_work(m, op, overlay, node, work);
}
