/* The second stage of an RP2040's start: what the boot ROM copies from the first 256 bytes of flash to 0x20041F00 and runs,
 * once the CRC in its last word holds (RP2040 datasheet, 2.8.1.3). It turns flash into memory and goes to the vectors behind
 * it. crc.py makes the CRC; this file is assembled alone, and is independent of where it runs.
 *
 * Flash is read by the command 03h with one data line, which every part answers alike (4.10.10): slow, behind the 16 kB cache
 * that all code runs from.
 *
 * Word 8 is the address of the image's header, as in the vector tables of other boards (port/bare/header.h). */
    .syntax unified
    .cpu cortex-m0plus
    .thumb

    b start
    .balign 4
    .space 28
    .word KF_HEADER_ADDRESS

start:
    ldr r3, =0x18000000 /* XIP_SSI, 4.10.13 */
    movs r1, #0
    str r1, [r3, #0x08] /* SSIENR: off, to be changed */
    movs r1, #4
    str r1, [r3, #0x14] /* BAUDR: 125 MHz / 4, below the 33 MHz that 03h is good for */
    ldr r1, =(31 << 16 | 3 << 8)
    str r1, [r3, #0x00] /* CTRLR0: one line, frames of 32 bits, EEPROM read: send the command, then receive */
    movs r1, #0
    str r1, [r3, #0x04] /* CTRLR1: one frame a read */
    ldr r1, =(0x03 << 24 | 2 << 8 | 6 << 2)
    ldr r2, =0x180000F4
    str r1, [r2] /* SPI_CTRLR0: command 03h, of 8 bits, and an address of 24 */
    movs r1, #1
    str r1, [r3, #0x08]

    ldr r0, =KF_VECTORS_ADDRESS
    ldr r1, =0xE000ED08 /* VTOR */
    str r0, [r1]
    ldr r1, [r0]
    msr msp, r1
    ldr r1, [r0, #4]
    bx r1
    .ltorg
