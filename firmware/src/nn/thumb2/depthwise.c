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
 * for k - 1, and the first for k. Columns come from the last to the first, so that a shorter run begins further down. */
enum { RUN_MAX = 5 };

typedef struct run_row {
    const int8_t *x; /* channel 0 of the last column */
    const int8_t *w; /* channel 0 of the first weight */
} run_row_t;

typedef struct run {
    const run_row_t *rows, *end; /* the window's rows that lie inside the image, one at least */
    int32_t channels;            /* from one column, or weight, to the next */
    int32_t entry;               /* where the code for the last column is, in bytes from that for column RUN_MAX + 1 */
    int32_t cut;                 /* 1: column 0 lies outside the row */
    int32_t x_offset;
} run_t;

/* Bytes of code before each column's; a run has two at least. */
static const uint8_t column_entry[RUN_MAX + 2] = {0, 108, 84, 60, 36, 16, 0};

static inline void run_sums(const run_t *run, int32_t channel, int32_t bias, int32_t sum[RUN_MAX]) {
    int32_t s0 = bias, s1 = bias, s2 = bias, s3 = bias, s4 = bias;
    int32_t entry = run->entry, cut = run->cut, w0, w1, w2, x;
    const int8_t *at;
    const run_row_t *row = run->rows, *end = run->end;
#define COLUMN                           \
    "ldrsb.w %[x], [%[at]]\n\t"          \
    "sub.w %[at], %[at], %[step]\n\t"    \
    "add.w %[x], %[x], %[offset]\n\t"
#define TIMES(sum, w) "mla %[" sum "], %[" w "], %[x], %[" sum "]\n\t"
    __asm__ volatile("1:\n\t"
                     "ldrd %[at], %[w2], [%[row]], #8\n\t"
                     "ldr %[x], %[c]\n\t"
                     "add %[at], %[x]\n\t"
                     "add %[w2], %[x]\n\t"
                     "ldrsb %[w0], [%[w2]]\n\t"
                     "ldrsb %[w1], [%[w2], %[step]]\n\t"
                     "ldrsb %[w2], [%[w2], %[step], lsl #1]\n\t"
                     "ldr %[x], %[entry]\n\t"
                     "add pc, %[x]\n\t"
                     "nop.n\n\t" /* pc is four bytes ahead */
                     COLUMN TIMES("s4", "w2")
                     COLUMN TIMES("s4", "w1") TIMES("s3", "w2")
                     COLUMN TIMES("s4", "w0") TIMES("s3", "w1") TIMES("s2", "w2")
                     COLUMN TIMES("s3", "w0") TIMES("s2", "w1") TIMES("s1", "w2")
                     COLUMN TIMES("s2", "w0") TIMES("s1", "w1") TIMES("s0", "w2")
                     COLUMN TIMES("s1", "w0") TIMES("s0", "w1")
                     "ldr %[x], %[cut]\n\t"
                     "cmp %[x], #0\n\t"
                     "bne 2f\n\t"
                     COLUMN TIMES("s0", "w0")
                     "2:\n\t"
                     "ldr %[x], %[end]\n\t"
                     "cmp %[row], %[x]\n\t"
                     "bne 1b"
                     : [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3), [s4] "+r"(s4), [w0] "=&r"(w0),
                       [w1] "=&r"(w1), [w2] "=&r"(w2), [x] "=&r"(x), [at] "=&r"(at), [row] "+r"(row)
                     : [step] "r"(run->channels), [offset] "r"(run->x_offset), [c] "m"(channel), [entry] "m"(entry),
                       [cut] "m"(cut), [end] "m"(end)
                     : "cc", "memory");
#undef COLUMN
#undef TIMES
    sum[0] = s0;
    sum[1] = s1;
    sum[2] = s2;
    sum[3] = s3;
    sum[4] = s4;
}

/* `count` sums of one channel, 1..RUN_MAX, to out[0], out[out_step], ... */
static inline void finish_run(const kf_output_t *o, const kf_channel_t *channel, const int32_t *sum, int32_t count, int8_t *out,
                              int32_t out_step) {
    if (!kf_is_plain(o)) {
        for (; count > 0; count--, out += out_step) {
            *out = kf_value(o, channel, *sum++);
        }
        return;
    }
    int32_t half = 2 * o->zp + 1, mult = channel->mult, right = channel->right;
    for (; count > 0; count--, out += out_step) {
        *out = kf_plain_value(mult, right, *sum++, half);
    }
}

/* Windows three wide, one place apart, of one filter a channel. */
static void runs_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    run_row_t *const at = d->scratch;
    run_t run = {at, at, d->out_c, 0, 0, d->x_offset};
    for (int32_t left = d->out_w, some; left > 0; left -= some) {
        int32_t first = d->out_w - left - d->pad; /* column 0 */
        some = left < RUN_MAX ? left : RUN_MAX;
        int32_t last = first + some + 1 < d->in_w ? some + 1 : some;
        run_row_t *end = at;
        for (int32_t i = 0; i < d->k_h; i++) {
            if (rows[i] >= 0) {
                end->x = x + rows[i] + (first + last) * d->in_c;
                end->w = d->w + 3 * i * d->out_c;
                end++;
            }
        }
        run.end = end;
        run.entry = column_entry[last];
        run.cut = first < 0;
        for (int32_t c = 0; c < d->out_c; c++) {
            int32_t sum[RUN_MAX];
            run_sums(&run, c, d->channels[c].bias, sum);
            finish_run(&d->output, &d->channels[c], sum, some, out + c, d->out_c);
        }
        out += some * d->out_c;
    }
}

void kf_depthwise_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    int32_t inside = 0;
    for (int32_t i = 0; i < d->k_h; i++) {
        inside += rows[i] >= 0;
    }
    if (inside > 0 && d->k_h <= KF_DEPTHWISE_TAPS_MAX / 3 && d->k_w == 3 && d->stride == 1 && d->dilation == 1 &&
        d->multiplier == 1) {
        runs_row(d, x, rows, out);
    } else {
        any_row(d, x, rows, out);
    }
}
