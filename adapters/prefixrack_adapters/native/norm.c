/* LayerNorm(states + residual) in one reading of both, token by token. Arithmetic is in float32, whatever is stored. */

#include "vectors.h"

#include <math.h>

#define FEW 16384 /* elements that are not worth a second thread */

typedef struct {
    const void *states, *residual;
    int64_t first; /* element */
} Token;

static inline vf sum_at(Token token, int64_t i, int is_bf16) {
    return load(token.states, token.first + i, is_bf16) + load(token.residual, token.first + i, is_bf16);
}

/* Of (sum - centre), or of its square. Two running sums: each addition waits for the one before it. */
static inline __attribute__((always_inline)) float
mean_of(Token token, int64_t width, vf centre, int is_squared, int is_bf16) {
    vf even = splat(0), odd = splat(0);
    for (int64_t i = 0; i < width; i += 2 * LANES) {
        vf x = sum_at(token, i, is_bf16) - centre;
        even += is_squared ? x * x : x;
        if (i + LANES == width) break;
        vf y = sum_at(token, i + LANES, is_bf16) - centre;
        odd += is_squared ? y * y : y;
    }
    return total(even + odd) / width;
}

/* Three passes over a token, which lies in the nearest cache after the first: mean, variance, result. The sum is added
 * up anew in each of them, so that nothing has to be kept and none of it is rounded. */
static inline __attribute__((always_inline)) void
normalise(void *states, const void *residual, int is_bf16, int64_t first, int64_t width, const void *weight,
          const void *bias, float eps) {
    Token token = {states, residual, first};
    vf mean = splat(mean_of(token, width, splat(0), 0, is_bf16));
    vf scale = splat(1.0f / sqrtf(mean_of(token, width, mean, 1, is_bf16) + eps));
    for (int64_t i = 0; i < width; i += LANES) {
        vf x = (sum_at(token, i, is_bf16) - mean) * scale;
        store(states, first + i, x * load(weight, i, is_bf16) + load(bias, i, is_bf16), is_bf16);
    }
}

/* states and residual [num_tokens][width] without gaps, width a multiple of 16; the result is in states. */
void prefixrack_add_and_normalise(void *states, const void *residual, int is_bf16, int64_t num_tokens, int64_t width,
                                  const void *weight, const void *bias, float eps) {
#pragma omp parallel for schedule(static) if (num_tokens * width > FEW)
    for (int64_t token = 0; token < num_tokens; token++) {
        if (is_bf16) normalise(states, residual, 1, token * width, width, weight, bias, eps);
        else normalise(states, residual, 0, token * width, width, weight, bias, eps);
    }
}
