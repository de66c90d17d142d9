/* The head's file, as it is, in read-only memory; on a board, in flash. The linker knows where it ends. */
    .section .rodata
    .balign 16
    .globl foreign_head
foreign_head:
    .incbin FOREIGN_HEAD
    .globl foreign_head_end
foreign_head_end:

    .section .note.GNU-stack, "", %progbits
