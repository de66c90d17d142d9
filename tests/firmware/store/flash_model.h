/* A NOR flash in memory by the rules of kilofed/flash.h, that breaks them for nobody: bits go from 1 to 0 only, a unit is
 * programmed once between two erases, anything else aborts. Power can be cut at any operation, and in the middle of it. */
#ifndef FLASH_MODEL_H
#define FLASH_MODEL_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kilofed/flash.h"

typedef enum cut { CUT_BEFORE = 0, CUT_AMID = 1, CUT_AFTER = 2 } cut_t;

typedef struct flash_model {
    kf_flash_t flash;
    uint8_t *bytes;
    uint8_t *programmed; /* a flag a unit */
    uint8_t *worn;       /* a flag a page: its programs fail */
    uint32_t *erases;    /* of each page */
    uint32_t operations; /* erases and programs so far */
    uint32_t cut_at;     /* the operation at which power goes, from 1; 0: never */
    cut_t how;
    int off;             /* power is gone: nothing works until flash_model_power() */
    uint32_t random;
} flash_model_t;

static uint32_t flash_model_random(flash_model_t *m) {
    m->random = m->random * 1664525u + 1013904223u;
    return m->random >> 8;
}

/* Power goes now? Sets how much of `size` bytes happens: all but for a cut. */
static int flash_model_cut(flash_model_t *m) {
    m->operations++;
    if (m->operations == m->cut_at) {
        m->off = 1;
        return 1;
    }
    return 0;
}

static kf_status_t flash_model_read(void *context, uint32_t offset, uint8_t *out, uint32_t size) {
    flash_model_t *m = context;
    if (offset > m->flash.page_bytes * m->flash.pages || size > m->flash.page_bytes * m->flash.pages - offset) {
        abort();
    }
    if (m->off) {
        return KF_ERR_PORT;
    }
    memcpy(out, m->bytes + offset, size);
    return KF_OK;
}

static kf_status_t flash_model_program(void *context, uint32_t offset, const uint8_t *bytes, uint32_t size) {
    flash_model_t *m = context;
    const uint32_t unit = m->flash.write_bytes;
    if (m->off) {
        return KF_ERR_PORT;
    }
    if (size == 0 || offset % unit != 0 || size % unit != 0 || offset > m->flash.page_bytes * m->flash.pages ||
        size > m->flash.page_bytes * m->flash.pages - offset) {
        abort();
    }
    const int cut = flash_model_cut(m);
    if (cut && m->how == CUT_BEFORE) {
        return KF_ERR_PORT;
    }
    const uint32_t torn = cut && m->how == CUT_AMID ? flash_model_random(m) % size : size;
    for (uint32_t i = 0; i < size; i++) {
        if (m->programmed[(offset + i) / unit] && i % unit == 0) {
            abort(); /* twice without an erase */
        }
        if (i % unit == unit - 1u) {
            m->programmed[(offset + i) / unit] = 1;
        }
        uint8_t ones = 0; /* bits that have not gone yet */
        if (i > torn) {
            ones = 0xFF;
        } else if (i == torn) {
            ones = (uint8_t)flash_model_random(m);
        }
        if (m->worn[offset / m->flash.page_bytes]) {
            ones |= 0x10;
        }
        m->bytes[offset + i] &= bytes[i] | ones;
    }
    return cut || m->worn[offset / m->flash.page_bytes] ? KF_ERR_PORT : KF_OK;
}

static kf_status_t flash_model_erase(void *context, uint32_t page) {
    flash_model_t *m = context;
    const uint32_t size = m->flash.page_bytes;
    if (m->off) {
        return KF_ERR_PORT;
    }
    if (page >= m->flash.pages) {
        abort();
    }
    const int cut = flash_model_cut(m);
    if (cut && m->how == CUT_BEFORE) {
        return KF_ERR_PORT;
    }
    m->erases[page]++;
    for (uint32_t i = 0; i < size; i++) {
        uint8_t *const byte = m->bytes + (size_t)page * size + i;
        /* In the middle of it some bytes are as they were, some erased, some anything. */
        const uint32_t fate = cut && m->how == CUT_AMID ? flash_model_random(m) % 4u : 0;
        *byte = fate == 0 ? 0xFF : fate == 1 ? (uint8_t)flash_model_random(m) : *byte;
    }
    memset(m->programmed + page * size / m->flash.write_bytes, cut && m->how == CUT_AMID, size / m->flash.write_bytes);
    return cut ? KF_ERR_PORT : KF_OK;
}

/* Power is back; nothing but the flash is as it was. */
static inline void flash_model_power(flash_model_t *m) {
    m->off = 0;
    m->cut_at = 0;
}

/* Filled with anything, like flash that nobody has erased. */
static void flash_model_init(flash_model_t *m, uint32_t page_bytes, uint32_t pages, uint32_t write_bytes, uint32_t seed) {
    memset(m, 0, sizeof *m);
    m->flash = (kf_flash_t){m,  page_bytes, pages, write_bytes, 22, 20000, flash_model_read, flash_model_program,
                            flash_model_erase};
    m->random = seed;
    m->bytes = malloc((size_t)page_bytes * pages);
    m->programmed = malloc((size_t)page_bytes * pages / write_bytes);
    m->worn = calloc(pages, 1);
    m->erases = calloc(pages, sizeof *m->erases);
    if (m->bytes == NULL || m->programmed == NULL || m->worn == NULL || m->erases == NULL) {
        abort();
    }
    for (size_t i = 0; i < (size_t)page_bytes * pages; i++) {
        m->bytes[i] = (uint8_t)flash_model_random(m);
    }
    memset(m->programmed, 1, (size_t)page_bytes * pages / write_bytes);
}

static void flash_model_free(flash_model_t *m) {
    free(m->bytes);
    free(m->programmed);
    free(m->worn);
    free(m->erases);
}

#endif
