/* kilofed: stored state, that a power cut at any instant leaves whole: the old one or the new one, never a mixture.
 *
 *     kf_store_t store;
 *     status = kf_store_open(&store, flash, largest);        finds the newest whole record, if there is one
 *     status = kf_store_read(&store, 0, bytes, store.size);
 *     status = kf_store_write(&store, parts, count);         one transaction
 *
 * The pages are divided into slots of as many pages as the largest record needs; two slots or more. A record goes into the slot
 * behind the newest one, so that every page is erased as often as any other, and becomes the newest when its header is
 * written, which happens last. Headers carry a CRC-32 over all of the record, its sequence number, and how many pages were
 * erased so far (all but those of a write that was cut off). A slot that does not take a record (worn out) is
 * passed over for the next one; the newest record is never erased. Layout of a slot, little endian:
 *
 *   0 magic "KFS2" | 4 u32 sequence, from 1 | 8 u32 pages erased so far | 12 u32 size | 16 u32 CRC-32 of bytes 0-15 and content
 *   20, rounded up to write_bytes: the content
 *
 * Not for an ISR, nor for two threads at once. Stack: under 600 bytes, the flash's calls aside. */
#ifndef KILOFED_STORE_H
#define KILOFED_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/flash.h"
#include "kilofed/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of a record, gathered from where they are. */
typedef struct kf_store_part {
    const void *bytes;
    uint32_t size; /* 0: left out, and bytes may be NULL */
} kf_store_part_t;

/* A store: 28 bytes on a 32-bit core. Fields may be read. */
typedef struct kf_store {
    const kf_flash_t *flash;
    uint32_t slot_pages;
    uint32_t slots;    /* 0: the store is not open */
    uint32_t slot;     /* of the newest record */
    uint32_t sequence; /* of the newest record: how many were written; 0: there is none */
    uint32_t erases;   /* of pages, all together: divide by flash->pages for the age of one */
    uint32_t size;     /* of the newest record's content */
} kf_store_t;

/* Look for the newest record. `flash` must outlive the store. largest: bytes of the largest content ever written, 1 or more.
 * Reads every slot once. Whatever else lies in the pages is passed over: KF_OK with sequence 0 when nothing is whole.
 * KF_ERR_ARG: null, or a flash outside flash.h's ranges. KF_ERR_MEMORY: the pages do not hold two such records. KF_ERR_PORT
 * and others: reading failed. After a failure slots is 0 and the other calls answer KF_ERR_STATE. */
KF_MUST_CHECK kf_status_t kf_store_open(kf_store_t *store, const kf_flash_t *flash, uint32_t largest);

/* Copy bytes of the newest record. KF_ERR_SHAPE: it has no such bytes. KF_ERR_STATE: not open. */
KF_MUST_CHECK kf_status_t kf_store_read(const kf_store_t *store, uint32_t offset, void *out, uint32_t size);

/* Write the parts, one behind the other, as the newest record: erases one slot, slot_pages times erase_ms, or more when it is
 * worn out. KF_OK: it is there, read back and found right. KF_ERR_SHAPE: larger than a slot. KF_ERR_STATE: not open.
 * KF_ERR_PORT: no slot took it. After a failure the record before is still the newest. */
KF_MUST_CHECK kf_status_t kf_store_write(kf_store_t *store, const kf_store_part_t *parts, unsigned count);

#ifdef __cplusplus
}
#endif
#endif
