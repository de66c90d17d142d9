/* Depthwise convolutions on cores with the DSP extension: four channels at once, as they lie in a word. */
#include "../window.h"
#include "words.h"

/* A place of a window that is inside the image: its value and its weight, of channel 0. */
typedef struct place {
    const int8_t *x, *w;
} place_t;

/* What the loop below works with. It stays in memory: the registers hold sums and what is multiplied. */
typedef struct fours {
    const place_t *places;
    int32_t entry, turns; /* places % 4, where the unrolled loop is entered; and how often it turns */
    int16x2_t offset;
    const kf_channel_t *channel; /* of these four */
    int8_t *out;
    int32_t done, channels; /* channels, multiples of 4 */
    int32_t up;             /* 2 zp + 1 for tight outputs; 0: leave the sums of four channels in `sum` */
    int32_t sum[4];
} fours_t;

/* Four channels at one place: 12 instructions, 13 cycles. A window's places lie anywhere. */
#define PLACE                           \
    "ldr r12, [r6], #8\n\t"             \
    "ldr lr, [r6, #-4]\n\t"             \
    "ldr r0, [r12, r7]\n\t"             \
    "ldr r2, [lr, r7]\n\t"              \
    "sxtab16 r1, r5, r0, ror #8\n\t"    \
    "sxtab16 r0, r5, r0\n\t"            \
    "sxtb16 r3, r2, ror #8\n\t"         \
    "sxtb16 r2, r2\n\t"                 \
    "smlabb r8, r0, r2, r8\n\t"         \
    "smlatt r10, r0, r2, r10\n\t"       \
    "smlabb r9, r1, r3, r9\n\t"         \
    "smlatt r11, r1, r3, r11\n\t"

/* kf_tight() of the sum in `s`, stored behind `place`; 2 zp + 1 in r12. */
#define VALUE(s, mult, right, place)                        \
    "lsl r4, r12, " right "\n\t"                            \
    "add r4, r4, " s ", asr #31\n\t"                        \
    "lsl " s ", " s ", #1\n\t"                              \
    "smmlar " s ", " s ", " mult ", r4\n\t"                 \
    "asr " s ", " s ", " right "\n\t"                       \
    "ssat " s ", #8, " s ", asr #1\n\t"                     \
    "strb " s ", [lr, #" place "]\n\t"

/* All channels from f->done on, or, when they are not tight, the sums of four. At least one place. */
static inline __attribute__((always_inline)) void all_fours(fours_t *f) {
    __asm__ volatile("ldr r6, %[channel]\n\t"
                     "ldr r7, %[done]\n\t"
                     "ldr r5, %[offset]\n"
                     "7:\n\t"
                     "ldr r8, [r6]\n\t"
                     "ldr r9, [r6, #12]\n\t"
                     "ldr r10, [r6, #24]\n\t"
                     "ldr r11, [r6, #36]\n\t"
                     "ldr r6, %[places]\n\t"
                     "ldr r4, %[turns]\n\t"
                     "ldr r0, %[entry]\n\t"
                     "cbz r0, 4f\n\t"
                     "cmp r0, #2\n\t"
                     "bgt 3f\n\t"
                     "beq 2f\n\t"
                     "b 1f\n\t"
                     ".p2align 2\n"
                     "4:\n\t" PLACE "3:\n\t" PLACE "2:\n\t" PLACE "1:\n\t" PLACE
                     "subs r4, #1\n\t"
                     "bne 4b\n\t"
                     "ldr r6, %[channel]\n\t"
                     "ldr r12, %[up]\n\t"
                     "ldr lr, %[out]\n\t"
                     "ldr r0, [r6, #4]\n\t"
                     "ldr r1, [r6, #8]\n\t"
                     "ldr r2, [r6, #16]\n\t"
                     "ldr r3, [r6, #20]\n\t"
                     "cmp r12, #0\n\t"
                     "beq 9f\n\t"
                     VALUE("r8", "r0", "r1", "0")
                     VALUE("r9", "r2", "r3", "1")
                     "ldr r0, [r6, #28]\n\t"
                     "ldr r1, [r6, #32]\n\t"
                     "ldr r2, [r6, #40]\n\t"
                     "ldr r3, [r6, #44]\n\t"
                     VALUE("r10", "r0", "r1", "2")
                     VALUE("r11", "r2", "r3", "3")
                     "ldr r0, %[channels]\n\t"
                     "adds r6, #48\n\t"
                     "adds r7, #4\n\t"
                     "add lr, #4\n\t"
                     "str r6, %[channel]\n\t"
                     "str lr, %[out]\n\t"
                     "cmp r7, r0\n\t"
                     "bne 7b\n\t"
                     "str r7, %[done]\n\t"
                     "b 8f\n"
                     "9:\n\t"
                     "str r8, %[a]\n\t"
                     "str r9, %[b]\n\t"
                     "str r10, %[c]\n\t"
                     "str r11, %[d]\n"
                     "8:"
                     : [channel] "+m"(f->channel), [out] "+m"(f->out), [done] "+m"(f->done), [a] "=m"(f->sum[0]),
                       [b] "=m"(f->sum[1]), [c] "=m"(f->sum[2]), [d] "=m"(f->sum[3])
                     : [places] "m"(f->places), [entry] "m"(f->entry), [turns] "m"(f->turns), [offset] "m"(f->offset),
                       [channels] "m"(f->channels), [up] "m"(f->up)
                     : "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc",
                       "memory");
}

/* Channels [0, channels), a multiple of four and not 0, of one output column, from `count` places, 1 at least. */
static KF_NOINLINE void fours(const kf_depthwise_t *d, const place_t *places, int32_t count, int32_t channels, int8_t *out) {
    fours_t f; /* field by field: an initializer would clear its sums too */
    f.places = places;
    f.entry = count & 3;
    f.turns = (count + 3) >> 2;
    f.offset = kf_both(d->x_offset);
    f.channel = d->channels;
    f.out = out;
    f.done = 0;
    f.channels = channels;
    f.up = kf_is_tight(&d->output) ? 2 * d->output.zp + 1 : 0;
    for (;;) {
        all_fours(&f);
        if (f.done == channels) {
            return;
        }
        kf_finish(&d->output, f.channel, f.sum, 4, f.out);
        f.channel += 4;
        f.out += 4;
        f.done += 4;
        if (f.done == channels) {
            return;
        }
    }
}

/* One channel, on one window row: `count` places. */
static int32_t along(const int8_t *x, int32_t x_step, const int8_t *w, int32_t w_step, int32_t count, int32_t x_offset) {
    int32_t sum = 0;
    for (; count > 0; count--, x += x_step, w += w_step) {
        sum = __smlabb(*w, *x + x_offset, sum);
    }
    return sum;
}

/* Channels [first, out_c) of one output column, one by one. `start`: the first place inside, relative to a row. */
static void ones(const kf_depthwise_t *d, const int8_t *start, const int32_t *rows, kf_part_t part, int32_t first, int8_t *out) {
    for (int32_t c = first; c < d->out_c; c++) {
        const int8_t *x = start + c / d->multiplier;
        const int8_t *w = d->w + part.first * d->out_c + c;
        int32_t sum = d->channels[c].bias;
        for (int32_t i = 0; i < d->k_h; i++, w += d->k_w * d->out_c) {
            if (rows[i] >= 0) {
                sum += along(x + rows[i], d->dilation * d->in_c, w, d->out_c, part.end - part.first, d->x_offset);
            }
        }
        out[c] = kf_value(&d->output, &d->channels[c], sum);
    }
}

/* The places of an output column's window that are inside the image; how many. */
static int32_t list(const kf_depthwise_t *d, const int8_t *start, const int32_t *rows, kf_part_t part, place_t *places) {
    const place_t *first = places;
    int32_t x_step = d->dilation * d->in_c;
    const int8_t *line = d->w + part.first * d->out_c;
    for (int32_t i = 0; i < d->k_h; i++, line += d->k_w * d->out_c) {
        if (rows[i] < 0) {
            continue;
        }
        const int8_t *x = start + rows[i];
        const int8_t *w = line;
        for (int32_t left = part.end - part.first; left != 0; left--) {
            places->x = x;
            places++->w = w;
            x += x_step;
            w += d->out_c;
        }
    }
    return (int32_t)(places - first);
}

void kf_depthwise_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    uint32_t reach = (uint32_t)((d->out_w - 1) * d->stride + (d->k_w - 1) * d->dilation + 1);
    int32_t in_fours = 0;
    if (kf_depthwise_bytes((uint32_t)d->k_h, (uint32_t)d->k_w, reach, (uint32_t)d->multiplier) != 0) {
        in_fours = d->out_c & ~3; /* there is room for a list of places: 8 bytes each */
    }
    place_t *places = d->scratch;
    int32_t count = 0;
    kf_part_t before = {0, 0};
    for (int32_t out_x = 0; out_x < d->out_w; out_x++, out += d->out_c) {
        int32_t origin = out_x * d->stride - d->pad;
        kf_part_t part = kf_window_part(origin, d->k_w, d->dilation, d->in_w);
        const int8_t *start = x + (origin + part.first * d->dilation) * d->in_c;
        int32_t done = 0;
        if (in_fours != 0) {
            if (part.first != before.first || part.end != before.end) {
                count = list(d, start, rows, part, places);
                before = part;
            } else {
                for (int32_t i = 0; i < count; i++) { /* the same window, a step further */
                    places[i].x += d->stride * d->in_c;
                }
            }
            if (count > 0) { /* a dilated window may be all outside, of which the rest here takes care */
                fours(d, places, count, in_fours, out);
                done = in_fours;
            }
        }
        if (done != d->out_c) {
            ones(d, start, rows, part, done, out);
        }
    }
}
