/* What the compiler and the core ask of a C library: memcpy, memmove, memset, and memcmp. The toolchain's are written for speed
 * on long blocks, and take 600 bytes of an image in which only inner loops are hot, and those copy for themselves.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Any object may be read through these. */
typedef uint32_t __attribute__((may_alias)) word_t;

static int aligned(const void *a, const void *b) {
    return (((uintptr_t)a | (uintptr_t)b) & 3u) == 0;
}

/* From the first byte to the last. */
static __attribute__((noinline)) void *forward(void *to, const void *from, size_t size) {
    uint8_t *out = to;
    const uint8_t *in = from;
    if (aligned(out, in)) {
        for (; size >= 4; size -= 4, out += 4, in += 4) {
            *(word_t *)(void *)out = *(const word_t *)(const void *)in;
        }
    }
    while (size-- > 0) {
        *out++ = *in++;
    }
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    return forward(to, from, size);
}

void *memmove(void *to, const void *from, size_t size) {
    uint8_t *out = to;
    const uint8_t *in = from;
    if ((uintptr_t)out - (uintptr_t)in >= size) { /* as unsigned: it begins below, or behind the end */
        return forward(to, from, size);
    }
    while (size-- > 0) {
        out[size] = in[size];
    }
    return to;
}

void *memset(void *to, int value, size_t size) {
    uint8_t *out = to;
    if (aligned(out, NULL)) {
        const uint32_t word = (uint8_t)value * 0x01010101u;
        for (; size >= 4; size -= 4, out += 4) {
            *(word_t *)(void *)out = word;
        }
    }
    while (size-- > 0) {
        *out++ = (uint8_t)value;
    }
    return to;
}

int memcmp(const void *a, const void *b, size_t size) {
    const uint8_t *left = a;
    const uint8_t *right = b;
    for (; size > 0; size--, left++, right++) {
        if (*left != *right) {
            return *left - *right;
        }
    }
    return 0;
}
