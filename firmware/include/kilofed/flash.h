/* kilofed: flash, as much of it as the core needs: pages that are erased whole and programmed once.
 *
 * A port describes the part of its flash that the core may write, and nothing outside it is ever touched. Offsets count from
 * the start of that part. The rules are those of NOR flash, and hold for files and for RAM that a battery keeps as well:
 *
 *   erase     makes every byte of a page 0xFF; an interrupted one leaves a page with any content
 *   program   turns ones to zeros in units of write_bytes, aligned to it; each unit is programmed once between two erases;
 *             an interrupted one leaves any mixture of old and new bits in the units it was about
 *   read      never fails; the bytes are whatever is there
 *
 * A function returns when the operation is done, and was verified where the chip can tell. While it runs nothing else may: a
 * caller tells the host before (kf_busy), with erase_ms. No function is called from an ISR. */
#ifndef KILOFED_FLASH_H
#define KILOFED_FLASH_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kf_flash {
    /* Handed to every call below; the core never looks at it. */
    void *context;

    uint32_t page_bytes;  /* what one erase takes; a power of two, 256 to 131072 */
    uint32_t pages;       /* 2 or more; page_bytes * pages is the size */
    uint32_t write_bytes; /* what one program takes at least: a power of two, 1 to 256 */
    uint32_t erase_ms;    /* a page, at most: the datasheet's maximum */
    uint32_t endurance;   /* erases of one page that the datasheet promises; 0: no limit worth counting */

    /* offset and size may be anything inside. KF_ERR_ARG: outside. */
    kf_status_t (*read)(void *context, uint32_t offset, uint8_t *out, uint32_t size);

    /* offset and size are multiples of write_bytes. KF_ERR_ARG: they are not, or lie outside; KF_ERR_PORT: the flash did not
     * take it (worn out, protected, or not erased). */
    kf_status_t (*program)(void *context, uint32_t offset, const uint8_t *bytes, uint32_t size);

    /* KF_ERR_ARG: no such page; KF_ERR_PORT: the flash did not take it. */
    kf_status_t (*erase)(void *context, uint32_t page);
} kf_flash_t;

#ifdef __cplusplus
}
#endif
#endif
