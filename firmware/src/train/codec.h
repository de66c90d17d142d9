/* Arrays of small integers packed as a blob's codec says (params.h). Shared by the head blob and the update blob. */
#ifndef KILOFED_TRAIN_CODEC_H
#define KILOFED_TRAIN_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/params.h"

static inline int counts_are_valid(uint16_t classes, uint16_t features) {
    return classes >= 1 && classes <= KF_MAX_CLASSES && features >= 1 && features <= KF_MAX_FEATURES;
}

static inline uint32_t weight_count(uint16_t classes, uint16_t features) {
    return (uint32_t)classes * features;
}

/* Values a byte holds, or 0: four bytes a value. */
static inline uint32_t codec_values_per_byte(uint8_t codec) {
    return codec == KF_CODEC_INT8 ? 1 : codec == KF_CODEC_INT4 ? 2 : codec == KF_CODEC_TERNARY ? 5 : 0;
}

/* Bytes of n packed values; n <= KF_MAX_CLASSES * KF_MAX_FEATURES. */
uint32_t kf_codec_bytes(uint8_t codec, uint32_t n);

/* Value i. */
int32_t kf_codec_get(uint8_t codec, const uint8_t *packed, uint32_t i);

/* Whether n packed values are in the one form an encoder gives: tails as params.h says, ternary bytes below 243. */
int kf_codec_is_canonical(uint8_t codec, const uint8_t *packed, uint32_t n);

#endif
