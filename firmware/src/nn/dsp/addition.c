/* ADD and SUB of inputs of one shape on cores with the DSP extension. */
#include "words.h"

static inline int32_t scaled(const kf_addend_t *a, int8_t q) {
    return kf_requant_any((q - a->zp) * (1 << KF_ADD_BITS), a->mult, a->right);
}

/* A multiplier of just 1/2: one of the inputs has it, since the common scale is twice the larger one. */
static int is_half(const kf_addend_t *a) {
    return a->mult == 1 << 30 && a->right == -1;
}

/* One value: 14 instructions, 15 cycles. The first input is shifted into place; the second is rounded and divided as a sum is
 * that becomes a value, kf_tight() in words.h, with a zero point of 0. */
#define VALUE                                       \
    "ldrsb %[u], [%[a]], #1\n\t"                    \
    "ldrsb %[v], [%[b]], #1\n\t"                    \
    "add %[u], %[a_zero], %[u], lsl #19\n\t"        \
    "add %[v], %[b_zero], %[v], lsl #21\n\t"        \
    "add %[t], %[b_up], %[v], asr #31\n\t"          \
    "smmlar %[v], %[v], %[b_mult], %[t]\n\t"        \
    "asr %[v], %[v], %[b_places]\n\t"               \
    "add %[u], %[u], %[v]\n\t"                      \
    "add %[t], %[up], %[u], asr #31\n\t"            \
    "lsl %[u], %[u], #1\n\t"                        \
    "smmlar %[u], %[u], %[mult], %[t]\n\t"          \
    "asr %[u], %[u], %[right]\n\t"                  \
    "ssat %[u], #8, %[u], asr #1\n\t"               \
    "strb %[u], [%[out]], #1\n\t"

/* Tight outputs; `half` has a multiplier of 1/2, `other` right >= 0. count >= 1. */
static KF_NOINLINE void add_tight(const kf_addition_t *s, const kf_addend_t *other, int32_t half_zp, const int8_t *half,
                                  const int8_t *b, int8_t *out, uint32_t count) {
    const int8_t *end = out + count;
    uint32_t entry = count & 3u;
    int32_t u, v;
    __asm__ volatile("cmp %[t], #2\n\t"
            "bgt 3f\n\t"
            "beq 2f\n\t"
            "cmp %[t], #1\n\t"
            "beq 1f\n\t"
            ".p2align 2\n"
            "4:\n\t" VALUE "3:\n\t" VALUE "2:\n\t" VALUE "1:\n\t" VALUE
            "ldr %[t], %[end]\n\t"
            "cmp %[out], %[t]\n\t"
            "bne 4b"
            : [a] "+r"(half), [b] "+r"(b), [out] "+r"(out), [t] "+r"(entry), [u] "=&r"(u), [v] "=&r"(v)
            : [a_zero] "r"(-half_zp * (1 << 19)), [b_zero] "r"(-other->zp * (1 << 21)), [b_mult] "r"(other->mult),
              [b_up] "r"(1 << other->right), [b_places] "r"(other->right + 1), [mult] "r"(s->out.mult),
              [up] "r"((2 * s->output.zp + 1) * (1 << s->out.right)), [right] "r"(s->out.right), [end] "m"(end)
            : "cc", "memory");
}

void kf_add(const kf_addition_t *s, const int8_t *a, const int8_t *b, int8_t *out, uint32_t count) {
    if (count != 0 && s->sign > 0 && kf_is_tight(&s->output)) {
        if (is_half(&s->a) && s->b.right >= 0) {
            add_tight(s, &s->b, s->a.zp, a, b, out, count);
            return;
        }
        if (is_half(&s->b) && s->a.right >= 0) {
            add_tight(s, &s->a, s->b.zp, b, a, out, count);
            return;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        out[i] = kf_value(&s->output, &s->out, scaled(&s->a, a[i]) + s->sign * scaled(&s->b, b[i]));
    }
}
