/* Records in slots of flash pages that are used in turn (store.h has the layout and the promise).
 *
 * Why a cut cannot mix: a record counts only with a right CRC over header and content; the slot that is erased and written is
 * never the newest one's; and the header, which makes a record newer than another, is written last. */
#include "kilofed/store.h"

#include <string.h>

#include "../bytes.h"
#include "../link/crc32.h"

#define MAGIC UINT32_C(0x3253464B) /* "KFS2" */
#define HEADER 20u                 /* bytes used of it */
#define SUMMED 16u                 /* of these, under the CRC */
#define STAGE 256u                 /* the largest write_bytes, so a whole number of any */

static uint32_t header_bytes(const kf_flash_t *flash) {
    return (HEADER + flash->write_bytes - 1u) & ~(flash->write_bytes - 1u);
}

static uint32_t slot_offset(const kf_store_t *s, uint32_t slot) {
    return slot * s->slot_pages * s->flash->page_bytes;
}

static uint32_t content_room(const kf_store_t *s) {
    return s->slot_pages * s->flash->page_bytes - header_bytes(s->flash);
}

/* ---- reading --------------------------------------------------------------------------------------------------- */

/* Whether `slot` holds a whole record newer than `sequence`; then its header is in `header`. 1, 0, or a failure. */
static int slot_look(const kf_store_t *s, uint32_t slot, uint32_t sequence, uint8_t header[HEADER]) {
    uint8_t bytes[64];
    uint32_t at = slot_offset(s, slot);
    kf_status_t status = s->flash->read(s->flash->context, at, header, HEADER);
    if (status != KF_OK) {
        return status;
    }
    uint32_t left = kf_get_u32(header + 12);
    if (kf_get_u32(header) != MAGIC || kf_get_u32(header + 4) <= sequence || left > content_room(s)) {
        return 0;
    }
    uint32_t crc = kf_crc32(0, header, SUMMED);
    at += header_bytes(s->flash);
    while (left > 0) {
        const uint32_t size = left < sizeof bytes ? left : (uint32_t)sizeof bytes;
        status = s->flash->read(s->flash->context, at, bytes, size);
        if (status != KF_OK) {
            return status;
        }
        crc = kf_crc32(crc, bytes, size);
        at += size;
        left -= size;
    }
    return crc == kf_get_u32(header + 16);
}

static int is_power(uint32_t n, uint32_t least, uint32_t most) {
    return n >= least && n <= most && (n & (n - 1u)) == 0;
}

kf_status_t kf_store_open(kf_store_t *s, const kf_flash_t *flash, uint32_t largest) {
    if (s == NULL) {
        return KF_ERR_ARG;
    }
    memset(s, 0, sizeof *s);
    if (flash == NULL || flash->read == NULL || flash->program == NULL || flash->erase == NULL || largest == 0 ||
        largest > INT32_MAX || !is_power(flash->page_bytes, 256, 131072) || !is_power(flash->write_bytes, 1, 256) ||
        flash->pages < 2 || flash->pages > INT32_MAX / flash->page_bytes) {
        return KF_ERR_ARG;
    }
    s->flash = flash;
    s->slot_pages = (header_bytes(flash) + largest + flash->page_bytes - 1u) / flash->page_bytes; /* < 2^32: both < 2^31 */
    const uint32_t slots = flash->pages / s->slot_pages;
    if (slots < 2) {
        return KF_ERR_MEMORY;
    }
    for (uint32_t slot = 0; slot < slots; slot++) {
        uint8_t header[HEADER];
        const int found = slot_look(s, slot, s->sequence, header);
        if (found < 0) {
            return (kf_status_t)found;
        }
        if (found) {
            s->slot = slot;
            s->sequence = kf_get_u32(header + 4);
            s->erases = kf_get_u32(header + 8);
            s->size = kf_get_u32(header + 12);
        }
    }
    s->slots = slots;
    return KF_OK;
}

kf_status_t kf_store_read(const kf_store_t *s, uint32_t offset, void *out, uint32_t size) {
    if (s->slots == 0) {
        return KF_ERR_STATE;
    }
    if (offset > s->size || size > s->size - offset) {
        return KF_ERR_SHAPE;
    }
    return size == 0 ? KF_OK
                     : s->flash->read(s->flash->context, slot_offset(s, s->slot) + header_bytes(s->flash) + offset, out, size);
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

/* Content on its way: whole stages are programmed as they fill. */
typedef struct writer {
    const kf_flash_t *flash;
    uint32_t at;   /* where the stage goes */
    uint32_t fill; /* bytes in it */
    uint8_t stage[STAGE];
} writer_t;

static kf_status_t stage_out(writer_t *w) {
    /* What a last write unit has beyond the content keeps the ones of an erased page. */
    const uint32_t size = (w->fill + w->flash->write_bytes - 1u) & ~(w->flash->write_bytes - 1u);
    memset(w->stage + w->fill, 0xFF, size - w->fill);
    w->fill = 0;
    const uint32_t at = w->at;
    w->at += size;
    return size == 0 ? KF_OK : w->flash->program(w->flash->context, at, w->stage, size);
}

static kf_status_t content_out(writer_t *w, const kf_store_part_t *parts, unsigned count, uint32_t *crc) {
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *from = parts[i].bytes;
        uint32_t left = parts[i].size;
        if (left > 0) {
            *crc = kf_crc32(*crc, from, left);
        }
        while (left > 0) {
            const uint32_t size = left < STAGE - w->fill ? left : STAGE - w->fill;
            memcpy(w->stage + w->fill, from, size);
            w->fill += size;
            from += size;
            left -= size;
            if (w->fill == STAGE) {
                const kf_status_t status = stage_out(w);
                if (status != KF_OK) {
                    return status;
                }
            }
        }
    }
    return stage_out(w);
}

/* The whole of one attempt. *erases counts each page that was begun to be erased. */
static kf_status_t slot_write(const kf_store_t *s, uint32_t slot, uint32_t size, const kf_store_part_t *parts,
                              unsigned count, uint32_t *erases) {
    const kf_flash_t *const flash = s->flash;
    writer_t w = {.flash = flash, .at = slot_offset(s, slot) + header_bytes(flash)};
    uint8_t header[HEADER];
    for (uint32_t page = 0; page < s->slot_pages; page++) {
        (*erases)++;
        const kf_status_t status = flash->erase(flash->context, slot * s->slot_pages + page);
        if (status != KF_OK) {
            return status;
        }
    }
    kf_put_u32(header, MAGIC);
    kf_put_u32(header + 4, s->sequence + 1u);
    kf_put_u32(header + 8, *erases);
    kf_put_u32(header + 12, size);
    uint32_t crc = kf_crc32(0, header, SUMMED);
    kf_status_t status = content_out(&w, parts, count, &crc);
    if (status != KF_OK) {
        return status;
    }
    kf_put_u32(header + 16, crc);
    w.at = slot_offset(s, slot);
    memcpy(w.stage, header, HEADER);
    w.fill = HEADER;
    status = stage_out(&w);
    if (status != KF_OK) {
        return status;
    }
    const int found = slot_look(s, slot, s->sequence, header);
    return found == 1 ? KF_OK : KF_ERR_PORT;
}

kf_status_t kf_store_write(kf_store_t *s, const kf_store_part_t *parts, unsigned count) {
    if (s->slots == 0) {
        return KF_ERR_STATE;
    }
    uint32_t size = 0;
    for (unsigned i = 0; i < count; i++) {
        if (parts[i].size > content_room(s) - size) {
            return KF_ERR_SHAPE;
        }
        size += parts[i].size;
    }
    /* With no record yet the newest one's slot is free, too. */
    const uint32_t attempts = s->sequence == 0 ? s->slots : s->slots - 1u;
    uint32_t slot = s->slot;
    for (uint32_t attempt = 0; attempt < attempts; attempt++) {
        slot = slot + 1u == s->slots ? 0 : slot + 1u;
        if (slot_write(s, slot, size, parts, count, &s->erases) == KF_OK) {
            s->slot = slot;
            s->sequence++;
            s->size = size;
            return KF_OK;
        }
    }
    return KF_ERR_PORT;
}
