/* Depthwise convolution on Cortex-M0 and M0+. */
#include "../window.h"
#include "value.h"

/* One channel of one window row, `count` places. */
static KF_NOINLINE uint32_t along(const int8_t *x, int32_t x_step, const int8_t *w, int32_t w_step, int32_t count, int32_t x_offset) {
    uint32_t total = 0;
    for (; count > 0; count--) {
        total += (uint32_t)(*w * (*x + x_offset));
        x += x_step;
        w += w_step;
    }
    return total;
}

/* Any window. */
static void any_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    for (int32_t out_x = 0; out_x < d->out_w; out_x++) {
        int32_t origin = out_x * d->stride - d->pad;
        kf_part_t part = kf_window_part(origin, d->k_w, d->dilation, d->in_w);
        int32_t start = (origin + part.first * d->dilation) * d->in_c;
        for (int32_t c = 0, in_c = 0, copy = 0; c < d->out_c; c++) {
            uint32_t sum = (uint32_t)d->channels[c].bias;
            const int8_t *w = d->w + c + part.first * d->out_c;
            for (int32_t i = 0; i < d->k_h; i++, w += d->k_w * d->out_c) {
                if (rows[i] >= 0) {
                    sum += along(x + rows[i] + start + in_c, d->dilation * d->in_c, w, d->out_c, part.end - part.first,
                                 d->x_offset);
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

/* A run of up to five outputs of windows three wide, one channel: the window's row stays in registers and so do the sums. Column
 * k of the input, counted from the first output's window, meets the third weight for output k - 2, the second for k - 1,
 * and the first for k; or, with a stride of two, the second for output (k - 1) / 2, or the third and the first for the two around
 * it. Columns come from the last to the first, so that a shorter run begins further down. */
enum { RUN_MAX = 5, COLUMNS_MAX = 2 * RUN_MAX };

typedef struct run_row {
    const int8_t *x; /* channel 0 of column 0, which may lie outside the row */
    const int8_t *w; /* channel 0 of the third weight */
} run_row_t;

typedef struct run {
    const run_row_t *rows, *end; /* the window's rows that lie inside the image, one at least */
    int32_t back;                /* -channels: from one column, or weight, to the one before */
    int32_t last;                /* the last column there is, times the channels */
    int32_t entry;               /* where the code for it is, in bytes from that for the last one possible */
    int32_t stride;              /* 1 or 2 */
    int32_t cut;                 /* 1: column 0 lies outside the row */
    int32_t x_offset;
} run_t;

/* `entry` of each last column; a run has two columns at least. */
static const uint8_t entry_1[RUN_MAX + 2] = {0, 92, 70, 48, 26, 10, 0};
static const uint8_t entry_2[COLUMNS_MAX + 1] = {0, 114, 98, 88, 72, 62, 46, 36, 20, 10, 0};

#define COLUMN                      \
    "ldrsb %[x], [%[p], %[i]]\n\t"  \
    "add %[i], lr\n\t"              \
    "add %[x], %[o]\n\t"
#define TIMES(sum, w)               \
    "movs %[t], %[x]\n\t"           \
    "muls %[t], %[" w "]\n\t"       \
    "add %[" sum "], %[t]\n\t"
#define LAST_TIMES(sum, w)          \
    "muls %[x], %[" w "]\n\t"       \
    "add %[" sum "], %[x]\n\t"
#define STRIDE_1                                                           \
    COLUMN LAST_TIMES("s4", "w2")                                          \
    COLUMN TIMES("s3", "w2") LAST_TIMES("s4", "w1")                        \
    COLUMN TIMES("s2", "w2") TIMES("s3", "w1") LAST_TIMES("s4", "w0")      \
    COLUMN TIMES("s1", "w2") TIMES("s2", "w1") LAST_TIMES("s3", "w0")      \
    COLUMN TIMES("s0", "w2") TIMES("s1", "w1") LAST_TIMES("s2", "w0")      \
    COLUMN TIMES("s0", "w1") LAST_TIMES("s1", "w0")
#define STRIDE_2                                                           \
    COLUMN LAST_TIMES("s4", "w2")                                          \
    COLUMN LAST_TIMES("s4", "w1")                                          \
    COLUMN TIMES("s3", "w2") LAST_TIMES("s4", "w0")                        \
    COLUMN LAST_TIMES("s3", "w1")                                          \
    COLUMN TIMES("s2", "w2") LAST_TIMES("s3", "w0")                        \
    COLUMN LAST_TIMES("s2", "w1")                                          \
    COLUMN TIMES("s1", "w2") LAST_TIMES("s2", "w0")                        \
    COLUMN LAST_TIMES("s1", "w1")                                          \
    COLUMN TIMES("s0", "w2") LAST_TIMES("s1", "w0")                        \
    COLUMN LAST_TIMES("s0", "w1")
/* lr: GCC takes no sixth operand that needs a high register. */
#define ROWS(columns)                                                                                                         \
    __asm__ volatile(".syntax unified\n\t"                                                                                    \
                     "ldr %[t], %[back]\n\t"                                                                                  \
                     "mov lr, %[t]\n"                                                                                         \
                     "1:\n\t"                                                                                                 \
                     "ldr %[t], %[row]\n\t"                                                                                   \
                     "ldmia %[t]!, {%[p], %[x]}\n\t"                                                                          \
                     "str %[t], %[row]\n\t"                                                                                   \
                     "ldr %[i], %[c]\n\t"                                                                                     \
                     "ldrsb %[w2], [%[x], %[i]]\n\t"                                                                          \
                     "add %[i], lr\n\t"                                                                                       \
                     "ldrsb %[w1], [%[x], %[i]]\n\t"                                                                          \
                     "add %[i], lr\n\t"                                                                                       \
                     "ldrsb %[w0], [%[x], %[i]]\n\t"                                                                          \
                     "ldr %[i], %[last]\n\t"                                                                                  \
                     "ldr %[t], %[entry]\n\t"                                                                                 \
                     "ldr %[o], %[offset]\n\t"                                                                                \
                     "add pc, %[t]\n\t"                                                                                       \
                     "nop\n\t" /* pc is four bytes ahead */                                                                   \
                     columns                                                                                                  \
                     "ldr %[t], %[cut]\n\t"                                                                                   \
                     "cmp %[t], #0\n\t"                                                                                       \
                     "bne 2f\n\t"                                                                                             \
                     COLUMN LAST_TIMES("s0", "w0")                                                                            \
                     "2:\n\t"                                                                                                 \
                     "ldr %[t], %[row]\n\t"                                                                                   \
                     "ldr %[x], %[end]\n\t"                                                                                   \
                     "cmp %[t], %[x]\n\t"                                                                                     \
                     "bne 1b"                                                                                                 \
                     : [s0] "+h"(s0), [s1] "+h"(s1), [s2] "+h"(s2), [s3] "+h"(s3), [s4] "+h"(s4), [w0] "=&l"(w0),             \
                       [w1] "=&l"(w1), [w2] "=&l"(w2), [x] "=&l"(x), [t] "=&l"(t), [i] "=&l"(i), [p] "=&l"(base),             \
                       [o] "=&l"(spare), [row] "+m"(row)                                                                      \
                     : [back] "m"(run->back), [c] "m"(channel), [last] "m"(last), [entry] "m"(run->entry),                    \
                       [cut] "m"(run->cut), [offset] "m"(run->x_offset), [end] "m"(run->end)                                  \
                     : "lr", "cc", "memory")

static inline void run_sums(const run_t *run, int32_t channel, int32_t bias, int32_t sum[RUN_MAX]) {
    int32_t s0 = bias, s1 = bias, s2 = bias, s3 = bias, s4 = bias;
    int32_t last = channel + run->last;
    const run_row_t *row = run->rows;
    int32_t w0, w1, w2, t, i, spare;
    register int32_t base __asm__("r0"), x __asm__("r1"); /* LDMIA loads in the order of the numbers */
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

/* Windows three wide, one filter a channel, one or two places apart. At most one column of a row's windows lies outside the image
 * on either side. */
static void runs_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    run_row_t *at = d->scratch;
    run_t run = {at, at, -d->out_c, 0, 0, d->stride, 0, d->x_offset};
    for (int32_t left = d->out_w, some; left > 0; left -= some) {
        int32_t first = (d->out_w - left) * d->stride - d->pad; /* column 0 */
        some = left < RUN_MAX ? left : RUN_MAX;
        int32_t last = (some - 1) * d->stride + 2;
        last = first + last < d->in_w ? last : last - 1;
        run_row_t *end = at;
        for (int32_t i = 0; i < d->k_h; i++) {
            if (rows[i] >= 0) {
                end->x = x + rows[i] + first * d->in_c;
                end->w = d->w + (3 * i + 2) * d->out_c;
                end++;
            }
        }
        run.end = end;
        run.last = last * d->out_c;
        run.entry = d->stride == 1 ? entry_1[last] : entry_2[last];
        run.cut = first < 0;
        for (int32_t c = 0; c < d->out_c; c++) {
            int32_t sum[RUN_MAX];
            run_sums(&run, c, d->channels[c].bias, sum);
            kf_values(&d->output, &d->channels[c], 0, sum, some, out + c, d->out_c);
        }
        out += some * d->out_c;
    }
}

void kf_depthwise_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    int32_t inside = 0;
    for (int32_t i = 0; i < d->k_h; i++) {
        inside += rows[i] >= 0;
    }
    if (inside > 0 && d->k_h <= KF_DEPTHWISE_TAPS_MAX / 3 && d->k_w == 3 && d->stride <= 2 && d->dilation == 1 &&
        d->multiplier == 1) {
        runs_row(d, x, rows, out);
    } else {
        any_row(d, x, rows, out);
    }
}
