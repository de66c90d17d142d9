/* Shapes: features (capacity, width), labels (capacity). */
#include "kilofed/ring.h"

#include <string.h>

#include "../bytes.h"
#include "kilofed/params.h"

static uint32_t label_bytes(uint16_t classes) {
    return classes <= 256 ? 1 : 2;
}

size_t kf_ring_bytes(uint16_t width, uint16_t classes, uint16_t capacity) {
    if (width == 0 || width > KF_MAX_FEATURES || classes == 0 || classes > KF_MAX_CLASSES) {
        return 0;
    }
    return (size_t)capacity * (width + label_bytes(classes));
}

kf_status_t kf_ring_init(kf_ring_t *ring, uint16_t width, uint16_t classes, uint16_t capacity, uint16_t holdout, void *mem,
                         size_t mem_bytes) {
    if (ring == NULL) {
        return KF_ERR_ARG;
    }
    memset(ring, 0, sizeof *ring);
    const size_t need = kf_ring_bytes(width, classes, capacity);
    if (mem == NULL || need == 0 || holdout == 1 || (holdout != 0 && capacity % holdout != 0)) {
        return KF_ERR_ARG;
    }
    if (mem_bytes < need) {
        return KF_ERR_MEMORY;
    }
    ring->features = mem;
    ring->labels = (uint8_t *)mem + (size_t)capacity * width;
    ring->width = width;
    ring->classes = classes;
    ring->capacity = capacity;
    ring->holdout = holdout;
    return KF_OK;
}

kf_status_t kf_ring_restore(kf_ring_t *ring, uint16_t count, uint16_t next) {
    if (ring == NULL || ring->features == NULL || ring->count != 0 || count > ring->capacity) {
        return KF_ERR_ARG;
    }
    if (count < ring->capacity ? next != count : next >= ring->capacity) {
        return KF_ERR_ARG;
    }
    for (uint32_t slot = 0; slot < count; slot++) {
        if (kf_ring_label(ring, slot) >= ring->classes) {
            return KF_ERR_ARG;
        }
    }
    ring->count = count;
    ring->next = next;
    return KF_OK;
}

kf_status_t kf_ring_push(kf_ring_t *ring, const int8_t *features, size_t features_bytes, uint16_t label) {
    if (ring == NULL || ring->features == NULL || features == NULL || label >= ring->classes) {
        return KF_ERR_ARG;
    }
    if (features_bytes != ring->width) {
        return KF_ERR_SHAPE;
    }
    if (ring->locks != 0) {
        return KF_ERR_BUSY;
    }
    const uint32_t slot = ring->next;
    memcpy(ring->features + (size_t)slot * ring->width, features, ring->width);
    if (label_bytes(ring->classes) == 1) {
        ring->labels[slot] = (uint8_t)label;
    } else {
        kf_put_u16(ring->labels + 2u * slot, label);
    }
    ring->next = slot + 1u == ring->capacity ? 0 : (uint16_t)(slot + 1u);
    if (ring->count < ring->capacity) {
        ring->count++;
    }
    return KF_OK;
}

kf_status_t kf_ring_clear(kf_ring_t *ring) {
    if (ring == NULL || ring->features == NULL) {
        return KF_ERR_ARG;
    }
    if (ring->locks != 0) {
        return KF_ERR_BUSY;
    }
    memset(ring->features, 0, kf_ring_bytes(ring->width, ring->classes, ring->capacity));
    ring->count = 0;
    ring->next = 0;
    return KF_OK;
}

const int8_t *kf_ring_features(const kf_ring_t *ring, uint32_t slot) {
    return ring->features + (size_t)slot * ring->width;
}

uint16_t kf_ring_label(const kf_ring_t *ring, uint32_t slot) {
    return label_bytes(ring->classes) == 1 ? ring->labels[slot] : kf_get_u16(ring->labels + 2u * slot);
}

int kf_ring_is_held_out(const kf_ring_t *ring, uint32_t slot) {
    return ring->holdout != 0 && slot % ring->holdout == ring->holdout - 1u;
}

uint16_t kf_ring_held_out_count(const kf_ring_t *ring) {
    return (uint16_t)(ring->holdout == 0 ? 0u : (uint32_t)ring->count / ring->holdout);
}

uint16_t kf_ring_train_count(const kf_ring_t *ring) {
    return (uint16_t)(ring->count - kf_ring_held_out_count(ring));
}
