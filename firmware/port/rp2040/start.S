/* The sealed second stage, where the boot ROM looks for it: first in flash (board.ld puts the section there). */
    .section .second_stage, "a"
    .incbin KF_SECOND_STAGE_FILE
