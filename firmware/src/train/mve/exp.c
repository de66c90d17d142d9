/* exp.c for Arm cores with the vector extension MVE: four logits at once, lines of the table by a gathering load. */
#include "../kernels.h"

#include <arm_mve.h>

_Static_assert(KF_TILE == 8, "the step of the loop");

uint32_t kf_exponentials(int32_t *z, uint32_t classes, int32_t top) {
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), 4 * KF_TILE); /* bytes */
    uint32_t sum = 0;
    uint32x4_t u, v, line, t;
    __asm__ volatile("dlstp.32 lr, %[classes]\n"
                     "1:\n\t"
                     "vldrw.u32 %q[u], [%[z], %q[places]]\n\t"
                     "vsub.i32 %q[u], %q[top], %q[u]\n\t" /* top - z */
                     "vqmovnb.u32 %q[u], %q[u]\n\t" /* at most 65535 */
                     "vmovlb.u16 %q[u], %q[u]\n\t"
                     "vmlas.u32 %q[u], %q[octave], %[half_u]\n\t"
                     "vshl.i32 %q[t], %q[u], #6\n\t"
                     "vshr.u32 %q[t], %q[t], #27\n\t" /* bits 21 to 25 */
                     "vldrw.u32 %q[line], [%[lines], %q[t], uxtw #2]\n\t"
                     "vshl.i32 %q[t], %q[u], #11\n\t"
                     "vshr.u32 %q[t], %q[t], #22\n\t" /* bits 11 to 20 */
                     "vmovlb.u16 %q[v], %q[line]\n\t"
                     "vmul.i32 %q[t], %q[t], %q[v]\n\t"
                     "vrshr.u32 %q[t], %q[t], #10\n\t"
                     "vshr.u32 %q[line], %q[line], #16\n\t"
                     "vsub.i32 %q[v], %q[line], %q[t]\n\t"
                     "vshr.u32 %q[u], %q[u], #26\n\t"
                     "vneg.s32 %q[u], %q[u]\n\t"
                     "vrshl.u32 %q[v], %q[v], %q[u]\n\t"
                     "vstrw.32 %q[v], [%[z], %q[places]]\n\t"
                     "vaddva.u32 %[sum], %q[v]\n\t"
                     "add %[z], #128\n\t"
                     "letp lr, 1b"
                     : [z] "+r"(z), [sum] "+Te"(sum), [u] "=&w"(u), [v] "=&w"(v), [line] "=&w"(line), [t] "=&w"(t)
                     : [classes] "r"(classes), [places] "w"(places), [top] "w"(vdupq_n_s32(top)),
                       [octave] "w"(vdupq_n_u32(23637)), [half_u] "r"(1024), [lines] "r"(kf_exp2_lines)
                     : "lr", "memory");
    return sum;
}
