/* What the fuzz targets share: reading the fuzzer's bytes as numbers, exact blocks of memory, and promises. */
#ifndef KF_FUZZ_INPUT_H
#define KF_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A promise of a header. NDEBUG does not switch it off, and the line that broke is said before the process ends. */
#define PROMISE(what)                                                                                                  \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #what);                                 \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* The bytes of one run, taken from the front. Past the end there are zeros: every input means something. */
typedef struct kf_input {
    const uint8_t *at;
    size_t left;
} kf_input_t;

static inline uint32_t take_number(kf_input_t *in, unsigned bytes) {
    uint32_t v = 0;
    for (unsigned i = 0; i < bytes && in->left > 0; i++, in->at++, in->left--) {
        v |= (uint32_t)*in->at << (8 * i);
    }
    return v;
}

/* A block of its own, of exactly `bytes`, so that the sanitizer sees every byte beyond it; poisoned, so that nothing counts
 * on zeros. free() it. */
static inline void *block(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    PROMISE(p != NULL);
    memset(p, 0xA5, bytes);
    return p;
}

/* Up to `most` bytes in a block of their own; *size says how many there were. */
static inline uint8_t *take_block(kf_input_t *in, size_t most, size_t *size) {
    *size = most < in->left ? most : in->left;
    uint8_t *p = block(*size);
    memcpy(p, in->at, *size);
    in->at += *size;
    in->left -= *size;
    return p;
}

#endif
