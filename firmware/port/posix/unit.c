#define _GNU_SOURCE /* getrandom */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <monocypher.h>

#define BACKOFF_FIRST_MS 100u
#define BACKOFF_LAST_MS 5000u
#define BLOCKED_MS 100u

/* ---- files ----------------------------------------------------------------------------------------------------- */

static int file_refuse(const char *path, const char *why) {
    fprintf(stderr, "kilofed-posix: %s: %s: give a readable file\n", path, why);
    return -1;
}

int kf_file_map(kf_file_t *file, const char *path) {
    file->bytes = NULL;
    file->size = 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return file_refuse(path, strerror(errno));
    }
    struct stat info;
    if (fstat(fd, &info) != 0 || info.st_size <= 0 || info.st_size > INT32_MAX) {
        close(fd);
        return file_refuse(path, "empty, or larger than 2 GB");
    }
    void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    const int error = errno;
    close(fd);
    if (bytes == MAP_FAILED) {
        return file_refuse(path, strerror(error));
    }
    file->bytes = bytes;
    file->size = (size_t)info.st_size;
    return 0;
}

void kf_file_unmap(kf_file_t *file) {
    if (file->bytes != NULL) {
        munmap((void *)(uintptr_t)file->bytes, file->size);
        file->bytes = NULL;
    }
}

uint32_t kf_boot_count(const char *path) {
    unsigned long before = 0;
    char draft[4096];
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        const int read = fscanf(file, "%lu", &before);
        fclose(file);
        if (read != 1 || before >= UINT32_MAX) {
            fprintf(stderr, "kilofed-posix: --boots %s: not a count of starts: give its own file, or a new one\n", path);
            return 0;
        }
    }
    const int length = snprintf(draft, sizeof draft, "%s.new", path);
    file = length > 0 && (size_t)length < sizeof draft ? fopen(draft, "w") : NULL;
    int failed = file == NULL;
    if (!failed) {
        failed = fprintf(file, "%lu\n", before + 1u) < 0 || fflush(file) != 0 || fsync(fileno(file)) != 0;
        failed = fclose(file) != 0 || failed;
        failed = failed || rename(draft, path) != 0;
    }
    if (failed) {
        fprintf(stderr, "kilofed-posix: --boots %s: %s: give a file that can be written\n", path, strerror(errno));
        return 0;
    }
    return (uint32_t)(before + 1u);
}

/* ---- the port of the core -------------------------------------------------------------------------------------- */

uint32_t kf_unit_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)now.tv_sec * 1000u + (uint32_t)(now.tv_nsec / 1000000);
}

static uint32_t port_millis(void *context) {
    (void)context;
    return kf_unit_clock();
}

static kf_status_t port_entropy(void *context, uint8_t *out, size_t size) {
    kf_unit_t *unit = context;
    if (unit->boot != 0) {
        return kf_entropy_of_boots(&unit->identity, unit->boot, unit->draws++, out, size);
    }
    return getrandom(out, size, 0) == (ssize_t)size ? KF_OK : KF_ERR_PORT; /* up to 256 bytes come whole */
}

static size_t port_write(void *context, const uint8_t *bytes, size_t size) {
    kf_unit_t *unit = context;
    if (unit->line != KF_LINE_UP) {
        return size; /* an unplugged cable: the bytes go nowhere, and the session notices by the silence */
    }
    const ssize_t sent = unit->in == unit->out ? send(unit->out, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT)
                                               : write(unit->out, bytes, size);
    if (sent < 0) {
        /* A broken line shows as its end when it is read; until then it takes nothing. */
        unit->blocked = errno == EAGAIN || errno == EWOULDBLOCK;
        return 0;
    }
    unit->blocked = (size_t)sent < size;
    return (size_t)sent;
}

static void port_stray(void *context, const uint8_t *bytes, size_t size) {
    const kf_unit_t *unit = context;
    (void)bytes;
    if (unit->verbose) {
        fprintf(stderr, "kilofed-posix: device %u: %zu stray bytes\n", unit->number, size);
    }
}

/* ---- one device ------------------------------------------------------------------------------------------------ */

static void identity_from_seed(kf_identity_t *identity, const char *seed, uint32_t number) {
    static const char label[] = "kilofed posix 1";
    uint8_t made[40];
    const uint8_t which[4] = {(uint8_t)number, (uint8_t)(number >> 8), (uint8_t)(number >> 16), (uint8_t)(number >> 24)};
    crypto_blake2b_ctx hash;
    crypto_blake2b_init(&hash, sizeof made);
    crypto_blake2b_update(&hash, (const uint8_t *)label, sizeof label - 1);
    crypto_blake2b_update(&hash, which, sizeof which);
    crypto_blake2b_update(&hash, (const uint8_t *)seed, strlen(seed));
    crypto_blake2b_final(&hash, made);
    memcpy(identity->id, made, sizeof identity->id);
    memcpy(identity->key, made + 8, sizeof identity->key);
}

static int identity_make(kf_unit_t *unit, const kf_options_t *o) {
    if (unit->number < o->settings_count) {
        kf_file_t page;
        if (kf_file_map(&page, o->settings[unit->number]) != 0) {
            return -1;
        }
        const int bad = page.size != KF_SETTINGS_BYTES || kf_settings_read(&unit->identity, page.bytes) != KF_OK;
        kf_file_unmap(&page);
        if (bad) {
            fprintf(stderr, "kilofed-posix: %s: not a settings page: `kilofed flash` writes one, or use --id-seed\n",
                    o->settings[unit->number]);
            return -1;
        }
    } else if (o->id_seed != NULL) {
        identity_from_seed(&unit->identity, o->id_seed, unit->number);
    } else if (port_entropy(unit, unit->identity.id, sizeof unit->identity.id) != KF_OK) {
        fputs("kilofed-posix: the system has no random bytes: use --id-seed\n", stderr);
        return -1;
    }
    if (o->insecure) {
        memset(unit->identity.key, 0, sizeof unit->identity.key);
    }
    if (o->name != NULL) {
        char name[sizeof unit->identity.name + 1];
        const int size = o->count > 1 ? snprintf(name, sizeof name, "%s%u", o->name, unit->number)
                                      : snprintf(name, sizeof name, "%s", o->name);
        if (size < 0 || (size_t)size >= sizeof name) {
            fprintf(stderr, "kilofed-posix: --name %s: longer than 12 bytes with its number: shorten it\n", o->name);
            return -1;
        }
        memcpy(unit->identity.name, name, (size_t)size);
    }
    return 0;
}

/* The block's size: what was asked for, or what this model needs; a broken model gets the two frames. */
static size_t memory_size(const kf_unit_t *unit, const kf_options_t *o) {
    const size_t least = ((size_t)unit->config.max_frame + 80u) * 2u;
    if (o->memory != 0) {
        return o->memory;
    }
    kf_model_t *model = calloc(1, sizeof *model);
    size_t need = 0;
    if (model != NULL && kf_model_open(model, unit->config.model, unit->config.model_bytes) == KF_OK) {
        need = kf_device_bytes(model, &unit->config);
    }
    free(model);
    return need > least ? need : least;
}

int kf_unit_init(kf_unit_t *unit, const kf_options_t *o, const kf_file_t *model, const kf_file_t *shared,
                 uint32_t number, uint32_t boot) {
    memset(unit, 0, sizeof *unit);
    unit->number = number;
    unit->in = unit->out = -1;
    unit->verbose = o->verbose;
    unit->backoff_ms = BACKOFF_FIRST_MS;
    unit->retry_ms = unit->due_ms = kf_unit_clock();
    if (identity_make(unit, o) != 0 ||
        (number < o->samples_count && kf_file_map(&unit->samples, o->samples[number]) != 0)) {
        return -1;
    }
    const kf_file_t *samples = number < o->samples_count ? &unit->samples : shared;
    unit->boot = boot; /* an id by chance, which was made above, is no part of it */
    unit->config = (kf_device_config_t){
        .model = model->bytes,
        .model_bytes = (uint32_t)model->size,
        .identity = &unit->identity,
        .board = o->board,
        .firmware = KF_VERSION,
        .max_frame = (uint16_t)o->max_frame,
        .window = (uint16_t)o->window,
        .ring_slots = (uint16_t)o->ring,
        .held_out_every = (uint8_t)o->held_out,
        .exact_updates = 1,
        .max_batch = (uint16_t)o->max_batch,
        .samples = {samples->bytes, (uint32_t)samples->size},
        .port = {unit, port_write, port_millis, port_entropy, port_stray},
    };
    unit->memory_bytes = memory_size(unit, o);
    unit->memory = malloc(unit->memory_bytes);
    if (unit->memory == NULL) {
        fprintf(stderr, "kilofed-posix: %zu bytes for device %u: lower --count or --ring\n", unit->memory_bytes, number);
        return -1;
    }
    const kf_status_t status = kf_device_init(&unit->device, &unit->config, unit->memory, unit->memory_bytes);
    if (status == KF_ERR_ARG) {
        fputs("kilofed-posix: --board or --memory is outside the core's limits: a board has 1 to 24 bytes, and two frames "
              "must fit the memory\n",
              stderr);
        return -1;
    }
    if (status != KF_OK || unit->device.fault != KF_OK) {
        fprintf(stderr, "kilofed-posix: device %u reports error %d, detail %lu (bytes needed: %lu)\n", number,
                -unit->device.fault, (unsigned long)unit->device.fault_detail, (unsigned long)unit->device.needed_bytes);
    }
    return 0;
}

void kf_unit_free(kf_unit_t *unit) {
    free(unit->memory);
    unit->memory = NULL;
    kf_file_unmap(&unit->samples);
}

/* ---- its line -------------------------------------------------------------------------------------------------- */

static int nonblocking(int fd) {
    const int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -1 : 0;
}

int kf_unit_use_stdio(kf_unit_t *unit) {
    if (nonblocking(0) != 0 || nonblocking(1) != 0) {
        perror("kilofed-posix: stdin and stdout");
        return -1;
    }
    unit->in = 0;
    unit->out = 1;
    unit->line = KF_LINE_UP;
    return 0;
}

static void line_close(kf_unit_t *unit, uint32_t now_ms) {
    if (unit->in > 2) {
        close(unit->in);
    }
    unit->in = unit->out = -1;
    unit->blocked = 0;
    unit->watched = 0;
    unit->line = KF_LINE_DOWN;
    /* Doubling, and a quarter of it by chance, so that a fleet does not come back in one instant. */
    uint8_t chance = 0;
    (void)getrandom(&chance, 1, GRND_NONBLOCK);
    unit->retry_ms = now_ms + unit->backoff_ms + unit->backoff_ms * chance / 1024u;
    unit->backoff_ms = unit->backoff_ms * 2u > BACKOFF_LAST_MS ? BACKOFF_LAST_MS : unit->backoff_ms * 2u;
}

static void line_up(kf_unit_t *unit) {
    unit->line = KF_LINE_UP;
    if (unit->verbose) {
        fprintf(stderr, "kilofed-posix: device %u is connected\n", unit->number);
    }
}

void kf_unit_connect(kf_unit_t *unit, const struct addrinfo *address, uint32_t now_ms) {
    if (unit->line == KF_LINE_CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        if (getsockopt(unit->in, SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0) {
            line_close(unit, now_ms);
        } else {
            line_up(unit);
        }
        return;
    }
    if (unit->line != KF_LINE_DOWN || !kf_time_reached(now_ms, unit->retry_ms)) {
        return;
    }
    const int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, address->ai_protocol);
    if (fd < 0) {
        line_close(unit, now_ms);
        return;
    }
    unit->in = unit->out = fd;
    const int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, address->ai_addr, address->ai_addrlen) == 0) {
        line_up(unit);
    } else if (errno == EINPROGRESS) {
        unit->line = KF_LINE_CONNECTING;
    } else {
        line_close(unit, now_ms);
    }
}

int kf_unit_read(kf_unit_t *unit, uint32_t now_ms) {
    uint8_t bytes[4096];
    const ssize_t size = read(unit->in, bytes, sizeof bytes);
    if (size > 0) {
        unit->backoff_ms = BACKOFF_FIRST_MS; /* somebody is there */
        (void)kf_receive(&unit->device, bytes, (size_t)size);
        unit->due_ms = now_ms;
        return 0;
    }
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        return 0;
    }
    if (unit->verbose) {
        fprintf(stderr, "kilofed-posix: device %u: the line has ended\n", unit->number);
    }
    line_close(unit, now_ms);
    return -1;
}

void kf_unit_work(kf_unit_t *unit, uint32_t slice_macs) {
    uint32_t wait_ms = kf_poll(&unit->device, slice_macs);
    if (unit->blocked && wait_ms > 0 && wait_ms < BLOCKED_MS) {
        wait_ms = BLOCKED_MS; /* poll() says when there is room; asking again every millisecond would be in vain */
    }
    unit->due_ms = kf_unit_clock() + wait_ms;
}

void kf_unit_leave(kf_unit_t *unit) {
    kf_leave(&unit->device, KF_REASON_SHUTTING_DOWN);
    (void)kf_poll(&unit->device, 1);
    if (unit->in > 2) {
        close(unit->in);
    }
    unit->line = KF_LINE_DOWN;
}
