/* The model's file, as it is, in a section that board.ld places last in flash. */
    .section .model, "a"
    .balign 16
    .incbin KF_MODEL_FILE
