/* The few core instructions and registers the port needs, the same on Armv6-M and Armv7-M. */
#ifndef KF_CORTEXM_CPU_H
#define KF_CORTEXM_CPU_H

#include <stdint.h>

/* A device register at a fixed address. */
#define KF_REG(address) (*(volatile uint32_t *)(address))

/* Mask interrupts (PRIMASK); returns what kf_cpu_unmask() needs to restore the state before. Nests. */
static inline uint32_t kf_cpu_mask(void) {
    uint32_t before;

    __asm__ volatile("mrs %0, primask\n\tcpsid i" : "=r"(before)::"memory");
    return before;
}

static inline void kf_cpu_unmask(uint32_t before) {
    __asm__ volatile("msr primask, %0" ::"r"(before) : "memory");
}

/* Sleep until an interrupt is pending. With PRIMASK set it wakes all the same, and the handler runs at unmask
 * (Armv7-M ARM B1.5.19; the same on Armv6-M): so a look at flags and the sleep are one step. */
static inline void kf_cpu_sleep(void) {
    __asm__ volatile("dsb\n\twfi" ::: "memory");
}

/* NVIC (Armv7-M ARM B3.4; Armv6-M ARM B3.4): enable an interrupt, and make one pending as if its line had risen. */
static inline void kf_cpu_irq_enable(uint32_t irq) {
    KF_REG(0xE000E100u + 4u * (irq / 32u)) = 1u << (irq % 32u);
}

static inline void kf_cpu_irq_pend(uint32_t irq) {
    KF_REG(0xE000E200u + 4u * (irq / 32u)) = 1u << (irq % 32u);
}

#endif
