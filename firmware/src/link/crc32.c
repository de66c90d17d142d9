#include "crc32.h"

/* Sums of the 16 nibbles: 64 bytes of flash in place of a kilobyte for whole bytes, and twice as fast as bit by bit. A
 * frame of 128 bytes takes about 3 000 instructions on a Cortex-M0, a hundredth of its time on a line of 115 200 baud. */
static const uint32_t nibbles[16] = {
    0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
    0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
};

uint32_t kf_crc32_byte(uint32_t inverted, uint8_t byte) {
    inverted ^= byte;
    inverted = (inverted >> 4) ^ nibbles[inverted & 15u];
    return (inverted >> 4) ^ nibbles[inverted & 15u];
}

uint32_t kf_crc32(uint32_t crc, const uint8_t *bytes, size_t size) {
    uint32_t inverted = ~crc;
    for (size_t i = 0; i < size; i++) {
        inverted = kf_crc32_byte(inverted, bytes[i]);
    }
    return ~inverted;
}
