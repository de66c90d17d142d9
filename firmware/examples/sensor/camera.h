/* A camera of 28 x 28 pixels and the buttons beside it, played from a file: what an application's sensor would be.
 *
 * The file is a list of records: u8 label, then 784 int8 pixels as the model takes them. The label is the button that was
 * pressed, CAMERA_NO_BUTTON for none. After the last record it begins again, and nobody presses a button any more. */
#ifndef SENSOR_CAMERA_H
#define SENSOR_CAMERA_H

#include <stdint.h>
#include <stdio.h>

#define CAMERA_PIXELS 784u
#define CAMERA_NO_BUTTON 255u

typedef struct camera {
    FILE *file;
    uint32_t pass; /* how often the file has been shown whole */
} camera_t;

typedef struct frame {
    int8_t pixels[CAMERA_PIXELS];
    uint8_t button; /* CAMERA_NO_BUTTON: nobody said what it is */
    uint8_t truth;  /* what the file says, for the score that the program prints */
} frame_t;

/* Open the file. 0, or -1 after printing why not. */
int camera_open(camera_t *camera, const char *path);

/* The next frame. 0, or -1 when the file holds not even one. */
int camera_look(camera_t *camera, frame_t *frame);

void camera_close(camera_t *camera);

#endif
