/* A plugin of QEMU's translator (TCG): counts how often each block of guest code runs, and which block follows which.
 *
 * Everything else is made of that elsewhere: a block is a run of instructions without a branch inside, so instructions, functions
 * and, with a table of timings, modelled cycles follow from the image and these counts (kilofed.profiling). Counts are exact and do
 * not depend on the machine's load. It runs in QEMU's process on the host and is no part of any firmware.
 *
 *     -plugin blocks.so,begin=ADDRESS,end=ADDRESS,passes=N,out=FILE[,teller=ADDRESS,marks=ADDRESS]
 *
 * `begin` and `end` are entries of two empty functions: what runs between the return of the first and the entry of the second is a
 * pass; only the first N passes are counted. A pass has parts where the function at `teller` stores a byte to one of the 256 addresses
 * from `marks` on: to marks + n begins, or goes on, part n + 1. What comes before is part 0. One vCPU.
 *
 * FILE gets, a line each, numbers in decimal:
 *     part PASS PART                               before blocks of that part, which may come in several pieces
 *     block ID ADDRESS INSTRUCTIONS BYTES RUNS EXTRA   ID: 0, 1, ... the same block in all parts
 *     next ID ID COUNT                             how often the second block came directly after the first
 *
 * EXTRA is how many more transfers the block's loads and stores took than they would, were all aligned: 1 for a halfword at an odd
 * address and for a word at one that is even but no multiple of four, 2 for a word at an odd one.
 *
 * The few declarations that a plugin needs of QEMU's interface stand here, since distributions do not ship its header. They are
 * the same in version 1 (QEMU 4.2 on) and 2 (9.0 on, which refuses 1): whoever compiles this defines API_VERSION as its QEMU wants.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- QEMU's side ---------------------------------------------------------------------------------------------------- */

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*translated)(qemu_plugin_id_t, struct qemu_plugin_tb *));
/* flags 0: the callback looks at no registers. */
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, void (*executed)(unsigned vcpu, void *data), int flags,
                                          void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
/* access 3: loads and stores. */
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn,
                                      void (*accessed)(unsigned vcpu, uint32_t info, uint64_t address, void *data), int flags,
                                      int access, void *data);
unsigned qemu_plugin_mem_size_shift(uint32_t info);

EXPORT extern const int qemu_plugin_version;
EXPORT const int qemu_plugin_version = API_VERSION;
EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int count, char **arguments);

/* ---- blocks ----------------------------------------------------------------------------------------------------------- */

typedef struct block block_t;

typedef struct edge {
    block_t *to;
    uint64_t count;
} edge_t;

struct block {
    block_t *next; /* in its bucket */
    uint64_t address, runs, extra;
    uint32_t id, instructions, bytes;
    uint32_t edges, room;
    edge_t *edge; /* the latest one first: nearly always the wanted one */
};

/* TELLER_BYTES: enough for a function that does nothing else; looking at stores of the next one costs time only. */
enum { BUCKETS = 4096, MARKS = 256, TELLER_BYTES = 64 };

static block_t *buckets[BUCKETS];
static uint32_t blocks;
static uint64_t at_begin, at_end, at_teller, marks, passes;
static FILE *out;

static int counting;
static uint64_t pass, part;
static block_t *before; /* the block that ran last, NULL at the start of a pass */

static void *need(void *memory) {
    if (memory == NULL) {
        fputs("blocks: out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

/* A block is translated again whenever QEMU likes; it stays the same block. */
static block_t *find(uint64_t address, uint32_t instructions, uint32_t bytes) {
    block_t **bucket = &buckets[(address >> 1) % BUCKETS], *block;

    for (block = *bucket; block != NULL; block = block->next) {
        if (block->address == address && block->instructions == instructions) {
            return block;
        }
    }
    block = need(calloc(1, sizeof *block));
    block->address = address;
    block->instructions = instructions;
    block->bytes = bytes;
    block->id = blocks++;
    block->next = *bucket;
    *bucket = block;
    return block;
}

static void follow(block_t *from, block_t *to) {
    uint32_t i;

    for (i = 0; i < from->edges && from->edge[i].to != to; i++) {
    }
    if (i == from->edges) {
        if (from->edges == from->room) {
            from->room = from->room == 0 ? 2 : 2 * from->room;
            from->edge = need(realloc(from->edge, from->room * sizeof *from->edge));
        }
        from->edge[from->edges++] = (edge_t){to, 0};
    }
    from->edge[i].count++;
    if (i != 0) {
        const edge_t found = from->edge[i];
        from->edge[i] = from->edge[0];
        from->edge[0] = found;
    }
}

/* Writes the piece of a part that ends here, and clears the counts for the next one. */
static void flush(void) {
    fprintf(out, "part %" PRIu64 " %" PRIu64 "\n", pass, part);
    for (uint32_t i = 0; i < BUCKETS; i++) {
        for (block_t *block = buckets[i]; block != NULL; block = block->next) {
            if (block->runs == 0 && block->edges == 0) {
                continue;
            }
            fprintf(out, "block %" PRIu32 " %" PRIu64 " %" PRIu32 " %" PRIu32 " %" PRIu64 " %" PRIu64 "\n", block->id,
                    block->address, block->instructions, block->bytes, block->runs, block->extra);
            for (uint32_t k = 0; k < block->edges; k++) {
                fprintf(out, "next %" PRIu32 " %" PRIu32 " %" PRIu64 "\n", block->id, block->edge[k].to->id,
                        block->edge[k].count);
            }
            block->runs = 0;
            block->extra = 0;
            block->edges = 0;
        }
    }
}

static void executed(unsigned vcpu, void *data) {
    block_t *block = data;

    (void)vcpu;
    if (block->address == at_end && counting) {
        counting = 0;
        flush();
        fflush(out);
        pass++;
    }
    if (counting) {
        block->runs++;
        if (before != NULL) {
            follow(before, block);
        }
        before = block;
    }
    if (block->address == at_begin && pass < passes) {
        counting = 1;
        part = 0;
        before = NULL;
    }
}

static void marked(unsigned vcpu, uint32_t info, uint64_t address, void *data) {
    (void)vcpu, (void)info, (void)data;
    if (counting && address >= marks && address < marks + MARKS && part != address - marks + 1) {
        flush();
        part = address - marks + 1;
    }
}

/* A block's callback comes before those of its accesses, so `before` is the block of this one. */
static void accessed(unsigned vcpu, uint32_t info, uint64_t address, void *data) {
    const unsigned shift = qemu_plugin_mem_size_shift(info);

    (void)vcpu, (void)data;
    if (counting && before != NULL && shift != 0 && (address & 3u) != 0) {
        before->extra += shift == 1 ? address & 1u : 1u + (address & 1u);
    }
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    const size_t instructions = qemu_plugin_tb_n_insns(tb);
    size_t bytes = 0;

    (void)id;
    for (size_t i = 0; i < instructions; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        bytes += qemu_plugin_insn_size(insn);
        if (at_teller != 0 && qemu_plugin_tb_vaddr(tb) - at_teller < TELLER_BYTES) {
            qemu_plugin_register_vcpu_mem_cb(insn, marked, 0, 3, NULL);
        }
        qemu_plugin_register_vcpu_mem_cb(insn, accessed, 0, 3, NULL);
    }
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0,
                                         find(qemu_plugin_tb_vaddr(tb), (uint32_t)instructions, (uint32_t)bytes));
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int count, char **arguments) {
    static const char *const names[] = {"begin=", "end=", "teller=", "marks=", "passes="};
    uint64_t *const values[] = {&at_begin, &at_end, &at_teller, &marks, &passes};

    (void)info;
    for (int i = 0; i < count; i++) {
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            if (strncmp(arguments[i], names[k], strlen(names[k])) == 0) {
                *values[k] = strtoull(arguments[i] + strlen(names[k]), NULL, 0);
            }
        }
        if (strncmp(arguments[i], "out=", 4) == 0) {
            out = fopen(arguments[i] + 4, "w");
        }
    }
    if (out == NULL || at_begin == 0 || at_end == 0 || passes == 0) {
        fputs("blocks: wants begin=, end=, passes= and an out= that can be written\n", stderr);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
