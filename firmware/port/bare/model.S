/* What an image with a model has more than a bare one: the model's file, as it is, which board.ld places last in
 * flash, and the device core's memory block for it, last in RAM before what is free. */
    .section .model, "a", %progbits
    .balign 16
    .incbin KF_MODEL_FILE

    .section .pool, "aw", %nobits
    .balign 8
    .space KF_POOL_BYTES
