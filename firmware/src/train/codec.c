#include "codec.h"

#include "../bytes.h"

uint32_t kf_codec_bytes(uint8_t codec, uint32_t n) {
    const uint32_t per_byte = codec_values_per_byte(codec);
    return per_byte == 0 ? 4u * n : (n + per_byte - 1u) / per_byte;
}

int32_t kf_codec_get(uint8_t codec, const uint8_t *packed, uint32_t i) {
    switch (codec) {
    case KF_CODEC_INT32:
        return kf_get_i32(packed + 4u * (size_t)i);
    case KF_CODEC_INT8:
        return (int32_t)(packed[i] ^ 0x80u) - 128;
    case KF_CODEC_INT4:
        return (int32_t)((((uint32_t)packed[i / 2u] >> (i % 2u * 4u)) & 15u) ^ 8u) - 8;
    default: {
        static const uint8_t POWER[5] = {1, 3, 9, 27, 81};
        return (int32_t)(packed[i / 5u] / POWER[i % 5u] % 3u) - 1;
    }
    }
}

int kf_codec_is_canonical(uint8_t codec, const uint8_t *packed, uint32_t n) {
    const uint32_t per_byte = codec_values_per_byte(codec);
    const uint32_t bytes = kf_codec_bytes(codec, n);
    if (codec == KF_CODEC_TERNARY) {
        for (uint32_t k = 0; k < bytes; k++) {
            if (packed[k] >= 243u) {
                return 0;
            }
        }
    }
    for (uint32_t i = n; per_byte != 0 && i < bytes * per_byte; i++) {
        if (kf_codec_get(codec, packed, i) != 0) {
            return 0;
        }
    }
    return 1;
}
