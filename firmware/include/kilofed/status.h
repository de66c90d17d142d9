/* kilofed: the numbers every call answers with.
 *
 * Zero is success, negatives are failures, positives carry a value of the call that gives them (its header says which).
 * A device sends these numbers and never words: the host holds the text and the next step. Numbers are part of the
 * protocol, so a new one is appended and none is reused.
 */
#ifndef KILOFED_STATUS_H
#define KILOFED_STATUS_H

typedef enum kf_status {
    KF_OK = 0,

    /* Positive: not failures. */
    KF_MORE = 1, /* a slice is done, the job is not: call again */

    KF_ERR_ARG = -1,         /* the caller broke the header's rules: a null pointer, a size of zero */
    KF_ERR_MEMORY = -2,      /* too little memory; the call's header says where the needed number can be read */
    KF_ERR_MODEL = -3,       /* the .tflite is malformed: an offset, count, shape or scale that cannot be */
    KF_ERR_UNSUPPORTED = -4, /* the .tflite is sound but asks for what this build does not compute */
    KF_ERR_HEAD = -5,        /* no trainable head: the last FULLY_CONNECTED is absent or not in the head contract's form */
    KF_ERR_SHAPE = -6,       /* two things that must agree in size do not: a head blob and a model, an update and a head */
    KF_ERR_STATE = -7,       /* a call out of its order: stepping before begin, training without samples */
    KF_ERR_FRAME = -8,       /* bytes of a link that are no frame: too long, damaged, out of sequence */
    KF_ERR_MESSAGE = -9,     /* a sound frame with a message that is unknown, malformed or not allowed now */
    KF_ERR_BLOB = -10,       /* a blob whose header, size or hash is wrong */
    KF_ERR_BUSY = -11,       /* the thing asked for is under way or blocked by something that is: try again later */
    KF_ERR_PORT = -12,       /* the port failed and gave no number of its own */

    KF_ERR_PORT_FIRST = -100, /* a port's own codes keep their number inside -100 .. -199 */
    KF_ERR_PORT_LAST = -199
} kf_status_t;

/* A result that must be looked at. */
#if defined(__GNUC__) || defined(__clang__)
#define KF_MUST_CHECK __attribute__((warn_unused_result))
#else
#define KF_MUST_CHECK
#endif

#endif
