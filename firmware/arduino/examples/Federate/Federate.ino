/* A device over any Stream: a serial port as here, or a WiFiClient or EthernetClient that is connected to the host.
 *
 * `model.h` beside this file holds the model; export_library.py writes one. The session is in the clear (no key): for
 * the bench, with `kilofed run --insecure --anybody`. */
#include <Arduino.h>
#include <KilofedLibrary.h>

#include "model.h"

static Stream &line = Serial;
static kf_identity_t identity = {{'s', 'k', 'e', 't', 'c', 'h', 0, 0}, {0}, {'s', 'k', 'e', 't', 'c', 'h'}};
static kf_device_config_t config;
static kf_device_t device;
static uint32_t memory[MODEL_MEMORY_BYTES / 4];
static int8_t input[MODEL_INPUT_BYTES];
static uint16_t shown;
static bool usable;

/* Never more than what the line takes without waiting. */
static size_t lineWrite(void *, const uint8_t *bytes, size_t size) {
    const int room = line.availableForWrite();
    const size_t taken = room <= 0 ? 0 : (size < (size_t)room ? size : (size_t)room);
    return taken == 0 ? 0 : line.write(bytes, taken);
}

static uint32_t clockMillis(void *) {
    return (uint32_t)millis();
}

/* Put your sensor here: fill `input` as the model takes it, and return the label that somebody gave. This one makes a
 * stripe whose place is its label, so that there is something to learn. */
static uint16_t readSensor() {
    const uint16_t label = shown % MODEL_CLASSES;
    for (uint32_t i = 0; i < MODEL_INPUT_BYTES; i++) {
        input[i] = i * MODEL_CLASSES / MODEL_INPUT_BYTES == label ? 127 : (int8_t)(-128 + (i + shown) % 7);
    }
    return label;
}

void setup() {
    Serial.begin(115200);
    config.model = model;
    config.model_bytes = sizeof model;
    config.identity = &identity;
    config.board = "arduino";
    config.firmware = KF_VERSION;
    config.max_frame = 128;
    config.window = 64; /* the receive buffer of most cores */
    config.ring_slots = MODEL_RING_SLOTS;
    config.held_out_every = 5;
    config.max_batch = 16;
    config.port.write = lineWrite;
    config.port.millis = clockMillis;
    /* Any failure but this one the device tells its host itself. */
    usable = kf_device_init(&device, &config, memory, sizeof memory) != KF_ERR_ARG;
}

void loop() {
    if (!usable) {
        return;
    }
    uint8_t bytes[32];
    size_t size = 0;
    while (size < sizeof bytes && line.available() > 0) {
        bytes[size++] = (uint8_t)line.read();
    }
    (void)kf_receive(&device, bytes, size);
    if (shown < MODEL_RING_SLOTS && kf_observe(&device, input, sizeof input, readSensor()) == KF_OK) {
        shown++;
    }
    (void)kf_poll(&device, 2000);
}
