/* exp.c with what the DSP extension has for it: a saturating difference, and a multiplication of halves that adds. Written out since GCC
 * 12.2 loads constants again in every turn. */
#include "../kernels.h"

_Static_assert(KF_TILE == 8, "the step of the loop");

uint32_t kf_exponentials(int32_t *z, uint32_t classes, int32_t top) {
    uint32_t sum = 0, u, line, n, v;
    __asm__("1:\n\t"
            "ldr %[u], [%[z]]\n\t"
            "subs %[classes], #1\n\t" /* nothing below changes the flags */
            "qsub %[u], %[top], %[u]\n\t" /* top - z, at most 2^31 - 1 */
            "usat %[u], #16, %[u]\n\t"
            "mla %[u], %[u], %[octave], %[half_u]\n\t"
            "ubfx %[n], %[u], #21, #5\n\t"
            "ldr.w %[line], [%[lines], %[n], lsl #2]\n\t"
            "ubfx %[v], %[u], #11, #10\n\t"
            "lsr.w %[n], %[u], #26\n\t"
            "smlabb %[v], %[line], %[v], %[half_v]\n\t"
            "lsl.w %[u], %[one], %[n]\n\t"
            "lsr.w %[line], %[line], #16\n\t"
            "sub.w %[v], %[line], %[v], lsr #10\n\t"
            "add.w %[v], %[v], %[u], lsr #1\n\t"
            "lsr.w %[v], %[v], %[n]\n\t"
            "str %[v], [%[z]], #32\n\t"
            "add.w %[sum], %[sum], %[v]\n\t"
            "bne 1b"
            : [z] "+r"(z), [classes] "+r"(classes), [sum] "+r"(sum), [u] "=&r"(u), [line] "=&r"(line), [n] "=&r"(n), [v] "=&r"(v)
            : [top] "r"(top), [octave] "r"(23637), [half_u] "r"(1024), [half_v] "r"(512), [one] "r"(1), [lines] "r"(kf_exp2_lines)
            : "cc", "memory");
    return sum;
}
