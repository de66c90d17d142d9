/* Many models on a real instruction set: a bare image for an emulated Cortex-M, with the engine as the board's build compiles it.
 *
 * The batch lies behind `batch`, little endian, every part padded to 4 bytes: u32 count; then for each model u32 bytes, u32 inputs,
 * u32 kept (1: states go on from one input to the next), the file, and the inputs, as long as the model asks for. Prints over
 * semihosting, a line a model: its outputs in hex, or "refused", status and fault.
 */
#include <stdint.h>
#include <string.h>

#include "../train/bare.h"
#include "kilofed/model.h"
#include "kilofed/nn.h"

enum { ARENA_BYTES = 160 << 10, BUDGET = 3000 };

extern const uint8_t batch[];

static uint32_t arena[ARENA_BYTES / 4];
static kf_model_t model;
static kf_nn_t nn;

static uint32_t word(const uint8_t **at) {
    uint32_t value;
    memcpy(&value, *at, 4);
    *at += 4;
    return value;
}

static kf_status_t run(const uint8_t *input, int kept) {
    kf_status_t status = KF_OK;
    if (kept) {
        kf_nn_restart(&nn);
    } else {
        memset(arena, 0xA5, sizeof arena);
        status = kf_nn_begin(&nn, &model, (uint8_t *)arena, sizeof arena, NULL);
    }
    if (status == KF_OK) {
        memcpy(kf_nn_input(&nn), input, model.input_bytes);
        while ((status = kf_nn_step(&nn, BUDGET)) == KF_MORE) {
        }
    }
    return status;
}

static const uint8_t *one(const uint8_t *at) {
    const uint32_t bytes = word(&at);
    const uint32_t inputs = word(&at);
    const uint32_t kept = word(&at);
    const uint8_t *file = at;
    at += (bytes + 3u) & ~3u;
    kf_status_t status = kf_model_open(&model, file, bytes);
    for (uint32_t i = 0; i < inputs && status == KF_OK; i++) {
        status = run(at, kept && i != 0);
        at += (model.input_bytes + 3u) & ~3u;
        if (status == KF_OK) {
            print_hex((const uint8_t *)kf_nn_output(&nn), model.output_bytes);
        }
    }
    if (status != KF_OK) {
        print("refused ");
        print_number((uint32_t)status);
        print_number(model.fault);
        print("\n");
        leave();
    }
    print("\n");
    return at;
}

void reset(void) {
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* FPU and MVE, where there are any */
    const uint8_t *at = batch;
    for (uint32_t left = word(&at); left > 0; left--) {
        at = one(at);
    }
    leave();
}
