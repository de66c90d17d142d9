#include "flatbuffer.h"

/* 1 when `bytes` bytes at `at` lie in the file; sets `bad` otherwise. No sum is formed, so nothing wraps. */
static int inside(kf_fb_t *fb, uint32_t at, uint32_t bytes) {
    if (at > fb->size || bytes > fb->size - at) {
        fb->bad = 1;
        return 0;
    }
    return 1;
}

uint32_t kf_fb_u8(kf_fb_t *fb, uint32_t at) {
    return inside(fb, at, 1) ? fb->data[at] : 0u;
}

uint32_t kf_fb_u16(kf_fb_t *fb, uint32_t at) {
    return inside(fb, at, 2) ? (uint32_t)fb->data[at] | ((uint32_t)fb->data[at + 1] << 8) : 0u;
}

uint32_t kf_fb_u32(kf_fb_t *fb, uint32_t at) {
    return inside(fb, at, 4) ? (uint32_t)kf_le32(fb->data + at) : 0u;
}

int32_t kf_fb_i32(kf_fb_t *fb, uint32_t at) {
    return (int32_t)kf_fb_u32(fb, at);
}

uint32_t kf_fb_follow(kf_fb_t *fb, uint32_t at) {
    uint32_t offset = kf_fb_u32(fb, at);
    if (fb->bad || offset == 0 || offset >= fb->size - at) {
        fb->bad = 1;
        return 0;
    }
    return at + offset;
}

uint32_t kf_fb_field(kf_fb_t *fb, uint32_t table, uint32_t id) {
    if (table == 0) {
        return 0;
    }
    /* The distance to the vtable is signed; as unsigned the difference wraps to the same position, and a position that
     * is not in the file fails the check of the read that follows. */
    uint32_t vtable = table - kf_fb_u32(fb, table);
    uint32_t vtable_bytes = kf_fb_u16(fb, vtable);
    uint32_t entry = 4 + 2 * id;
    if (fb->bad || entry + 2 > vtable_bytes) {
        return 0;
    }
    uint32_t offset = kf_fb_u16(fb, vtable + entry);
    if (fb->bad || offset == 0) {
        return 0;
    }
    return table + offset; /* table < 2^31 and offset < 2^16: no wrap; the caller's read checks it */
}

uint32_t kf_fb_get_u8(kf_fb_t *fb, uint32_t table, uint32_t id, uint32_t absent) {
    uint32_t at = kf_fb_field(fb, table, id);
    return at == 0 ? absent : kf_fb_u8(fb, at);
}

int32_t kf_fb_get_i32(kf_fb_t *fb, uint32_t table, uint32_t id, int32_t absent) {
    uint32_t at = kf_fb_field(fb, table, id);
    return at == 0 ? absent : kf_fb_i32(fb, at);
}

uint32_t kf_fb_get_table(kf_fb_t *fb, uint32_t table, uint32_t id) {
    uint32_t at = kf_fb_field(fb, table, id);
    return at == 0 ? 0 : kf_fb_follow(fb, at);
}

uint32_t kf_fb_get_vector(kf_fb_t *fb, uint32_t table, uint32_t id, uint32_t element_bytes, uint32_t *count) {
    *count = 0;
    uint32_t vector = kf_fb_get_table(fb, table, id);
    if (vector == 0) {
        return 0;
    }
    uint32_t n = kf_fb_u32(fb, vector);
    if (fb->bad || n > (fb->size - vector - 4) / element_bytes) {
        fb->bad = 1;
        return 0;
    }
    *count = n;
    return vector + 4;
}
