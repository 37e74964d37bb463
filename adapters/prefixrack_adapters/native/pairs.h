/* bfloat16 two by two, for processors with dot products of such pairs (AVX512-BF16): twice the arithmetic of float32 per
 * instruction, and nothing is converted before it. A pair is 32 bits, the first number in the lower half; products are
 * added up in float32.
 */

#pragma once

#include "vectors.h"

#include <string.h>

static inline vf add_dots(vf sum, vu a, vu b) {
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

static inline vu splat_pair(const void *p) {
    uint32_t pair;
    memcpy(&pair, p, sizeof pair);
    return (vu){} + pair;
}

/* The first `count` pairs at p, and zeros behind them: nothing beyond is read. */
static inline vu load_pairs(const uint16_t *p, int64_t count) {
    return (vu)_mm512_maskz_loadu_epi32(count < LANES ? (1u << count) - 1 : 0xffff, p);
}

static inline vu pairs_of(vf first, vf second) {
    static const int16_t order[2 * LANES] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                             8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    return (vu)_mm512_permutexvar_epi16(_mm512_loadu_si512(order), both);
}

/* 16 pairs of the numbers at `first` with those at `second`, or with zeros where that is NULL. */
static inline vu interleaved(const uint16_t *first, const uint16_t *second) {
    vu low = widened(*(const vh *)first);
    return second == NULL ? low : low | (widened(*(const vh *)second) << 16);
}

/* 2^x to 8e-5 of itself, a 25th of what bfloat16 rounds off: 2^n 2^r with 0 <= r < 1, the latter by least squares. 0 for
 * minus infinity, NaN for NaN. */
static inline vf power_of_two(vf x) {
    vf r = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf y = ((r * 7.79071638e-02f + 2.26233194e-01f) * r + 6.95777096e-01f) * r + 9.99927827e-01f;
    return (vf)_mm512_scalef_ps((__m512)y, (__m512)x); /* by 2^n, whose n is x rounded down */
}
