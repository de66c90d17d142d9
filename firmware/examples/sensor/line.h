/* The line to the host: a TCP connection, as the four functions that kilofed asks of a port. */
#ifndef SENSOR_LINE_H
#define SENSOR_LINE_H

#include <stddef.h>
#include <stdint.h>

#include "kilofed/port.h"

typedef struct line {
    int socket;
    int full; /* the last write did not take all: wait for room */
} line_t;

#define LINE_DOWN {.socket = -1, .full = 0}

/* Connect to HOST:PORT. 0, or -1 after printing why not. */
int line_open(line_t *line, const char *address);
void line_close(line_t *line);

/* Bytes that have come, up to `size`, 0 when there are none or no line is open; -1 when the host has hung up. Never waits. */
int line_read(line_t *line, uint8_t *bytes, size_t size);

/* Sleep until bytes come, a full line has room, or `wait_ms` have passed. */
void line_wait(const line_t *line, uint32_t wait_ms);

/* The port that goes into kf_device_config_t. `line` must outlive the device, and may be down. */
kf_port_t line_port(line_t *line);

#endif
