/* One device of the process: a kf_device_t, its memory, and its line, which is a socket or stdin and stdout. */
#ifndef KF_POSIX_UNIT_H
#define KF_POSIX_UNIT_H

#include <netdb.h>
#include <stdint.h>
#include <sys/types.h>

#include "kilofed/kilofed.h"
#include "options.h"

/* A file in memory, read only. */
typedef struct kf_file {
    const uint8_t *bytes;
    size_t size;
} kf_file_t;

/* Map a file. 0, or -1 after printing why not. An empty file is an error. */
int kf_file_map(kf_file_t *file, const char *path);
void kf_file_unmap(kf_file_t *file);

typedef enum kf_line_state {
    KF_LINE_DOWN = 0,   /* waits for `retry_ms` */
    KF_LINE_CONNECTING, /* until the socket is writable */
    KF_LINE_UP
} kf_line_state_t;

typedef struct kf_unit {
    kf_device_t device;
    kf_device_config_t config;
    kf_identity_t identity;
    kf_file_t samples;
    uint32_t boot, draws; /* of kf_entropy_of_boots(); boot 0: the system's randomness */
    void *memory;
    size_t memory_bytes;
    uint32_t number;
    int in, out;       /* file descriptors, -1: none */
    kf_line_state_t line;
    int blocked;       /* the last write did not take all */
    uint32_t retry_ms; /* when to connect again */
    uint32_t backoff_ms;
    uint32_t due_ms;   /* when the device wants to be polled */
    int verbose;

    /* For the loop (loop.h). */
    uint32_t when_ms; /* when it wants a turn */
    uint32_t turn;    /* in what order, of those of one moment */
    uint32_t place;   /* in the heap */
    uint32_t watched; /* epoll's events; 0: its socket is not watched */
} kf_unit_t;

/* Count a start in a file, safely on the disk before this returns: the number, from 1 on; 0 after printing why not. */
uint32_t kf_boot_count(const char *path);

/* Milliseconds of the monotonic clock, wrapping at 2^32. */
uint32_t kf_unit_clock(void);

/* Make device `number` of the process. shared: samples of every device without --samples, empty for none; it and the model
 * have to outlive the unit. 0, or -1 after printing why not; a device whose model or memory is bad is made all
 * the same, as it tells its host. */
int kf_unit_init(kf_unit_t *unit, const kf_options_t *options, const kf_file_t *model, const kf_file_t *shared,
                 uint32_t number, uint32_t boot);
void kf_unit_free(kf_unit_t *unit);

/* Use stdin and stdout as its line. */
int kf_unit_use_stdio(kf_unit_t *unit);

/* What the line needs at `now_ms`: begin or finish connecting. */
void kf_unit_connect(kf_unit_t *unit, const struct addrinfo *address, uint32_t now_ms);

/* The line is readable: take what is there. 0, or -1 when it has ended; a socket will be connected again. */
int kf_unit_read(kf_unit_t *unit, uint32_t now_ms);

/* Poll the device once. */
void kf_unit_work(kf_unit_t *unit, uint32_t slice_macs);

/* Say bye and close the line. */
void kf_unit_leave(kf_unit_t *unit);

#endif
