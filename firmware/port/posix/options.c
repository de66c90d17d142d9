#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kilofed/frame.h"

static const char help[] =
    "usage: kilofed-posix (--connect HOST:PORT | --stdio) --model FILE [options]\n"
    "\n"
    "Devices of the real firmware core in one process, each with a connection of its own to a host.\n"
    "\n"
    "  --connect HOST:PORT  where the host listens; a lost connection is made again\n"
    "  --connect auto       a host that announces itself on the local network (mDNS): found once, at the start\n"
    "  --stdio              one device that speaks over stdin and stdout instead, until stdin ends\n"
    "  --model FILE         the .tflite of all devices\n"
    "  --samples FILE       placed samples (\"KFS1\") of the next device; may be given once a device\n"
    "  --all-samples FILE   placed samples of every device that has no --samples\n"
    "  --count N            devices, 1 to 65536 (default 1)\n"
    "  --id-seed TEXT       ids and keys made from this text and the device's number: the same at every start\n"
    "  --settings FILE      a 64-byte settings page with id and key of the next device; without this and --id-seed\n"
    "                       a device has an id by chance and no key\n"
    "  --insecure           devices have no keys: their sessions are in the clear, for the bench\n"
    "  --boots FILE         no randomness but keys and the count of starts in this file, as on a board without a source\n"
    "  --name TEXT          for people, up to 12 bytes\n"
    "  --board NAME         name told to the host (default posix)\n"
    "  --ring N             samples kept (default 400)\n"
    "  --held-out N         every so many-th sample measures and is not trained on; 0: none (default 5)\n"
    "  --max-batch N        largest batch, 1 to 256 (default 64)\n"
    "  --max-frame N        longest frame in bytes, 64 to 1024 (default 1024)\n"
    "  --window N           bytes taken beyond what was accepted (default 4096)\n"
    "  --memory BYTES       memory block of a device; 0: what it needs (default 0)\n"
    "  --slice N            multiply-accumulates between two looks at the line (default 20000)\n"
    "  --verbose            say what happens on stderr\n";

enum {
    OPT_CONNECT = 256,
    OPT_STDIO,
    OPT_MODEL,
    OPT_SAMPLES,
    OPT_ALL_SAMPLES,
    OPT_COUNT,
    OPT_ID_SEED,
    OPT_SETTINGS,
    OPT_INSECURE,
    OPT_BOOTS,
    OPT_NAME,
    OPT_BOARD,
    OPT_RING,
    OPT_HELD_OUT,
    OPT_MAX_BATCH,
    OPT_MAX_FRAME,
    OPT_WINDOW,
    OPT_MEMORY,
    OPT_SLICE,
    OPT_VERBOSE,
    OPT_HELP
};

static const struct option names[] = {
    {"connect", required_argument, NULL, OPT_CONNECT},
    {"stdio", no_argument, NULL, OPT_STDIO},
    {"model", required_argument, NULL, OPT_MODEL},
    {"samples", required_argument, NULL, OPT_SAMPLES},
    {"all-samples", required_argument, NULL, OPT_ALL_SAMPLES},
    {"count", required_argument, NULL, OPT_COUNT},
    {"id-seed", required_argument, NULL, OPT_ID_SEED},
    {"settings", required_argument, NULL, OPT_SETTINGS},
    {"insecure", no_argument, NULL, OPT_INSECURE},
    {"boots", required_argument, NULL, OPT_BOOTS},
    {"name", required_argument, NULL, OPT_NAME},
    {"board", required_argument, NULL, OPT_BOARD},
    {"ring", required_argument, NULL, OPT_RING},
    {"held-out", required_argument, NULL, OPT_HELD_OUT},
    {"max-batch", required_argument, NULL, OPT_MAX_BATCH},
    {"max-frame", required_argument, NULL, OPT_MAX_FRAME},
    {"window", required_argument, NULL, OPT_WINDOW},
    {"memory", required_argument, NULL, OPT_MEMORY},
    {"slice", required_argument, NULL, OPT_SLICE},
    {"verbose", no_argument, NULL, OPT_VERBOSE},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int refuse(const char *what, const char *value, const char *next) {
    fprintf(stderr, "kilofed-posix: %s %s: %s\n", what, value, next);
    return -1;
}

static int number(uint32_t *out, const char *option, const char *text, uint32_t low, uint32_t high) {
    char *end;
    errno = 0;
    const unsigned long value = strtoul(text, &end, 0);
    if (errno != 0 || end == text || *end != 0 || text[0] == '-' || value < low || value > high) {
        fprintf(stderr, "kilofed-posix: %s %s: give a number from %lu to %lu\n", option, text, (unsigned long)low,
                (unsigned long)high);
        return -1;
    }
    *out = (uint32_t)value;
    return 0;
}

/* Split HOST:PORT at its last colon, in place; [::1]:9000 is fine. */
static int address(kf_options_t *o, char *text) {
    char *colon = strrchr(text, ':');
    if (strcmp(text, "auto") == 0) {
        o->host = text;
        return 0;
    }
    if (colon == NULL || colon == text || colon[1] == 0) {
        return refuse("--connect", text, "give HOST:PORT, such as 127.0.0.1:7600, or auto");
    }
    *colon = 0;
    o->port = colon + 1;
    o->host = text;
    if (text[0] == '[' && colon[-1] == ']') {
        colon[-1] = 0;
        o->host = text + 1;
    }
    return 0;
}

static int take(kf_options_t *o, int option) {
    switch (option) {
    case OPT_CONNECT:
        return address(o, optarg);
    case OPT_STDIO:
        o->stdio = 1;
        return 0;
    case OPT_MODEL:
        o->model = optarg;
        return 0;
    case OPT_SAMPLES:
        o->samples[o->samples_count++] = optarg;
        return 0;
    case OPT_ALL_SAMPLES:
        o->all_samples = optarg;
        return 0;
    case OPT_COUNT:
        return number(&o->count, "--count", optarg, 1, KF_POSIX_DEVICES_MAX);
    case OPT_ID_SEED:
        o->id_seed = optarg;
        return 0;
    case OPT_SETTINGS:
        o->settings[o->settings_count++] = optarg;
        return 0;
    case OPT_INSECURE:
        o->insecure = 1;
        return 0;
    case OPT_BOOTS:
        o->boots = optarg;
        return 0;
    case OPT_NAME:
        o->name = optarg;
        return 0;
    case OPT_BOARD:
        o->board = optarg;
        return 0;
    case OPT_RING:
        return number(&o->ring, "--ring", optarg, 1, 65535);
    case OPT_HELD_OUT:
        return number(&o->held_out, "--held-out", optarg, 0, 255);
    case OPT_MAX_BATCH:
        return number(&o->max_batch, "--max-batch", optarg, 1, 256);
    case OPT_MAX_FRAME:
        return number(&o->max_frame, "--max-frame", optarg, 64, 1024);
    case OPT_WINDOW:
        return number(&o->window, "--window", optarg, 64, 65535);
    case OPT_MEMORY:
        return number(&o->memory, "--memory", optarg, 0, 1u << 30);
    case OPT_SLICE:
        return number(&o->slice_macs, "--slice", optarg, 1, UINT32_MAX);
    case OPT_VERBOSE:
        o->verbose = 1;
        return 0;
    case OPT_HELP:
        fputs(help, stdout);
        return 1;
    default:
        fputs("kilofed-posix: see kilofed-posix --help\n", stderr);
        return -1;
    }
}

static int check(const kf_options_t *o) {
    if (o->model == NULL) {
        return refuse("--model", "is missing", "give the .tflite of the devices");
    }
    if ((o->host != NULL) == (o->stdio != 0)) {
        return refuse("--connect, --stdio:", "one of them", "give either HOST:PORT or --stdio");
    }
    if (o->stdio && o->count != 1) {
        return refuse("--count", "with --stdio", "one device has stdin and stdout; use --connect for more");
    }
    if (o->samples_count > o->count || o->settings_count > o->count) {
        return refuse("--samples, --settings:", "more files than devices", "raise --count");
    }
    if (o->held_out == 1 || (o->held_out > 1 && o->ring % o->held_out != 0)) {
        return refuse("--held-out", "does not divide --ring", "make --ring a multiple of it; 1 would leave nothing to train");
    }
    const int keys = !o->insecure && (o->settings_count > 0 || o->id_seed != NULL);
    if (keys && o->max_frame < KF_FRAME_MIN_ENCRYPTED) {
        return refuse("--max-frame", "is too short for an encrypted session", "give 72 or more, or --insecure");
    }
    return 0;
}

int kf_options_parse(kf_options_t *o, int argc, char **argv) {
    memset(o, 0, sizeof *o);
    o->board = "posix";
    o->count = 1;
    o->ring = 400;
    o->held_out = 5;
    o->max_batch = 64;
    o->max_frame = 1024;
    o->window = 4096;
    o->slice_macs = 20000;
    /* No option occurs more often than there are arguments. */
    o->samples = calloc((size_t)argc + 1u, sizeof *o->samples);
    o->settings = calloc((size_t)argc + 1u, sizeof *o->settings);
    if (o->samples == NULL || o->settings == NULL) {
        return refuse("memory", "is used up", "start fewer processes");
    }
    int option;
    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        const int taken = take(o, option);
        if (taken != 0) {
            return taken;
        }
    }
    if (optind != argc) {
        return refuse("argument", argv[optind], "every value belongs to an option; see kilofed-posix --help");
    }
    return check(o);
}

void kf_options_free(kf_options_t *o) {
    free(o->samples);
    free(o->settings);
    o->samples = NULL;
    o->settings = NULL;
}
