/* Convolution for Arm cores with the vector extension MVE ("Helium", Armv8.1-M): Cortex-M55. Sixteen multiply-accumulates an
 * instruction.
 *
 * A patch is the image as it lies: VMLADAVA multiplies bytes by bytes, where x - zp would not fit. So a sum is
 *
 *     sum w (q - zp) = sum w q - zp sum w,
 *
 * and what follows from the filter alone is in the channel's bias already. All sums are modulo 2^32.
 *
 * Three patches by two filters are five loads for six products of vectors. VMLADAVA takes sums in even registers only: with those taken and
 * the pointers in the others nothing is left over, so the loops are assembly. Two such loops make four filters, whose values lie
 * side by side in the output. Loops under tail predication (DLSTP) neither read nor count what is behind the last value.
 */
#include <stddef.h>

#include "../op.h"
#include "values.h"

void kf_finish(const kf_output_t *o, const kf_channel_t *channels, const int32_t *sum, int32_t count, int8_t *out) {
    uint32x4_t places = channel_places();
    clamp_t clamp = clamp_of(o);
    for (; count > 0; count -= 4, channels += 4, sum += 4, out += 4) {
        mve_pred16_t some = vctp32q((uint32_t)count);
        int32x4_t mult = vldrwq_gather_shifted_offset_z_s32(&channels->mult, places, some);
        int32x4_t right = vldrwq_gather_shifted_offset_z_s32(&channels->right, places, some);
        vstrbq_p_s32(out, values_of(&clamp, o->narrow, mult, right, vldrwq_z_s32(sum, some)), some);
    }
}

/* x_offset * sum(w): |sum(w)| <= 2^23. */
int32_t kf_patch_bias(const int8_t *w, int32_t terms, int32_t x_offset) {
    int32_t sum = 0;
    int8x16_t v;
    if (x_offset != 0) {
        __asm__("dlstp.8 lr, %[n]\n"
                "1:\n\t"
                "vldrb.8 %q[v], [%[w]], #16\n\t"
                "vaddva.s8 %[s], %q[v]\n\t"
                "letp lr, 1b"
                : [w] "+r"(w), [s] "+Te"(sum), [v] "=&w"(v)
                : [n] "r"(terms)
                : "lr", "memory");
    }
    return sum * x_offset;
}

/* ---- patches: int8, one behind the other ------------------------------------------------------------------------- */

int32_t kf_patches_at_once(const kf_patches_t *p) {
    (void)p;
    return 6;
}

static inline int8_t *copied(int8_t *to, const int8_t *x, int32_t count) {
    int8x16_t v;
    int8_t *at = to;
    __asm__ volatile("dlstp.8 lr, %[n]\n"
            "1:\n\t"
            "vldrb.8 %q[v], [%[x]], #16\n\t"
            "vstrb.8 %q[v], [%[to]], #16\n\t"
            "letp lr, 1b"
            : [x] "+r"(x), [to] "+r"(at), [v] "=&w"(v)
            : [n] "r"(count)
            : "lr", "memory");
    return to + count;
}

void kf_patch_put(kf_patches_t *p, int32_t index, int32_t at, const int8_t *x, int32_t count) {
    int8_t *to = (int8_t *)p->memory + index * p->terms + at;
    if (count <= 0) {
        return;
    }
    if (x == NULL) {
        int8x16_t zp = vdupq_n_s8((int8_t)-p->x_offset);
        for (; count > 0; count -= 16, to += 16) {
            vstrbq_p_s8(to, zp, vctp8q((uint32_t)count));
        }
        return;
    }
    copied(to, x, count);
}

void kf_patch_fill(kf_patches_t *p, int32_t index, const int8_t *x, int32_t count, int32_t rows, int32_t step) {
    int8_t *to = (int8_t *)p->memory + index * p->terms;
    if (count > 16) {
        for (; rows > 0; rows--, x += step) {
            to = copied(to, x, count);
        }
        return;
    }
    for (mve_pred16_t some = vctp8q((uint32_t)count); rows > 0; rows--, to += count, x += step) {
        vstrbq_p_s8(to, vldrbq_z_s8(x, some), some);
    }
}

/* ---- filters ----------------------------------------------------------------------------------------------------- */

/* What a block of patches and filters goes over. */
typedef struct block {
    const int8_t *x; /* the first patch; the others are `terms` apart, as the filters are */
    int32_t terms;
    const int8_t *w; /* the first filter */
} block_t;
_Static_assert(offsetof(block_t, x) == 0 && offsetof(block_t, terms) == 4 && offsetof(block_t, w) == 8, "the assembly's offsets");
_Static_assert(sizeof(kf_channel_t) == 12 && offsetof(kf_channel_t, bias) == 0, "the assembly's offsets");

/* Two filters after `skip`, of three patches or of two: their sums in r0, r2, and r4, r6, and r8, r10. */
#define BEGIN(skip, bias0, bias1)                                                  \
    "ldrd %[x0], lr, [%[block]]\n\t"                                               \
    "ldr %[w], [%[block], #8]\n\t" skip "ldr r0, [%[channel], #" bias0 "]\n\t"     \
    "ldr r2, [%[channel], #" bias1 "]\n\t"                                         \
    "mov r4, r0\n\t"                                                               \
    "mov r6, r2\n\t"                                                               \
    "add %[x1], %[x0], lr\n\t"                                                     \
    "add %[v], %[w], lr, lsl #1\n\t"
#define TWO_PATCHES                                                                \
    "vldrb.8 %q[q0], [%[w]], #16\n\t"                                              \
    "vldrb.8 %q[q], [%[x0]], #16\n\t"                                              \
    "vmladava.s8 r0, %q[q0], %q[q]\n\t"                                            \
    "vldrb.8 %q[q1], [%[v]], #16\n\t"                                              \
    "vmladava.s8 r2, %q[q1], %q[q]\n\t"                                            \
    "vldrb.8 %q[q], [%[x1]], #16\n\t"                                              \
    "vmladava.s8 r4, %q[q0], %q[q]\n\t"                                            \
    "vmladava.s8 r6, %q[q1], %q[q]\n\t"
#define THIRD_PATCH                                                                \
    "vldrb.8 %q[q], [%[x2]], #16\n\t"                                              \
    "vmladava.s8 r8, %q[q0], %q[q]\n\t"                                            \
    "vmladava.s8 r10, %q[q1], %q[q]\n\t"
#define THIRD_BEGIN                                                                \
    "mov r8, r0\n\t"                                                               \
    "mov r10, r2\n\t"                                                              \
    "add %[x2], %[x1], lr\n\t"
#define FIRST "", "0", "24"                        /* filters 0 and 2 */
#define SECOND "add %[w], %[w], lr\n\t", "12", "36" /* filters 1 and 3 */
#define BEGIN_OF(which) BEGIN(which)

/* Sums of four filters: a lane each. */
typedef struct patches3 {
    int32x4_t a, b, c;
} patches3_t;

static inline patches3_t three_by_four(const block_t *block, const kf_channel_t *channel) {
    patches3_t s;
    const int8_t *x0, *x1, *x2, *w, *v;
    int8x16_t q, q0, q1;
    __asm__(BEGIN_OF(FIRST) THIRD_BEGIN
            "dlstp.8 lr, lr\n"
            "1:\n\t" TWO_PATCHES THIRD_PATCH
            "letp lr, 1b\n\t"
            "vmov %q[a][2], %q[a][0], r0, r2\n\t"
            "vmov %q[b][2], %q[b][0], r4, r6\n\t"
            "vmov %q[c][2], %q[c][0], r8, r10\n\t"
            BEGIN_OF(SECOND) THIRD_BEGIN
            "dlstp.8 lr, lr\n"
            "1:\n\t" TWO_PATCHES THIRD_PATCH
            "letp lr, 1b\n\t"
            "vmov %q[a][3], %q[a][1], r0, r2\n\t"
            "vmov %q[b][3], %q[b][1], r4, r6\n\t"
            "vmov %q[c][3], %q[c][1], r8, r10"
            : [a] "=&w"(s.a), [b] "=&w"(s.b), [c] "=&w"(s.c), [q] "=&w"(q), [q0] "=&w"(q0), [q1] "=&w"(q1), [x0] "=&r"(x0),
              [x1] "=&r"(x1), [x2] "=&r"(x2), [w] "=&r"(w), [v] "=&r"(v)
            : [block] "r"(block), [channel] "r"(channel)
            : "r0", "r2", "r4", "r6", "r8", "r10", "lr", "memory");
    return s;
}

typedef struct patches2 {
    int32x4_t a, b;
} patches2_t;

static inline patches2_t two_by_four(const block_t *block, const kf_channel_t *channel) {
    patches2_t s;
    const int8_t *x0, *x1, *w, *v;
    int8x16_t q, q0, q1;
    __asm__(BEGIN_OF(FIRST)
            "dlstp.8 lr, lr\n"
            "1:\n\t" TWO_PATCHES
            "letp lr, 1b\n\t"
            "vmov %q[a][2], %q[a][0], r0, r2\n\t"
            "vmov %q[b][2], %q[b][0], r4, r6\n\t"
            BEGIN_OF(SECOND)
            "dlstp.8 lr, lr\n"
            "1:\n\t" TWO_PATCHES
            "letp lr, 1b\n\t"
            "vmov %q[a][3], %q[a][1], r0, r2\n\t"
            "vmov %q[b][3], %q[b][1], r4, r6"
            : [a] "=&w"(s.a), [b] "=&w"(s.b), [q] "=&w"(q), [q0] "=&w"(q0), [q1] "=&w"(q1), [x0] "=&r"(x0), [x1] "=&r"(x1),
              [w] "=&r"(w), [v] "=&r"(v)
            : [block] "r"(block), [channel] "r"(channel)
            : "r0", "r2", "r4", "r6", "lr", "memory");
    return s;
}

/* How the sums of four channels become values. */
typedef struct four_channels {
    int32x4_t mult, right;
} four_channels_t;

static inline four_channels_t channels_of(const kf_channel_t *channel) {
    const uint32x4_t places = channel_places();
    four_channels_t four = {gather(&channel->mult, places), gather(&channel->right, places)};
    return four;
}

/* Three patches with the filters that fill fours, narrow. A function for each number of patches, so that its values stay in registers. */
static KF_NOINLINE void threes(const kf_filters_t *f, const int8_t *x, int32_t terms, int8_t *out, int32_t out_step) {
    const clamp_t clamp = clamp_of(&f->output);
    const kf_channel_t *channel = f->channels, *const end = channel + (f->count & ~3);
    block_t block = {x, terms, f->w};
    for (; channel != end; channel += 4, out += 4) {
        const patches3_t s = three_by_four(&block, channel);
        const four_channels_t by = channels_of(channel);
        int8_t *to = out;
        block.w += 4 * terms;
        vstrbq_s32(to, values_of(&clamp, 1, by.mult, by.right, s.a));
        to += out_step;
        vstrbq_s32(to, values_of(&clamp, 1, by.mult, by.right, s.b));
        to += out_step;
        vstrbq_s32(to, values_of(&clamp, 1, by.mult, by.right, s.c));
    }
}

static KF_NOINLINE void twos(const kf_filters_t *f, const int8_t *x, int32_t terms, int8_t *out, int32_t out_step) {
    const clamp_t clamp = clamp_of(&f->output);
    const kf_channel_t *channel = f->channels, *const end = channel + (f->count & ~3);
    block_t block = {x, terms, f->w};
    for (; channel != end; channel += 4, out += 4) {
        const patches2_t s = two_by_four(&block, channel);
        const four_channels_t by = channels_of(channel);
        block.w += 4 * terms;
        vstrbq_s32(out, values_of(&clamp, 1, by.mult, by.right, s.a));
        vstrbq_s32(out + out_step, values_of(&clamp, 1, by.mult, by.right, s.b));
    }
}

/* One patch, of any kind. */
static KF_NOINLINE void ones(const kf_filters_t *f, const int8_t *x, int32_t terms, int8_t *out) {
    const clamp_t clamp = clamp_of(&f->output);
    const kf_channel_t *channel = f->channels;
    const int8_t *w = f->w;
    for (int32_t left = f->count >> 2; left > 0; left--, w += 4 * terms, channel += 4, out += 4) {
        const sums_t biases = {channel[0].bias, channel[1].bias, channel[2].bias, channel[3].bias};
        const int32x4_t sum = vector_of(four(biases, x, w, terms));
        const four_channels_t by = channels_of(channel);
        vstrbq_s32(out, values_of(&clamp, f->output.narrow, by.mult, by.right, sum));
    }
}

/* The up to three filters that are left over, for one patch. */
static void rest(const kf_filters_t *f, const int8_t *x, int32_t terms, int8_t *out) {
    int32_t first = f->count & ~3, left = f->count - first, sum[4];
    const kf_channel_t *channel = f->channels + first;
    const int8_t *w = f->w + first * terms;
    for (int32_t k = 0; k < left; k++) {
        sum[k] = one_dot(channel[k].bias, x, w + k * terms, terms);
    }
    kf_finish(&f->output, channel, sum, left, out + first);
}

void kf_convolve(const kf_filters_t *f, kf_patches_t *p, int8_t *out, int32_t out_step) {
    const int32_t terms = p->terms;
    const int8_t *x = (const int8_t *)p->memory;
    for (int32_t left = p->patches, some; left > 0; left -= some, x += some * terms, out += some * out_step) {
        if (f->output.narrow && left >= 3 && left != 4) { /* four are two and two */
            some = 3;
            threes(f, x, terms, out, out_step);
        } else if (f->output.narrow && left >= 2) {
            some = 2;
            twos(f, x, terms, out, out_step);
        } else {
            some = 1;
            ones(f, x, terms, out);
        }
        for (int32_t k = 0; k < some && (f->count & 3) != 0; k++) {
            rest(f, x + k * terms, terms, out + k * out_step);
        }
    }
}
