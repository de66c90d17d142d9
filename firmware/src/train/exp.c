#include "kernels.h"

/* A constant that stays in a register: the compiler would take a multiplication that adds it apart, into two instructions. */
static inline uint32_t kept(uint32_t constant) {
#if defined(__GNUC__) || defined(__clang__)
    __asm__("" : "+r"(constant));
#endif
    return constant;
}

/* log2(e) = 23637 * 2^-14 to 5e-6: u is the distance in octaves of 2^26, n of them whole. 65535 * 23637 + 2^10 < 2^31; n <= 23. */
uint32_t kf_exponentials(int32_t *z, uint32_t classes, int32_t top) {
    const uint32_t octave = kept(23637), half_u = kept(1024), half_v = kept(512), one = kept(1), most = kept(65535);
    uint32_t sum = 0;
    do {
        const uint32_t u = kf_distance(top, *z, most) * octave + half_u;
        const uint32_t line = kf_exp2_lines[u >> 21 & 31u], n = u >> 26;
        const uint32_t v = (line >> 16) - (((line & 0xFFFFu) * (u >> 11 & 1023u) + half_v) >> 10);
        const uint32_t e = (v + ((one << n) >> 1)) >> n;
        sum += e;
        *z = (int32_t)e;
        z += KF_TILE;
    } while (--classes != 0);
    return sum;
}
