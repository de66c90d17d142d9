/* The model's file, as it is, in read-only memory; on a board, in flash. The linker knows where it ends. */
    .section .rodata
    .balign 16
    .globl sensor_model
sensor_model:
    .incbin SENSOR_MODEL
    .globl sensor_model_end
sensor_model_end:

    .section .note.GNU-stack, "", %progbits
