/* A kernel family against the portable one on the core that the family is for, bit for bit: random values and the ends of every range.
 *
 * The family is compiled with its functions renamed to family_*. Prints a line: cases compared, and "equal" or where the first
 * difference is.
 */
#include <stdint.h>
#include <string.h>

#include "../../../firmware/src/train/kernels.h"
#include "bare.h"

void family_forward(const kf_forward_t *p);
void family_backward(kf_backward_t *p);
extern const uint32_t family_backward_features;
uint32_t family_exponentials(int32_t *z, uint32_t classes, int32_t top);

enum { WEIGHTS = 640, CLASSES_MAX = 5, BYTES = 1500, CASES = 400 };

static int32_t weights[WEIGHTS], moved[2][WEIGHTS], bias[CLASSES_MAX], logits[2][KF_TILE * CLASSES_MAX + 2];
static int8_t ring[BYTES];
static uint32_t at[KF_MAX_BATCH], scratch[KF_BACKWARD_BYTES(KF_MAX_BATCH) / 4 / 4];
static int16_t errors[2 * KF_MAX_BATCH];

static uint32_t state = 1;

static uint32_t below(uint32_t n) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return (uint32_t)((uint64_t)(state >> 8) * n >> 24);
}

/* One of the ends, or anything between. */
static int32_t value(int32_t low, int32_t high, uint32_t extreme) {
    if (extreme != 0) {
        return extreme == 1 ? low : extreme == 2 ? high : below(2) ? low : high;
    }
    return low + (int32_t)below((uint32_t)(high - low) + 1u);
}

/* Widths at which blocks, words and groups begin and end; more of them are drawn. */
static const uint16_t WIDTHS[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 160, 257, 300};

static void fail(uint32_t n, const char *what) {
    print_number(n);
    print(what);
    print("\n");
    leave();
}

static void compare_forward(uint32_t n, uint32_t width) {
    const uint32_t classes = 1 + below(WEIGHTS / width < CLASSES_MAX ? WEIGHTS / width : CLASSES_MAX), extreme = below(4);
    const uint32_t k = below(9), samples = 1 + below(KF_TILE);
    /* The largest weight for which k is right, at most KF_WEIGHT_MAX. */
    const int32_t top = (INT32_C(32768) << k) - 1 - ((INT32_C(1) << k) >> 1);
    for (uint32_t i = 0; i < classes * width; i++) {
        weights[i] = value(-top, top, extreme);
    }
    for (uint32_t c = 0; c < classes; c++) {
        bias[c] = value(-KF_BIAS_MAX, KF_BIAS_MAX - 1, extreme);
    }
    const int32_t zp = below(2) ? value(-128, 127, 3) : value(-128, 127, 0);
    const uint32_t x_extreme = below(4);
    for (uint32_t i = 0; i < BYTES; i++) {
        ring[i] = (int8_t)value(-128, 127, x_extreme);
    }
    for (uint32_t i = 0; i < samples; i++) {
        at[i] = below(BYTES - width + 1); /* they may overlap, and end where the memory does */
    }
    memset(logits, 0x5A, sizeof logits);
    kf_forward_t p = {.w = weights, .bias = bias, .features = ring, .at = at, .z = logits[0] + 1,
                      .width = width, .classes = classes, .samples = samples, .k = k, .x_zp = zp};
    kf_forward(&p);
    p.z = logits[1] + 1;
    family_forward(&p);
    for (uint32_t c = 0; c < classes; c++) {
        if (memcmp(logits[0] + 1 + c * KF_TILE, logits[1] + 1 + c * KF_TILE, samples * sizeof logits[0][0]) != 0) {
            fail(n, "forward differs");
        }
    }
    const uint32_t behind = 1 + classes * KF_TILE;
    if (logits[1][0] != 0x5A5A5A5A || memcmp(logits[0] + behind, logits[1] + behind, sizeof logits[0] - 4 * behind) != 0) {
        fail(n, "forward writes outside its logits");
    }
}

static void compare_backward(uint32_t n, uint32_t width) {
    const uint32_t rows = WEIGHTS / width < 2 ? 1 : 2, classes = 1 + below(rows), f = below(width), count = 1 + below(width - f);
    const uint32_t extreme = below(4), samples = below(3) == 0 ? KF_MAX_BATCH / 4 : 1 + below(KF_MAX_BATCH / 4), x_extreme = below(4);
    const uint32_t stride = (samples + 3u) & ~3u, e_extreme = below(4), shift = below(8) == 0 ? 1 + below(16) : 17 + below(30);
    for (uint32_t i = 0; i < classes * width; i++) {
        weights[i] = value(-KF_WEIGHT_MAX, KF_WEIGHT_MAX, extreme);
    }
    for (uint32_t i = 0; i < classes * stride; i++) {
        errors[i] = (int16_t)(below(3) == 0 ? 0 : value(-32768, 32767, e_extreme));
    }
    for (uint32_t i = 0; i < BYTES; i++) {
        ring[i] = (int8_t)value(-128, 127, x_extreme);
    }
    for (uint32_t i = 0; i < samples; i++) {
        at[i] = below(BYTES - width + 1);
    }
    const uint16_t mantissa = (uint16_t)(16384 + below(16384));
    const uint32_t largest = below(2) ? 0 : (uint32_t)KF_WEIGHT_MAX;
    const int32_t zp = below(2) ? value(-128, 127, 3) : value(-128, 127, 0);
    memcpy(moved[0], weights, sizeof weights);
    memcpy(moved[1], weights, sizeof weights);
    kf_backward_t p[2];
    for (int which = 0; which < 2; which++) {
        p[which] = (kf_backward_t){.w = moved[which] + f,
                                   .errors = errors,
                                   .features = ring + f,
                                   .at = at,
                                   .scratch = scratch,
                                   .rate = {mantissa, (uint8_t)shift},
                                   .width = width,
                                   .stride = stride,
                                   .samples = samples,
                                   .classes = classes,
                                   .count = count,
                                   .f = f,
                                   .x_zp = zp,
                                   .largest = largest};
    }
    kf_backward(&p[0]);
    memset(scratch, 0xA5, sizeof scratch);
    family_backward(&p[1]);
    if (memcmp(moved[0], moved[1], sizeof weights) != 0 || p[0].largest != p[1].largest) {
        fail(n, "backward differs");
    }
}

/* Logits at every distance that matters, 0 to beyond 16 nats, and at the ends. */
static void compare_exponentials(void) {
    int32_t z[2][3 * KF_TILE];
    for (uint32_t d = 0; d < 66000; d++) {
        const int32_t top = d % 3 == 0 ? INT32_MAX : d % 3 == 1 ? INT32_MIN + 66000 : 100;
        memset(z, 0, sizeof z);
        z[0][0] = z[1][0] = top - (int32_t)d;
        z[0][KF_TILE] = z[1][KF_TILE] = top;
        z[0][2 * KF_TILE] = z[1][2 * KF_TILE] = INT32_MIN;
        if (kf_exponentials(z[0], 3, top) != family_exponentials(z[1], 3, top) || memcmp(z[0], z[1], sizeof z[0]) != 0) {
            fail(d, "exponentials differ");
        }
    }
}

/* A function of its own: what saves vector registers comes after the unit is on. */
__attribute__((noinline)) static void compare(void) {
    if (family_backward_features % KF_FEATURES_AT_ONCE != 0) {
        fail(0, "features of a rectangle");
    }
    for (uint32_t n = 0; n < CASES; n++) {
        const uint32_t listed = sizeof WIDTHS / sizeof WIDTHS[0], width = n < listed ? WIDTHS[n] : 1 + below(n % 4 ? 70 : 320);
        compare_forward(n, width);
        compare_backward(n, width);
    }
    compare_exponentials();
    print_number(CASES);
    print("equal\n");
    leave();
}

void reset(void) {
    enable_fpu();
    compare();
}
