#include "camera.h"

#include <errno.h>
#include <string.h>

int camera_open(camera_t *camera, const char *path) {
    camera->pass = 0;
    camera->file = fopen(path, "rb");
    if (camera->file == NULL) {
        fprintf(stderr, "sensor: %s: %s: make_frames.py writes one\n", path, strerror(errno));
        return -1;
    }
    return 0;
}

static int record_read(camera_t *camera, frame_t *frame) {
    return fread(&frame->truth, 1, 1, camera->file) == 1 &&
                   fread(frame->pixels, 1, sizeof frame->pixels, camera->file) == sizeof frame->pixels
               ? 0
               : -1;
}

int camera_look(camera_t *camera, frame_t *frame) {
    if (record_read(camera, frame) != 0) {
        rewind(camera->file);
        camera->pass++;
        if (record_read(camera, frame) != 0) {
            fputs("sensor: the camera's file holds no frame: make_frames.py writes some\n", stderr);
            return -1;
        }
    }
    frame->button = camera->pass == 0 ? frame->truth : CAMERA_NO_BUTTON;
    return 0;
}

void camera_close(camera_t *camera) {
    fclose(camera->file);
}
