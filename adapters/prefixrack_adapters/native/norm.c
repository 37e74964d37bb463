/* LayerNorm(states + residual) in one reading of both, token by token. */

#include "normalise.h"

#define FEW 16384 /* elements that are not worth a second thread */

/* states and residual [num_tokens][width] without gaps, width a multiple of 16; the result is in states. */
void prefixrack_add_and_normalise(void *states, const void *residual, int is_bf16, int64_t num_tokens, int64_t width,
                                  const void *weight, const void *bias, float eps) {
#pragma omp parallel for schedule(static) if (num_tokens * width > FEW)
    for (int64_t token = 0; token < num_tokens; token++) {
        float line[width];
        if (is_bf16) normalise(states, residual, 1, token * width, width, weight, bias, eps, line);
        else normalise(states, residual, 0, token * width, width, weight, bias, eps, line);
    }
}
