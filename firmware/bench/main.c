/* The engine alone on an emulated MPS2 or MPS3 board: runs a model that was placed in memory.
 *
 * Built for every board's core (targets `bench` and `profile`, cmake/bench.cmake), always run on MPS machines, whose memory
 * is large enough for most models; code for a Cortex-M0 is run on the Cortex-M3 of the AN385, which executes it unchanged.
 * There is one image a core, whatever the model, so its size is what the engine takes of flash.
 *
 * Input: the model at `bench_model`, a job_t and the inputs at `bench_job` (addresses: bench.ld.in), put there by QEMU's
 * loader. Answer: the file `result` in QEMU's working folder, written by semihosting; answer_t and then, an input each, the
 * output and the features. kilofed.profiling.engine is the other side.
 *
 * What is executed between bench_begin() and bench_end() is counted from outside, by plugin/blocks.c. There are three such
 * passes before anything is answered: a loop of known length, which proves the counting; an inference of the first input,
 * which warms up, whatever there may be to warm; and that of the last input, from kf_nn_restart() to the output being there.
 * Writing the input is not counted, as TFLite Micro's Invoke() does not do it either. Nothing is enabled that could interrupt.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kilofed/model.h"
#include "kilofed/nn.h"

#define JOB_MAGIC 0x4A46424Bu /* "KBFJ" */

/* What comes in, little endian. */
typedef struct job {
    uint32_t magic;
    uint32_t model_bytes;
    uint32_t inputs; /* how many follow, each of the model's input_bytes */
} job_t;

/* What goes out, little endian. */
typedef struct answer {
    uint32_t stage;  /* 0: all went well; else the STAGE_ that failed */
    int32_t status;  /* of that stage */
    uint32_t fault;  /* kf_model_fault_t of kf_model_open() */
    uint32_t op;     /* the operator it blames, KF_MODEL_NONE: none */
    uint32_t arena_bytes;
    uint32_t state_bytes; /* kf_model_t and kf_nn_t: what is kept for a model beside its arena */
    uint32_t stack_bytes; /* the deepest that opening and running went, below the function that calls them */
    uint32_t output_bytes, feature_bytes;
} answer_t;

enum { STAGE_JOB = 1, STAGE_OPEN = 2, STAGE_BEGIN = 3, STAGE_RUN = 4, STAGE_FEATURES = 5 };

/* Set by bench.ld.in; only their addresses mean something. */
extern const uint8_t bench_model[], bench_job[];
extern uint8_t bench_arena[], bench_arena_end[];
extern uint32_t bench_bss[], bench_bss_end[], bench_stack_limit[], bench_stack_top[];

static answer_t answer;
static kf_model_t model;
static kf_nn_t nn;
static uint32_t handle; /* of the file `result` */

/* ---- the machine ----------------------------------------------------------------------------------------------- */

void bench_reset(void);
void bench_begin(void);
void bench_end(void);
static void fault(void);

typedef union vector {
    void (*handler)(void);
    const void *address;
} vector_t;

__attribute__((section(".vectors"), used)) static const vector_t vectors[7] = { /* nothing else can happen */
    [0].address = bench_stack_top, [1].handler = bench_reset, [2].handler = fault, [3].handler = fault,
    [4].handler = fault,           [5].handler = fault,       [6].handler = fault,
};

/* "Semihosting for AArch32 and AArch64", section 2: operation in r0, argument block in r1. */
enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_EXIT = 0x18 };

static uint32_t semihost(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;

    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void leave(void) {
    semihost(SYS_EXIT, (const void *)0x20026u); /* ADP_Stopped_ApplicationExit */
    for (;;) {
    }
}

/* Leaves without a whole answer, which says enough. */
static void fault(void) {
    leave();
}

static void say(const void *bytes, uint32_t size) {
    const struct {
        uint32_t file;
        const void *bytes;
        uint32_t size;
    } argument = {handle, bytes, size};

    if (size != 0) {
        semihost(SYS_WRITE, &argument);
    }
}

static void open_result(void) {
    static const char name[] = "result";
    const struct {
        const char *name;
        uint32_t mode; /* 5: "wb" */
        uint32_t length;
    } argument = {name, 5, sizeof name - 1};

    handle = semihost(SYS_OPEN, &argument);
}

/* Empty; their entries delimit what is counted. */
__attribute__((noinline)) void bench_begin(void) {
    __asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) void bench_end(void) {
    __asm__ volatile("" ::: "memory");
}

/* Two instructions a turn; a few more lead there and away. */
#define KNOWN_INSTRUCTIONS 20000u

static void count_known(void) {
    uint32_t turns = KNOWN_INSTRUCTIONS / 2;

    bench_begin();
    __asm__ volatile(".syntax unified\n1:\tsubs %0, #1\n\tbne 1b" : "+l"(turns)::"cc");
    bench_end();
}

/* ---- the job ---------------------------------------------------------------------------------------------------- */

static int failed(uint32_t stage, kf_status_t status) {
    if (status == KF_OK) {
        return 0;
    }
    answer.stage = stage;
    answer.status = status;
    return 1;
}

static kf_status_t infer(void) {
    kf_status_t status;

    do {
        status = kf_nn_step(&nn, UINT32_MAX);
    } while (status == KF_MORE);
    return status;
}

/* Not inlined, so that the stack below its caller is the engine's and this frame's. */
__attribute__((noinline)) static int prepare(uint32_t model_bytes) {
    const kf_status_t status = kf_model_open(&model, bench_model, model_bytes);

    answer.fault = model.fault;
    answer.op = model.error_op;
    if (failed(STAGE_OPEN, status) ||
        failed(STAGE_BEGIN, kf_nn_begin(&nn, &model, bench_arena, (size_t)(bench_arena_end - bench_arena), NULL))) {
        return 1;
    }
    return 0;
}

__attribute__((noinline)) static int run(const uint8_t *input) {
    kf_status_t status;

    memcpy(kf_nn_input(&nn), input, model.input_bytes);
    bench_begin();
    kf_nn_restart(&nn);
    status = infer();
    bench_end();
    return failed(STAGE_RUN, status);
}

/* The same input again, up to the features only: a saturated output alone would prove little. */
static int run_features(const uint8_t *input) {
    if (model.head.op == KF_MODEL_NONE) {
        return 0;
    }
    memcpy(kf_nn_input(&nn), input, model.input_bytes);
    kf_nn_restart(&nn);
    return failed(STAGE_FEATURES, kf_nn_stop_at_features(&nn)) || failed(STAGE_FEATURES, infer());
}

/* The stack between its limit and here is painted, and looked at afterwards. These words are left to the painter itself,
 * and count as used. */
#define PAINT 0xC5C5C5C5u
#define UNPAINTED 16

static void say_results(const uint8_t *inputs, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *input = inputs + i * model.input_bytes;

        if (run(input)) {
            return;
        }
        say(kf_nn_output(&nn), answer.output_bytes);
        if (run_features(input)) {
            return;
        }
        say(kf_nn_features(&nn), answer.feature_bytes);
    }
}

__attribute__((noinline)) static void work(void) {
    const job_t *const job = (const job_t *)(const void *)bench_job;
    const uint8_t *const inputs = bench_job + sizeof *job;
    uint32_t *here, *const top = (uint32_t *)__builtin_frame_address(0), *const end = top - UNPAINTED;

    if (failed(STAGE_JOB, job->magic == JOB_MAGIC && job->inputs >= 2 ? KF_OK : KF_ERR_ARG)) {
        say(&answer, sizeof answer);
        return;
    }
    for (here = bench_stack_limit; here < end; here++) {
        *here = PAINT;
    }
    count_known();
    if (!prepare(job->model_bytes)) {
        answer.arena_bytes = model.arena_bytes;
        answer.state_bytes = sizeof model + sizeof nn;
        answer.output_bytes = model.output_bytes;
        answer.feature_bytes = model.head.op == KF_MODEL_NONE ? 0 : model.head.features;
        if (!run(inputs) && !run(inputs + (job->inputs - 1) * model.input_bytes)) {
            for (here = bench_stack_limit; here < end && *here == PAINT; here++) {
            }
            answer.stack_bytes = (uint32_t)(top - here) * 4u;
        }
    }
    say(&answer, sizeof answer);
    if (answer.stage == 0) {
        say_results(inputs, job->inputs);
    }
}

void bench_reset(void) {
    uint32_t *here;

    __asm__ volatile("cpsid i" ::: "memory");
    for (here = bench_bss; here < bench_bss_end; here++) {
        *here = 0;
    }
    /* What an arena holds before its first use must not matter. */
    for (here = (uint32_t *)(void *)bench_arena; here < (uint32_t *)(void *)bench_arena_end; here++) {
        *here = PAINT;
    }
#ifdef __ARM_FP
    /* CPACR: full access to CP10 and CP11 (Armv7-M ARM B3.2.20): hard-float code may move integers through its registers. */
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20;
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
    open_result();
    work();
    leave();
}
