/* CRC-32 as in IEEE 802.3 and zlib: reflected polynomial 0xEDB88320, all-ones start and end.
 *
 * kf_crc32(kf_crc32(0, a), b) is the sum over a and then b, as with zlib's crc32(). */
#ifndef KF_LINK_CRC32_H
#define KF_LINK_CRC32_H

#include <stddef.h>
#include <stdint.h>

uint32_t kf_crc32(uint32_t crc, const uint8_t *bytes, size_t size);

/* One byte more of a sum that is kept inverted, for a caller that has its bytes one at a time. Begin with
 * KF_CRC32_BEGIN and invert at the end. */
#define KF_CRC32_BEGIN UINT32_C(0xFFFFFFFF)
uint32_t kf_crc32_byte(uint32_t inverted, uint8_t byte);

#endif
