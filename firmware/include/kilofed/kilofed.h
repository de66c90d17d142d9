/* kilofed: federated learning on a microcontroller.
 *
 * A device keeps its samples as features, trains the last layer of an int8 .tflite on them when its host asks, and sends
 * back a few hundred bytes. This header is all an application includes. Quick start:
 *
 *     #include "kilofed/kilofed.h"
 *
 *     extern const uint8_t model[];  // the .tflite, in flash
 *     extern const uint32_t model_bytes;
 *
 *     static kf_identity_t identity;
 *     static kf_device_t device;
 *     static uint32_t memory[2300];  // `kilofed inspect` says how much; here 9200 bytes
 *
 *     static size_t line_write(void *context, const uint8_t *bytes, size_t size);  // never waits
 *     static uint32_t clock_ms(void *context);
 *
 *     static kf_device_config_t config = {
 *         .model = model, .identity = &identity, .board = "myboard", .firmware = KF_VERSION,
 *         .max_frame = 128, .window = 256, .ring_slots = 80, .held_out_every = 5, .max_batch = 16,
 *         .port = {.write = line_write, .millis = clock_ms},
 *     };
 *
 *     int main(void) {
 *         config.model_bytes = model_bytes;
 *         kf_status_t status = kf_settings_read(&identity, (const uint8_t *)SETTINGS_ADDRESS);
 *         status = kf_device_init(&device, &config, memory, sizeof memory);
 *         while (status != KF_ERR_ARG) {  // any other failure the device tells its host itself
 *             uint8_t bytes[32];
 *             const size_t size = line_read(bytes, sizeof bytes);
 *             kf_receive(&device, bytes, size);
 *             if (button_pressed()) {
 *                 status = kf_observe(&device, sensor_read(), INPUT_BYTES, which_button());
 *             }
 *             sleep_until_bytes_or(kf_poll(&device, 2000));  // a slice of about 2000 MACs
 *         }
 *         return 1;
 *     }
 *
 * Each header is its module's manual. By the way of a sample: device.h (start here), nn.h and model.h (inference), ring.h,
 * train.h and params.h (learning); and of a byte: port.h, frame.h, message.h, session.h, blob.h; of what is kept:
 * flash.h, store.h; settings.h, status.h. */
#ifndef KILOFED_KILOFED_H
#define KILOFED_KILOFED_H

/* Of this library and its calls; the version on the wire is KF_FRAME_VERSION. */
#define KF_VERSION_MAJOR 0u
#define KF_VERSION_MINOR 1u
#define KF_VERSION_PATCH 0u
#define KF_VERSION (KF_VERSION_MAJOR << 16 | KF_VERSION_MINOR << 8 | KF_VERSION_PATCH)

#include "kilofed/blob.h"
#include "kilofed/device.h"
#include "kilofed/flash.h"
#include "kilofed/frame.h"
#include "kilofed/message.h"
#include "kilofed/model.h"
#include "kilofed/nn.h"
#include "kilofed/params.h"
#include "kilofed/port.h"
#include "kilofed/ring.h"
#include "kilofed/session.h"
#include "kilofed/settings.h"
#include "kilofed/status.h"
#include "kilofed/store.h"
#include "kilofed/train.h"

#endif
