/* Multipliers of the operators whose preparation in the reference divides scales in float32, not in double precision. */
#ifndef KF_NN_RATIO_H
#define KF_NN_RATIO_H

#include "requant.h"

/* The multiplier that is a positive float32 exactly; below 2^-32 it is 0. */
kf_requant_t kf_ratio_of(uint32_t bits);

/* float32(a / b), for two scales. */
kf_requant_t kf_ratio_scales(uint32_t a, uint32_t b);

#endif
