/* The command line of kilofed-posix. */
#ifndef KF_POSIX_OPTIONS_H
#define KF_POSIX_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

#define KF_POSIX_DEVICES_MAX 65536u

typedef struct kf_options {
    const char *host, *port; /* of --connect; both NULL with --stdio, port alone with `auto` */
    const char *model;
    const char **samples;  /* files, of device 0, 1, ... */
    const char **settings; /* files, of device 0, 1, ... */
    const char *all_samples; /* file of every device that has none of its own; NULL: they begin without samples */
    size_t samples_count, settings_count;
    const char *id_seed; /* NULL: ids are random and new at each start, and there are no keys */
    const char *name;    /* for people; each device's number is added when there are several */
    const char *board;
    uint32_t count;
    uint32_t ring, held_out, max_batch, max_frame, window;
    uint32_t memory;    /* bytes a device gets; 0: what it needs */
    uint32_t slice_macs;
    int stdio;
    int insecure; /* no device has a key */
    const char *boots; /* file of a count of starts, in place of the system's randomness; NULL: none */
    int verbose;
} kf_options_t;

/* Fill `options` from the command line. Returns 0; 1 when help was asked for and printed; -1 after printing what is wrong and
 * what to do. The strings point into argv; kf_options_free() gives the lists back. */
int kf_options_parse(kf_options_t *options, int argc, char **argv);
void kf_options_free(kf_options_t *options);

#endif
