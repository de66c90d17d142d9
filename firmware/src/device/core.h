/* What the files of the device share. The way of a call: device.c takes bytes and time and says things, round.c is the
 * state machine of PROTOCOL.md's "A round", heads.c keeps the heads, collect.c turns samples into features. */
#ifndef KF_DEVICE_CORE_H
#define KF_DEVICE_CORE_H

#include "kilofed/device.h"

/* Bits of kf_device_t.say: messages that are true now and have to be said. Said twice they do what they do once, so one bit
 * each is all the queue there is. */
enum {
    KF_SAY_INFO = 1,
    KF_SAY_ERROR = 2,
    KF_SAY_BUSY = 4,
    KF_SAY_ACCEPT = 8,
    KF_SAY_STATUS = 16,
    KF_SAY_RESULT = 32,
    KF_SAY_LABELLED = 64,
    KF_SAY_SEEN = 128
};

#define KF_STATUS_MS 2000u      /* least time between two statuses nobody asked for */
#define KF_INFO_MS 5000u        /* least time between two infos because of new samples */
#define KF_SEEN_MS 250u         /* least time between two windows told to who watches */
#define KF_UPDATE_OFFERS 3u     /* of one round's update */

/* ---- device.c -------------------------------------------------------------------------------------------------- */

void kf_say_error(kf_device_t *d, kf_status_t code, uint32_t detail);

/* ---- memory.c -------------------------------------------------------------------------------------------------- */

/* Whether a config is within the ranges device.h states. */
int kf_config_is_valid(const kf_device_config_t *config);

/* ---- heads.c --------------------------------------------------------------------------------------------------- */

/* Messages that carry a head. `wire_bytes`: of the chunk's frame. */
void kf_heads_offer(kf_device_t *d, const kf_offer_t *offer);
void kf_heads_chunk(kf_device_t *d, const kf_chunk_t *chunk, uint16_t wire_bytes, uint32_t now_ms);

/* Make a head that has arrived the base. Only when no round needs the old one. */
void kf_heads_adopt(kf_device_t *d);

/* Use the personal head that was just written into its blob. */
void kf_heads_personalise(kf_device_t *d);

/* Hash of the newest head the device holds whole, NULL: none. */
const uint8_t *kf_heads_newest(const kf_device_t *d);

/* Bits of float32(step * 2^-20 / x_scale), rounded once: the scale of int8 weights that are multiples of a step. */
uint32_t kf_weight_scale(uint32_t step, uint32_t x_scale_bits);

/* ---- round.c --------------------------------------------------------------------------------------------------- */

void kf_round_order(kf_device_t *d, const kf_order_t *order, uint32_t now_ms);
void kf_round_commit(kf_device_t *d, const kf_commit_t *commit);
void kf_round_cancel(kf_device_t *d, uint32_t round);
void kf_round_accept(kf_device_t *d, const kf_accept_t *accept, uint32_t now_ms);

/* A slice of the round under way. 0: there is nothing to do. */
int kf_round_work(kf_device_t *d, uint32_t max_macs, uint32_t now_ms);

/* Thousandths of the training that are done. */
uint16_t kf_round_progress(const kf_device_t *d);
uint32_t kf_round_loss(const kf_device_t *d);

/* ---- collect.c ------------------------------------------------------------------------------------------------- */

/* Look at the placed samples. Sets state to collecting when there are some. KF_OK, or what is wrong with them. */
KF_MUST_CHECK kf_status_t kf_collect_begin(kf_device_t *d);

/* A slice of the inference under way, or the start of the next placed sample's. 0: there is nothing to do. */
int kf_collect_work(kf_device_t *d, uint32_t max_macs);

/* Run the whole model. features: where the head's input is kept, NULL: nowhere. */
KF_MUST_CHECK kf_status_t kf_collect_classify(kf_device_t *d, const int8_t *input, size_t input_bytes, int8_t *features,
                                              uint16_t *label);

/* ---- show.c ---------------------------------------------------------------------------------------------------- */

void kf_show_watch(kf_device_t *d, uint32_t ms, uint32_t now_ms);
void kf_show_label(kf_device_t *d, const kf_label_t *label);

/* Set the bit of a window that who watches has not heard of, when it is time. */
void kf_show_timer(kf_device_t *d, uint32_t now_ms);

/* The milliseconds until then, UINT32_MAX: nothing waits. */
uint32_t kf_show_wait_ms(const kf_device_t *d, uint32_t now_ms);

/* ---- labels.c -------------------------------------------------------------------------------------------------- */

/* BLAKE2b-8 of the model's `kilofed.labels` metadata, zeros when it has none. */
void kf_labels_hash(uint8_t out[KF_HASH_BYTES], const kf_model_t *model);

#endif
