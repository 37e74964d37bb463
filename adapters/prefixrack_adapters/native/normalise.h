/* LayerNorm(states + residual) of one token. Arithmetic is in float32, whatever is stored. */

#pragma once

#include "vectors.h"

#include <math.h>

static inline __attribute__((always_inline)) float mean_square(const float *line, int64_t width, vf centre) {
    vf even = splat(0), odd = splat(0); /* two running sums: each addition waits for the one before it */
    for (int64_t i = 0; i < width; i += 2 * LANES) {
        vf x = *(const vf *)(line + i) - centre;
        even += x * x;
        if (i + LANES == width) break;
        vf y = *(const vf *)(line + i + LANES) - centre;
        odd += y * y;
    }
    return total(even + odd) / width;
}

/* The token that begins with element `first`; its result is in `states`. `line` has room for it: it keeps the sum, which
 * is never rounded, in the nearest cache. */
static inline __attribute__((always_inline)) void
normalise(void *states, const void *residual, int is_bf16, int64_t first, int64_t width, const void *weight,
          const void *bias, float eps, float *line) {
    vf sum = splat(0);
    for (int64_t i = 0; i < width; i += LANES) {
        vf x = load(states, first + i, is_bf16) + load(residual, first + i, is_bf16);
        *(vf *)(line + i) = x;
        sum += x;
    }
    vf mean = splat(total(sum) / width);
    vf scale = splat(1.0f / sqrtf(mean_square(line, width, mean) + eps));
    for (int64_t i = 0; i < width; i += LANES) {
        vf x = (*(const vf *)(line + i) - mean) * scale;
        store(states, first + i, x * load(weight, i, is_bf16) + load(bias, i, is_bf16), is_bf16);
    }
}
