/* Depthwise convolutions on cores with the DSP extension: four channels at once, as they lie in a word. */
#include "../window.h"
#include "words.h"

/* One place of a window, for four channels: ten instructions, eleven cycles. x and w say where its words lie. */
#define PLACE(x, w)                                      \
    "ldr %[xo], " x "\n\t"                               \
    "ldr %[wo], " w "\n\t"                               \
    "sxtab16 %[xe], %[offset], %[xo]\n\t"                \
    "sxtab16 %[xo], %[offset], %[xo], ror #8\n\t"        \
    "sxtb16 %[we], %[wo]\n\t"                            \
    "sxtb16 %[wo], %[wo], ror #8\n\t"                    \
    "smlabb %[s0], %[xe], %[we], %[s0]\n\t"              \
    "smlatt %[s2], %[xe], %[we], %[s2]\n\t"              \
    "smlabb %[s1], %[xo], %[wo], %[s1]\n\t"              \
    "smlatt %[s3], %[xo], %[wo], %[s3]\n\t"

#define PLACES(text, x_at, w_at, step)                                                                                        \
    do {                                                                                                                      \
        uint32_t xe, xo, we, wo;                                                                                              \
        __asm__(text                                                                                                          \
                : [s0] "+r"(sum.s0), [s1] "+r"(sum.s1), [s2] "+r"(sum.s2), [s3] "+r"(sum.s3), [xe] "=&r"(xe), [xo] "=&r"(xo), \
                  [we] "=&r"(we), [wo] "=&r"(wo)                                                                              \
                : [x] "r"(x_at), [w] "r"(w_at), [s] "r"(step), [offset] "r"(offset)                                           \
                : "memory");                                                                                                  \
    } while (0)

/* A row of a window that is inside the image: its first place that is, and the weights of that place, for channel 0. */
typedef struct line {
    const int8_t *x, *w;
} line_t;

/* Sums of four channels. */
typedef struct sums {
    int32_t s0, s1, s2, s3;
} sums_t;

/* What the windows of an output row have in common. */
typedef struct row {
    int16x2_t offset;
    int32_t x_step, w_step; /* from place to place */
    int32_t up;             /* 2 zp + 1 of tight outputs, else 0 */
    const line_t *lines, *end;
} row_t;

/* Four channels over lines of `places` places; 0: of any number, `count`. A constant but for 0. */
static inline __attribute__((always_inline)) sums_t four(const row_t *r, int32_t c, int32_t places, int32_t count, sums_t sum) {
    const int16x2_t offset = r->offset;
    const int32_t step = r->x_step;
    for (const line_t *line = r->lines; line != r->end; line++) {
        const int8_t *x = line->x + c;
        const int8_t *w = line->w + c;
        if (places == 3) {
            PLACES(PLACE("[%[x]]", "[%[w]]") PLACE("[%[x], %[s]]", "[%[w], %[s]]")
                       PLACE("[%[x], %[s], lsl #1]", "[%[w], %[s], lsl #1]"),
                   x, w, step);
        } else if (places == 2) {
            PLACES(PLACE("[%[x]]", "[%[w]]") PLACE("[%[x], %[s]]", "[%[w], %[s]]"), x, w, step);
        } else {
            for (int32_t left = count; left > 0; left--, x += step, w += r->w_step) {
                PLACES(PLACE("[%[x]]", "[%[w]]"), x, w, step);
            }
        }
    }
    return sum;
}

/* One channel, on one window row: `count` places. */
static int32_t along(const int8_t *x, int32_t x_step, const int8_t *w, int32_t w_step, int32_t count, int32_t x_offset) {
    int32_t sum = 0;
    for (; count > 0; count--, x += x_step, w += w_step) {
        sum = __smlabb(*w, *x + x_offset, sum);
    }
    return sum;
}

static inline int8_t tight(int32_t sum, const kf_channel_t *channel, int32_t up) {
    return (int8_t)kf_tight(sum, channel->mult, up << channel->right, channel->right);
}

/* Channels [0, channels), a multiple of four, of one output column. `count` places a line are inside. */
static void fours(const kf_depthwise_t *d, const row_t *r, int32_t channels, int32_t count, int8_t *out) {
    const kf_channel_t *channel = d->channels;
    int32_t whole = r->x_step == r->w_step ? count : 0;
    for (int32_t c = 0; c < channels; c += 4, channel += 4, out += 4) {
        sums_t sum = {channel[0].bias, channel[1].bias, channel[2].bias, channel[3].bias};
        if (whole == 3) {
            sum = four(r, c, 3, 3, sum);
        } else if (whole == 2) {
            sum = four(r, c, 2, 2, sum);
        } else {
            sum = four(r, c, 0, count, sum);
        }
        if (r->up != 0) {
            out[0] = tight(sum.s0, &channel[0], r->up);
            out[1] = tight(sum.s1, &channel[1], r->up);
            out[2] = tight(sum.s2, &channel[2], r->up);
            out[3] = tight(sum.s3, &channel[3], r->up);
        } else {
            sums_t all = sum;
            kf_finish(&d->output, channel, &all.s0, 4, out);
        }
    }
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

void kf_depthwise_row(const kf_depthwise_t *d, const int8_t *x, const int32_t *rows, int8_t *out) {
    uint32_t reach = (uint32_t)((d->out_w - 1) * d->stride + (d->k_w - 1) * d->dilation + 1);
    line_t *lines = d->scratch;
    int32_t in_fours = 0;
    if (kf_depthwise_bytes((uint32_t)d->k_h, (uint32_t)d->k_w, reach, (uint32_t)d->multiplier) != 0) {
        in_fours = d->out_c & ~3; /* there is room for a line of each window row */
    }
    row_t r = {kf_both(d->x_offset), d->dilation * d->in_c, d->out_c, kf_is_tight(&d->output) ? 2 * d->output.zp + 1 : 0, lines,
               lines};
    for (int32_t out_x = 0; out_x < d->out_w; out_x++, out += d->out_c) {
        int32_t origin = out_x * d->stride - d->pad;
        kf_part_t part = kf_window_part(origin, d->k_w, d->dilation, d->in_w);
        const int8_t *start = x + (origin + part.first * d->dilation) * d->in_c;
        if (in_fours != 0) {
            line_t *line = lines;
            const int8_t *w = d->w + part.first * d->out_c;
            for (int32_t i = 0; i < d->k_h; i++, w += d->k_w * d->out_c) {
                if (rows[i] >= 0) {
                    *line++ = (line_t){start + rows[i], w};
                }
            }
            r.end = line;
            fours(d, &r, in_fours, part.end - part.first, out);
        }
        if (in_fours != d->out_c) {
            ones(d, start, rows, part, in_fours, out);
        }
    }
}
