/* The label list's hash: two models whose heads mean different things by class 3 must not be averaged. */
#include <string.h>

#include "../model/flatbuffer.h"
#include "../model/schema.h"
#include "core.h"

#define ENTRIES_MAX 64u /* metadata entries looked at, so that a hostile file costs bounded time */

void kf_labels_hash(uint8_t out[KF_HASH_BYTES], const kf_model_t *model) {
    static const char name[] = "kilofed.labels";
    memset(out, 0, KF_HASH_BYTES);
    kf_fb_t fb = {model->data, model->size, 0};
    uint32_t count;
    const uint32_t at = kf_fb_get_vector(&fb, kf_fb_follow(&fb, 0), KF_MODEL_METADATA, 4, &count);
    for (uint32_t i = 0; i < count && i < ENTRIES_MAX && !fb.bad; i++) {
        const uint32_t entry = kf_fb_follow(&fb, at + 4 * i);
        uint32_t length;
        const uint32_t text = kf_fb_get_vector(&fb, entry, KF_METADATA_NAME, 1, &length);
        const uint32_t buffer = (uint32_t)kf_fb_get_i32(&fb, entry, KF_METADATA_BUFFER, 0);
        if (fb.bad || length != sizeof name - 1 || memcmp(model->data + text, name, length) != 0 ||
            buffer >= model->buffers) {
            continue;
        }
        uint32_t bytes;
        const uint32_t data =
            kf_fb_get_vector(&fb, kf_fb_follow(&fb, model->at_buffers + 4 * buffer), KF_BUFFER_DATA, 1, &bytes);
        if (!fb.bad && bytes > 0) {
            kf_blob_hash(out, model->data + data, bytes);
        }
        return;
    }
}
