/* The pipe that is the UART itself. */
#include "pipe.h"

#include "line.h"

const char *kf_pipe_start(const kf_identity_t *identity) {
    (void)identity;
    return NULL;
}

uint32_t kf_pipe_poll(void) {
    return KF_PIPE_NEVER;
}

size_t kf_pipe_read(uint8_t *out, size_t size) {
    return kf_line_read(out, size);
}

size_t kf_pipe_write(const uint8_t *bytes, size_t size) {
    return kf_line_write(bytes, size);
}

int kf_pipe_pending(void) {
    return kf_line_pending();
}
