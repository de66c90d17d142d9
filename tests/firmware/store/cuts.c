/* Cuts power at every operation of a series of writes, before it, in the middle of it and after it, and looks at what is there
 * after. Then wears pages out, and fills flash with garbage. A failure prints what was cut where, and exits 1.
 *
 *     cuts PAGE_BYTES PAGES WRITE_BYTES LARGEST SEED        prints cuts tried, and the most and fewest erases of a page */
#include <stdio.h>

#include "flash_model.h"
#include "kilofed/store.h"

#define WRITES 7u

static uint32_t page_bytes, pages, write_bytes, largest, seed;
static uint8_t *made, *got;

static void fail(const char *what, uint32_t cut, unsigned how, uint32_t number) {
    fprintf(stderr, "%s: operation %u, way %u, record %u\n", what, (unsigned)cut, how, (unsigned)number);
    exit(1);
}

/* Record `number`: its size and content follow from the number. */
static uint32_t record(uint32_t number) {
    uint32_t state = number * 2654435761u + seed;
    const uint32_t size = number % 3u == 0 ? largest : largest - state % largest;
    for (uint32_t i = 0; i < size; i++) {
        state = state * 1664525u + 1013904223u;
        made[i] = (uint8_t)(state >> 24);
    }
    return size;
}

static kf_status_t write(kf_store_t *store, uint32_t number) {
    const uint32_t size = record(number);
    /* Cut anywhere into parts, one of them empty. */
    const uint32_t first = size / 3u;
    const kf_store_part_t parts[3] = {{made, first}, {NULL, 0}, {made + first, size - first}};
    return kf_store_write(store, parts, 3);
}

static int holds(const kf_store_t *store, uint32_t number) {
    if (store->sequence != number) {
        return 0;
    }
    if (number == 0) {
        return 1;
    }
    const uint32_t size = record(number);
    uint8_t past;
    memset(got, 0xA5, largest);
    return store->size == size && kf_store_read(store, 0, got, size) == KF_OK && memcmp(made, got, size) == 0 &&
           kf_store_read(store, size, &past, 1) == KF_ERR_SHAPE;
}

/* One series, cut at one operation. 0: it was over before that. */
static int series(uint32_t cut, cut_t how) {
    flash_model_t model;
    kf_store_t store;
    flash_model_init(&model, page_bytes, pages, write_bytes, seed + cut);
    model.cut_at = cut;
    model.how = how;
    uint32_t done = 0;
    if (kf_store_open(&store, &model.flash, largest) != KF_OK || !holds(&store, 0)) {
        fail("garbage is no record", cut, how, 0);
    }
    while (done < WRITES && write(&store, done + 1) == KF_OK) {
        done++;
    }
    const int was_cut = model.off;
    if (!was_cut && done < WRITES) {
        fail("a write fails without a cut", cut, how, done + 1);
    }
    flash_model_power(&model);
    if (kf_store_open(&store, &model.flash, largest) != KF_OK) {
        fail("does not open", cut, how, done);
    }
    /* Old or new; new only when the write was begun. */
    if (!holds(&store, done) && !(was_cut && holds(&store, done + 1))) {
        fail("neither old nor new", cut, how, done);
    }
    const uint32_t now = store.sequence;
    for (uint32_t more = 1; more <= 2u * pages; more++) {
        if (write(&store, now + more) != KF_OK || !holds(&store, now + more)) {
            fail("does not go on", cut, how, now + more);
        }
    }
    uint32_t most = 0, fewest = UINT32_MAX, sum = 0;
    for (uint32_t page = 0; page < store.slots * store.slot_pages; page++) {
        most = model.erases[page] > most ? model.erases[page] : most;
        fewest = model.erases[page] < fewest ? model.erases[page] : fewest;
        sum += model.erases[page];
    }
    if (most - fewest > 2 || store.erases > sum || sum - store.erases > store.slot_pages) {
        fail("wear is not even, or not counted", cut, how, now);
    }
    flash_model_free(&model);
    return was_cut;
}

/* Pages wear out one by one: the store goes on until two slots are left, then keeps what it has. */
static void wear(void) {
    flash_model_t model;
    kf_store_t store;
    uint32_t number = 0;
    flash_model_init(&model, page_bytes, pages, write_bytes, seed);
    if (kf_store_open(&store, &model.flash, largest) != KF_OK) {
        fail("does not open", 0, 0, 0);
    }
    const uint32_t slots = store.slots;
    for (uint32_t bad = 0; bad < slots; bad++) {
        const int able = slots - bad >= 2;
        for (uint32_t i = 0; i < 2u * slots; i++) {
            const kf_status_t status = write(&store, number + 1);
            if ((status == KF_OK) != able || (!able && status != KF_ERR_PORT)) {
                fail("a worn slot", bad, 0, number + 1);
            }
            number += able ? 1u : 0u;
            if (!holds(&store, number)) {
                fail("lost in a worn store", bad, 0, number);
            }
        }
        uint32_t next = store.slot + 1u == slots ? 0 : store.slot + 1u;
        while (model.worn[next * store.slot_pages] && next != store.slot) {
            next = next + 1u == slots ? 0 : next + 1u;
        }
        if (next != store.slot) {
            memset(model.worn + next * store.slot_pages, 1, store.slot_pages);
        }
    }
    kf_store_t again;
    if (kf_store_open(&again, &model.flash, largest) != KF_OK || !holds(&again, number)) {
        fail("gone after the wear", 0, 0, number);
    }
    flash_model_free(&model);
}

/* A bit of the newest record has turned: the one before it counts again. Every byte of header and content, in turn. */
static void damage(void) {
    flash_model_t model;
    kf_store_t store;
    flash_model_init(&model, page_bytes, pages, write_bytes, seed);
    if (kf_store_open(&store, &model.flash, largest) != KF_OK || write(&store, 1) != KF_OK || write(&store, 2) != KF_OK) {
        fail("does not write", 0, 0, 0);
    }
    uint8_t *const slot = model.bytes + store.slot * store.slot_pages * page_bytes;
    const uint32_t head = (20u + write_bytes - 1u) / write_bytes * write_bytes;
    for (uint32_t i = 0; i < head + store.size; i++) {
        kf_store_t again;
        if (i >= 20u && i < head) {
            continue;
        }
        slot[i] ^= (uint8_t)(1u << i % 8u);
        if (kf_store_open(&again, &model.flash, largest) != KF_OK || !holds(&again, 1)) {
            fail("damage is believed", i, 0, 2);
        }
        slot[i] ^= (uint8_t)(1u << i % 8u);
    }
    flash_model_free(&model);
}

/* What a config may not be. */
static void refusals(void) {
    flash_model_t model;
    kf_store_t store;
    uint8_t byte = 0;
    flash_model_init(&model, page_bytes, pages, write_bytes, seed);
    kf_flash_t bad = model.flash;
    bad.pages = 1;
    int wrong = kf_store_open(&store, &bad, largest) != KF_ERR_ARG;
    bad = model.flash;
    bad.write_bytes = 3;
    wrong |= kf_store_open(&store, &bad, largest) != KF_ERR_ARG;
    wrong |= kf_store_open(&store, NULL, largest) != KF_ERR_ARG;
    wrong |= kf_store_open(&store, &model.flash, 0) != KF_ERR_ARG;
    wrong |= kf_store_open(&store, &model.flash, page_bytes * pages) != KF_ERR_MEMORY;
    wrong |= kf_store_read(&store, 0, &byte, 1) != KF_ERR_STATE;
    wrong |= kf_store_write(&store, &(kf_store_part_t){&byte, 1}, 1) != KF_ERR_STATE;
    wrong |= kf_store_open(&store, &model.flash, largest) != KF_OK;
    wrong |= kf_store_write(&store, &(kf_store_part_t){made, page_bytes * pages}, 1) != KF_ERR_SHAPE;
    wrong |= model.operations != 0;
    if (wrong) {
        fail("not refused", 0, 0, 0);
    }
    flash_model_free(&model);
}

int main(int count, char **words) {
    if (count != 6) {
        return 2;
    }
    page_bytes = (uint32_t)strtoul(words[1], NULL, 10);
    pages = (uint32_t)strtoul(words[2], NULL, 10);
    write_bytes = (uint32_t)strtoul(words[3], NULL, 10);
    largest = (uint32_t)strtoul(words[4], NULL, 10);
    seed = (uint32_t)strtoul(words[5], NULL, 10);
    made = malloc(page_bytes * pages);
    got = malloc(largest);
    if (made == NULL || got == NULL) {
        return 2;
    }
    uint32_t cuts = 0;
    for (unsigned how = CUT_BEFORE; how <= CUT_AFTER; how++) {
        for (uint32_t cut = 1; series(cut, (cut_t)how); cut++) {
            cuts++;
        }
    }
    damage();
    wear();
    refusals();
    printf("%u\n", (unsigned)cuts);
    free(made);
    free(got);
    return 0;
}
