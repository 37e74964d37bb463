/* Vectors of 16 floats, and bfloat16 in memory. They are those of the compiler's extension (GCC, Clang), which lowers
 * them to what the processor has; where one instruction of AVX-512 does what several would, it is named.
 */

#pragma once

#include <stddef.h>
#include <stdint.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define LANES 16

typedef float vf __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t vi __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2)));

static inline vf splat(float x) { return (vf){} + x; }

static inline vf larger(vf x, vf y) {
#ifdef __AVX512F__
    return (vf)_mm512_max_ps((__m512)x, (__m512)y);
#else
    vi first = x > y;
    return (vf)(((vi)x & first) | ((vi)y & ~first));
#endif
}

static inline float total(vf x) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)x);
#else
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
#endif
}

static inline vu widened(vh x) {
#ifdef __AVX512F__
    return (vu)_mm512_cvtepu16_epi32((__m256i)x); /* GCC 12 takes four for what is one */
#else
    return __builtin_convertvector(x, vu);
#endif
}

static inline vf load_bf16(const uint16_t *p) { return (vf)(widened(*(const vh *)p) << 16); }

static inline vf load(const void *p, int64_t at, int is_bf16) {
    return is_bf16 ? load_bf16((const uint16_t *)p + at) : *(const vf *)((const float *)p + at);
}

static inline void store(void *p, int64_t at, vf x, int is_bf16) {
    if (!is_bf16) {
        *(vf *)((float *)p + at) = x;
        return;
    }
#ifdef __AVX512BF16__
    *(vh *)((uint16_t *)p + at) = (vh)_mm512_cvtneps_pbh((__m512)x);
#else
    vu bits = (vu)x; /* to nearest, ties to even */
    bits += 0x7fff + ((bits >> 16) & 1);
    *(vh *)((uint16_t *)p + at) = __builtin_convertvector(bits >> 16, vh);
#endif
}
