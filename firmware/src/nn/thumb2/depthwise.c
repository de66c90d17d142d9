/* Depthwise convolution on Cortex-M3. */
#include "../window.h"
#include "value.h"

/* Any window. */
static KF_NOINLINE void any_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    for (int32_t out_x = 0; out_x < d->out_w; out_x++) {
        int32_t origin = out_x * d->stride - d->pad;
        kf_part_t part = kf_window_part(origin, d->k_w, d->dilation, d->in_w);
        int32_t start = (origin + part.first * d->dilation) * d->in_c;
        int32_t x_step = d->dilation * d->in_c;
        for (int32_t c = 0, in_c = 0, copy = 0; c < d->out_c; c++) {
            uint32_t sum = (uint32_t)d->channels[c].bias;
            const int8_t *w = d->w + c + part.first * d->out_c;
            for (int32_t i = 0; i < d->k_h; i++, w += d->k_w * d->out_c) {
                if (rows[i] >= 0) {
                    const int8_t *at = x + rows[i] + start + in_c, *weight = w;
                    for (int32_t j = part.end - part.first; j > 0; j--, at += x_step, weight += d->out_c) {
                        sum += (uint32_t)(*weight * (*at + d->x_offset));
                    }
                }
            }
            *out++ = kf_value(&d->output, &d->channels[c], (int32_t)sum);
            if (++copy == d->multiplier) {
                copy = 0;
                in_c++;
            }
        }
    }
}

/* A run of up to five outputs of windows three wide, one channel: a window row's weights stay in registers and so do the sums.
 * Column k of the input, counted from the first output's window, meets the third weight for output k - 2, the second
 * for k - 1, and the first for k; or, with a stride of two, the second for output (k - 1) / 2, or the third and the first for the two
 * around it. Columns come from the last to the first, so that a shorter run begins further down. */
enum { RUN_MAX = 5, COLUMNS_MAX = 2 * RUN_MAX };

typedef struct run_row {
    const int8_t *x; /* channel 0 of the last column */
    const int8_t *w; /* channel 0 of the first weight */
} run_row_t;

typedef struct run {
    const run_row_t *rows, *end; /* the window's rows that lie inside the image, one at least */
    int32_t channels;            /* from one column, or weight, to the next */
    int32_t stride;              /* 1 or 2 */
    int32_t entry;               /* where the code for the last column is, in bytes from that for the last one possible */
    int32_t cut;                 /* 1: column 0 lies outside the row */
    int32_t x_offset;            /* twice that of the input */
} run_t;

/* `entry` of each last column; a run has two columns at least. */
static const uint8_t entry_1[RUN_MAX + 2] = {0, 108, 84, 60, 36, 16, 0};
static const uint8_t entry_2[COLUMNS_MAX + 1] = {0, 160, 140, 124, 104, 88, 68, 52, 32, 16, 0};

#define COLUMN                           \
    "ldrsb.w %[x], [%[at]]\n\t"          \
    "sub.w %[at], %[at], %[step]\n\t"    \
    "add.w %[x], %[offset], %[x], lsl #1\n\t"
#define TIMES(sum, w) "mla %[" sum "], %[" w "], %[x], %[" sum "]\n\t"
#define STRIDE_1                                                      \
    COLUMN TIMES("s4", "w2")                                          \
    COLUMN TIMES("s4", "w1") TIMES("s3", "w2")                        \
    COLUMN TIMES("s4", "w0") TIMES("s3", "w1") TIMES("s2", "w2")      \
    COLUMN TIMES("s3", "w0") TIMES("s2", "w1") TIMES("s1", "w2")      \
    COLUMN TIMES("s2", "w0") TIMES("s1", "w1") TIMES("s0", "w2")      \
    COLUMN TIMES("s1", "w0") TIMES("s0", "w1")
#define STRIDE_2                                                      \
    COLUMN TIMES("s4", "w2")                                          \
    COLUMN TIMES("s4", "w1")                                          \
    COLUMN TIMES("s4", "w0") TIMES("s3", "w2")                        \
    COLUMN TIMES("s3", "w1")                                          \
    COLUMN TIMES("s3", "w0") TIMES("s2", "w2")                        \
    COLUMN TIMES("s2", "w1")                                          \
    COLUMN TIMES("s2", "w0") TIMES("s1", "w2")                        \
    COLUMN TIMES("s1", "w1")                                          \
    COLUMN TIMES("s1", "w0") TIMES("s0", "w2")                        \
    COLUMN TIMES("s0", "w1")
#define ROWS(columns)                                                                                                         \
    __asm__ volatile("1:\n\t"                                                                                                 \
                     "ldrd %[at], %[w2], [%[row]], #8\n\t"                                                                    \
                     "ldr %[x], %[c]\n\t"                                                                                     \
                     "add %[at], %[x]\n\t"                                                                                    \
                     "add %[w2], %[x]\n\t"                                                                                    \
                     "ldr %[x], %[entry]\n\t"                                                                                 \
                     "ldrsb %[w0], [%[w2]]\n\t"                                                                               \
                     "ldrsb %[w1], [%[w2], %[step]]\n\t"                                                                      \
                     "ldrsb %[w2], [%[w2], %[step], lsl #1]\n\t"                                                              \
                     "add pc, %[x]\n\t"                                                                                       \
                     "nop.n\n\t" /* pc is four bytes ahead */                                                                 \
                     columns                                                                                                  \
                     "ldr %[x], %[cut]\n\t"                                                                                   \
                     "cmp %[x], #0\n\t"                                                                                       \
                     "bne 2f\n\t"                                                                                             \
                     COLUMN TIMES("s0", "w0")                                                                                 \
                     "2:\n\t"                                                                                                 \
                     "ldr %[x], %[end]\n\t"                                                                                   \
                     "cmp %[row], %[x]\n\t"                                                                                   \
                     "bne 1b"                                                                                                 \
                     : [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [s4] "+r"(s4), [w0] "=&r"(w0),             \
                       [w1] "=&r"(w1), [w2] "=&r"(w2), [x] "=&r"(x), [at] "=&r"(at), [row] "+r"(row)                          \
                     : [step] "r"(run->channels), [offset] "r"(run->x_offset), [c] "m"(channel), [entry] "m"(run->entry),     \
                       [cut] "m"(run->cut), [end] "m"(run->end)                                                               \
                     : "cc", "memory")

/* Twice the sums: the first rounding of kf_requant_narrow() begins with that, and here it costs nothing. */
static inline void run_sums(const run_t *run, int32_t channel, int32_t bias, int32_t sum[RUN_MAX]) {
    int32_t s0 = 2 * bias, s1 = s0, s2 = s0, s3 = s0, s4 = s0, w0, w1, w2, x;
    const int8_t *at;
    const run_row_t *row = run->rows;
    if (run->stride == 1) {
        ROWS(STRIDE_1);
    } else {
        ROWS(STRIDE_2);
    }
    sum[0] = s0;
    sum[1] = s1;
    sum[2] = s2;
    sum[3] = s3;
    sum[4] = s4;
}

/* From twice the sums to values, as kf_plain_value(): the last of `count` to out, each other `step` before the one after it. */
static inline void finish_plain(const kf_channel_t *channel, int32_t half, const int32_t sum[RUN_MAX], int32_t count, int8_t *out,
                                int32_t step) {
    int32_t s0 = sum[0], s1 = sum[1], s2 = sum[2], s3 = sum[3], s4 = sum[4], low;
#define VALUE(sum)                                                 \
    "smull %[low], %[" sum "], %[" sum "], %[mult]\n\t"            \
    "add.w %[" sum "], %[" sum "], %[low], lsr #31\n\t"            \
    "add.w %[" sum "], %[" sum "], %[" sum "], asr #31\n\t"        \
    "asr.w %[" sum "], %[" sum "], %[right]\n\t"                   \
    "add.w %[" sum "], %[" sum "], %[half]\n\t"                    \
    "ssat %[" sum "], #8, %[" sum "], asr #1\n\t"                  \
    "strb.w %[" sum "], [%[out]]\n\t"                              \
    "sub.w %[out], %[out], %[step]\n\t"
    __asm__ volatile("add pc, %[low]\n\t"
                     "nop.n\n\t" /* pc is four bytes ahead */
                     VALUE("s4") VALUE("s3") VALUE("s2") VALUE("s1") VALUE("s0")
                     : [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [s4] "+r"(s4), [low] "=&r"(low),
                       [out] "+r"(out)
                     : [mult] "r"(channel->mult), [right] "r"(channel->right), [half] "r"(half), [step] "r"(step),
                       "[low]"(32 * (RUN_MAX - count))
                     : "cc", "memory");
#undef VALUE
}

/* `count` outputs of every channel, from out on. */
static void run_channels(const kf_depthwise_t *d, const run_t *run, int32_t count, int8_t *out) {
    const kf_channel_t *channel = d->channels;
    int32_t half = 2 * d->output.zp + 1, plain = kf_is_plain(&d->output);
    out += (count - 1) * run->channels;
    for (int32_t c = 0; c < run->channels; c++, channel++) {
        int32_t sum[RUN_MAX];
        run_sums(run, c, channel->bias, sum);
        if (plain) {
            finish_plain(channel, half, sum, count, out + c, run->channels);
        } else {
            for (int32_t k = 0; k < count; k++) {
                out[c - k * run->channels] = kf_value(&d->output, channel, sum[count - 1 - k] / 2);
            }
        }
    }
}

/* Narrow sums of windows three wide, one filter a channel, one or two places apart. At most one column of a row's windows lies outside the image
 * on either side. */
static void runs_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    run_row_t *const at = d->scratch;
    run_t run = {at, at, d->out_c, d->stride, 0, 0, 2 * d->x_offset};
    for (int32_t left = d->out_w, some; left > 0; left -= some) {
        int32_t first = (d->out_w - left) * d->stride - d->pad; /* column 0 */
        some = left < RUN_MAX ? left : RUN_MAX;
        int32_t last = (some - 1) * d->stride + 2;
        last = first + last < d->in_w ? last : last - 1;
        run_row_t *end = at;
        for (int32_t i = 0; i < d->k_h; i++) {
            if (rows[i] >= 0) {
                end->x = x + rows[i] + (first + last) * d->in_c;
                end->w = d->w + 3 * i * d->out_c;
                end++;
            }
        }
        run.end = end;
        run.entry = d->stride == 1 ? entry_1[last] : entry_2[last];
        run.cut = first < 0;
        run_channels(d, &run, some, out);
        out += some * d->out_c;
    }
}

void kf_depthwise_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    int32_t inside = 0;
    for (int32_t i = 0; i < d->k_h; i++) {
        inside += rows[i] >= 0;
    }
    if (inside > 0 && d->output.narrow && d->k_h <= KF_DEPTHWISE_TAPS_MAX / 3 && d->k_w == 3 && d->stride <= 2 && d->dilation == 1 &&
        d->multiplier == 1) {
        runs_row(d, x, rows, out);
    } else {
        any_row(d, x, rows, out);
    }
}
