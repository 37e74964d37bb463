/* LayerNorm(states + residual) of a few tokens. Arithmetic is in float32, whatever is stored. */

#pragma once

#include "vectors.h"

#include <math.h>

#define TOGETHER 4 /* tokens: what one of them waits for is hidden behind the others */

typedef struct {
    const void *weight, *bias;
    float eps;
} Norm;

typedef struct { /* where a token's elements begin */
    void *states;
    const void *residual;
} Token;

/* LayerNorm(states + residual) of `count` tokens, a constant where this is inlined; what they become is in `states`. Elements
 * lie 32 by 32, `step` from one 32 to the next. `lines` has room for the tokens' sums, which are never rounded, in the
 * nearest cache. */
static inline __attribute__((always_inline)) void normalise(int count, const Norm *norm, const Token *tokens, int is_bf16,
                                                            int64_t width, int64_t step, float *lines) {
    vf means[TOGETHER], squares[TOGETHER], scales[TOGETHER];
    for (int t = 0; t < count; t++) means[t] = squares[t] = splat(0);
    for (int64_t i = 0; i < width; i += LANES)
        for (int t = 0; t < count; t++) {
            int64_t at = i / 32 * step + i % 32;
            vf x = load(tokens[t].states, at, is_bf16) + load(tokens[t].residual, at, is_bf16);
            *(vf *)(lines + t * width + i) = x;
            means[t] += x;
        }
    for (int t = 0; t < count; t++) means[t] = splat(total(means[t]) / width);
    for (int64_t i = 0; i < width; i += LANES)
        for (int t = 0; t < count; t++) {
            vf x = *(const vf *)(lines + t * width + i) - means[t];
            squares[t] += x * x;
        }
    for (int t = 0; t < count; t++) scales[t] = splat(1.0f / sqrtf(total(squares[t]) / width + norm->eps));
    for (int64_t i = 0; i < width; i += LANES) {
        vf weight = load(norm->weight, i, is_bf16), bias = load(norm->bias, i, is_bf16);
        for (int t = 0; t < count; t++) {
            vf x = (*(const vf *)(lines + t * width + i) - means[t]) * scales[t];
            store(tokens[t].states, i / 32 * step + i % 32, x * weight + bias, is_bf16);
        }
    }
}
