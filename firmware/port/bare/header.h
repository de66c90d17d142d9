/* The image's header: says which board an image was built for, so that a flash tool can refuse the wrong one.
 *
 * Vector 8, reserved in every Armv6-M, Armv7-M and Armv8-M core, holds its address. So a tool finds it in an ELF
 * file, in a raw image, and on a chip that somebody else flashed. kilofed.boards.image reads it.
 */
#ifndef KF_BARE_HEADER_H
#define KF_BARE_HEADER_H

#include <stdint.h>

#define KF_HEADER_MAGIC 0x3148464Bu /* "KFH1", little endian */
#define KF_HEADER_VERSION 1u

/* 56 bytes, little endian. */
typedef struct kf_header {
    uint32_t magic;
    uint16_t version;           /* of this struct */
    uint16_t bytes;             /* sizeof */
    char board[24];             /* name of the board's data file, zero padded */
    uint32_t firmware;          /* major << 16 | minor << 8 | patch */
    const uint8_t *model_start; /* the .tflite in this image */
    const uint8_t *model_end;   /* == model_start: an image without a model */
    uint8_t *pool_start;        /* the device core's memory block */
    uint8_t *pool_end;
    uint32_t settings_address;  /* where this image looks for its settings page */
} kf_header_t;

extern const kf_header_t kf_header;

#endif
