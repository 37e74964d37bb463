/* LayerNorm(states + residual) in one reading of both, a few tokens at once. */

#include "normalise.h"

#define FEW 16384 /* elements that are not worth a second thread */

typedef struct { /* [num_tokens][width] and [any number][width] without gaps, width a multiple of 16 */
    char *states;
    const char *residual;
    const int64_t *places; /* each token's line of `residual`; NULL: they are in the tokens' order */
    int64_t num_tokens, width;
    int is_bf16;
} Sum;

static Token token_of(const Sum *sum, int64_t token) {
    int64_t bytes = sum->width * (sum->is_bf16 ? 2 : 4), place = sum->places == NULL ? token : sum->places[token];
    return (Token){sum->states + token * bytes, sum->residual + place * bytes};
}

/* At most TOGETHER tokens, from the first on. `is_bf16` is a constant. */
static inline __attribute__((always_inline)) void
normalise_some(const Norm *norm, const Sum *sum, int64_t first, int is_bf16, float *lines) {
    int64_t left = sum->num_tokens - first, width = sum->width;
    Token tokens[TOGETHER];
    for (int64_t t = 0; t < TOGETHER && t < left; t++) tokens[t] = token_of(sum, first + t);
    if (left >= TOGETHER) {
        normalise(TOGETHER, norm, tokens, is_bf16, width, 32, lines);
    } else {
        for (int64_t t = 0; t < left; t++) normalise(1, norm, tokens + t, is_bf16, width, 32, lines);
    }
}

/* The result is in `states`. */
void prefixrack_add_and_normalise(const Sum *sum, const Norm *norm) {
#pragma omp parallel for schedule(static) if (sum->num_tokens * sum->width > FEW)
    for (int64_t first = 0; first < sum->num_tokens; first += TOGETHER) {
        float lines[TOGETHER * sum->width];
        if (sum->is_bf16) normalise_some(norm, sum, first, 1, lines);
        else normalise_some(norm, sum, first, 0, lines);
    }
}
