/* How many bytes a device needs. kilofed_tools.memory is the twin of this file; a test compares the two. */
#include <string.h>

#include "core.h"

int kf_config_is_valid(const kf_device_config_t *c) {
    if (c == NULL || c->model == NULL || c->identity == NULL || c->board == NULL || c->port.write == NULL ||
        c->port.millis == NULL) {
        return 0;
    }
    size_t name = 0;
    while (name <= KF_BOARD_NAME_MAX && c->board[name] != 0) {
        name++;
    }
    const unsigned least = kf_identity_has_key(c->identity) ? KF_FRAME_MIN_ENCRYPTED : KF_FRAME_MIN;
    return name >= 1 && name <= KF_BOARD_NAME_MAX && c->max_frame >= least && c->max_frame <= KF_FRAME_MAX &&
           c->window >= 64 && c->ring_slots >= 1 && c->held_out_every != 1 &&
           (c->held_out_every == 0 || c->ring_slots % c->held_out_every == 0) && c->max_batch >= 1 &&
           c->max_batch <= KF_MAX_BATCH && (c->samples.data != NULL || c->samples.bytes == 0);
}

static uint32_t round_up(size_t bytes) {
    return (uint32_t)((bytes + 3u) & ~(size_t)3u);
}

kf_status_t kf_device_parts(kf_device_parts_t *parts, const kf_model_t *model, const kf_device_config_t *config) {
    memset(parts, 0, sizeof *parts);
    if (model == NULL || !kf_config_is_valid(config)) {
        return KF_ERR_ARG;
    }
    const kf_status_t status = kf_model_need_head(model);
    if (status != KF_OK) {
        return status;
    }
    /* C <= 1024, F <= 2048, slots <= 65535: the largest part is the ring's 65535 * 2050 bytes, and the sum fits 32 bits. */
    const uint16_t classes = model->head.classes;
    const uint16_t features = model->head.features;
    const size_t head = kf_head_bytes(KF_CODEC_INT8, classes, features);
    parts->receive = round_up(KF_SESSION_RECEIVE_BYTES(config->max_frame));
    parts->send = round_up(KF_SESSION_SEND_BYTES(config->max_frame));
    parts->ring = round_up(kf_ring_bytes(features, classes, config->ring_slots));
    parts->master = round_up(kf_params_bytes(classes, features));
    const size_t training = kf_train_bytes(classes, config->max_batch, config->ring_slots, config->held_out_every);
    const size_t update = kf_update_bytes(config->exact_updates ? KF_CODEC_INT32 : KF_CODEC_INT8, classes, features);
    parts->work = round_up(training > update ? training : update);
    parts->residual = round_up(kf_residual_bytes(classes, features));
    parts->base = round_up(head);
    parts->incoming = round_up(head);
    parts->personal = round_up(head);
    parts->arena = round_up(kf_nn_arena_bytes(model));
    parts->total = parts->receive + parts->send + parts->ring + parts->master + parts->work + parts->residual +
                   parts->base + parts->incoming + parts->personal + parts->arena;
    return KF_OK;
}

size_t kf_device_bytes(const kf_model_t *model, const kf_device_config_t *config) {
    kf_device_parts_t parts;
    return kf_device_parts(&parts, model, config) == KF_OK ? parts.total : 0;
}
