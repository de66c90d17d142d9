/* A flatbuffer read byte by byte, with every access checked.
 *
 * A reader is a value with a sticky flag: a read outside the file gives 0 and sets `bad`, so that a decoder can read a
 * whole structure straight through and look at `bad` once. Positions are byte offsets into the file; 0 (the file's own
 * header) is never a table or a vector and stands for "absent". Format: flatbuffers.dev/internals; schema: schema.h.
 */
#ifndef KF_MODEL_FLATBUFFER_H
#define KF_MODEL_FLATBUFFER_H

#include <stdint.h>

typedef struct kf_fb {
    const uint8_t *data;
    uint32_t size; /* < 2^31, so that position + 4 cannot wrap */
    uint8_t bad;
} kf_fb_t;

/* Little-endian reads at any alignment. Outside the file: 0, and `bad`. */
uint32_t kf_fb_u8(kf_fb_t *fb, uint32_t at);
uint32_t kf_fb_u16(kf_fb_t *fb, uint32_t at);
uint32_t kf_fb_u32(kf_fb_t *fb, uint32_t at);
int32_t kf_fb_i32(kf_fb_t *fb, uint32_t at);

/* Position of the table that the u32 offset at `at` points to. A null or wild offset: 0, and `bad`. */
uint32_t kf_fb_follow(kf_fb_t *fb, uint32_t at);

/* Position of field `id` of a table, or 0 when the field is absent (its default holds). Table 0 has no fields. */
uint32_t kf_fb_field(kf_fb_t *fb, uint32_t table, uint32_t id);

/* A scalar field of a table, or `absent`. */
uint32_t kf_fb_get_u8(kf_fb_t *fb, uint32_t table, uint32_t id, uint32_t absent);
int32_t kf_fb_get_i32(kf_fb_t *fb, uint32_t table, uint32_t id, int32_t absent);

/* A table field of a table, or 0. */
uint32_t kf_fb_get_table(kf_fb_t *fb, uint32_t table, uint32_t id);

/* A vector field: position of its first element and its count, all of it inside the file; absent: 0 and count 0. */
uint32_t kf_fb_get_vector(kf_fb_t *fb, uint32_t table, uint32_t id, uint32_t element_bytes, uint32_t *count);

/* Little-endian int32 at a position that was verified before: no check. */
static inline int32_t kf_le32(const uint8_t *p) {
    return (int32_t)((uint32_t)p[0] | ((uint32_t)p[1] << 8) | ((uint32_t)p[2] << 16) | ((uint32_t)p[3] << 24));
}

#endif
