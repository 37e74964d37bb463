/* What stands between products of int8 numbers, token by token: numbers to int8, and sums of products back to numbers.
 *
 * Each token has a scale of its own, its largest number by 127, so that it never depends on what else is in the pack.
 * Widths are multiples of 16. Arithmetic is in float32. What is not finite makes its token's scale not finite.
 */

#include "activation.h"
#include "vectors.h"

#define FEW 16384 /* elements that are not worth a second thread */
#define LARGEST 127.0f
#define TINY 1e-30f /* tokens below it are zeros: the inverse of their scale could be infinite */
#define ROUNDING 12582912.0f /* 1.5 * 2^23: what is added to it is rounded, to nearest, into its lowest bits */

typedef int8_t vb __attribute__((vector_size(LANES), aligned(1)));

static inline vb rounded(vf x) {
    return __builtin_convertvector((vi)(x + ROUNDING) - (vi)splat(ROUNDING), vb);
}

static inline float largest_of(vf x) {
    float largest = x[0];
    for (int i = 1; i < LANES; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

/* `width` numbers from the element `first` on to int8; their scale. */
static inline __attribute__((always_inline)) float
quantise(const void *numbers, int64_t first, int64_t width, int is_bf16, int8_t *out) {
    vf largest = splat(0), poison = splat(0); /* a maximum passes over NaN, a sum does not */
    for (int64_t i = 0; i < width; i += LANES) {
        vf x = load(numbers, first + i, is_bf16);
        largest = larger(absolute(x), largest);
        poison += x - x;
    }
    float scale = largest_of(largest) / LARGEST;
    vf inverse = splat(scale > TINY ? 1.0f / scale : 0.0f);
    for (int64_t i = 0; i < width; i += LANES) *(vb *)(out + i) = rounded(load(numbers, first + i, is_bf16) * inverse);
    return scale + total(poison);
}

/* numbers [num_tokens][width] → out, and scales [num_tokens]. */
void prefixrack_quantise(const void *numbers, int is_bf16, int64_t num_tokens, int64_t width, int8_t *out,
                         float *scales) {
#pragma omp parallel for schedule(static) if (num_tokens * width > FEW)
    for (int64_t token = 0; token < num_tokens; token++) {
        int64_t first = token * width;
        scales[token] = is_bf16 ? quantise(numbers, first, width, 1, out + first)
                                : quantise(numbers, first, width, 0, out + first);
    }
}

typedef struct { /* of one layer, by output: [width] */
    const float *scales, *bias;
} Channels;

/* activation(sum * token's scale * channel's scale + bias), for one token. */
static inline __attribute__((always_inline)) void
dequantise(const int32_t *sums, float token_scale, Channels channels, int activation, int64_t width, void *out,
           int64_t first, int is_bf16) {
    for (int64_t i = 0; i < width; i += LANES) {
        vf scale = *(const vf *)(channels.scales + i) * token_scale;
        vf x = __builtin_convertvector(*(const vi *)(sums + i), vf) * scale + *(const vf *)(channels.bias + i);
        store(out, first + i, activated(x, activation), is_bf16);
    }
}

/* sums [num_tokens][width] → out, of the same shape. */
void prefixrack_dequantise(const int32_t *sums, const float *token_scales, const float *channel_scales,
                           const float *bias, int64_t num_tokens, int64_t width, void *out, int is_bf16) {
    Channels channels = {channel_scales, bias};
#pragma omp parallel for schedule(static) if (num_tokens * width > FEW)
    for (int64_t token = 0; token < num_tokens; token++) {
        int64_t first = token * width;
        if (is_bf16) dequantise(sums + first, token_scales[token], channels, NONE, width, out, first, 1);
        else dequantise(sums + first, token_scales[token], channels, NONE, width, out, first, 0);
    }
}

/* With the activation a constant of the loop. */
static void activate(int activation, const int32_t *sums, float token_scale, Channels channels, int64_t width,
                     float *line) {
    switch (activation) {
        case GELU: dequantise(sums, token_scale, channels, GELU, width, line, 0, 0); return;
        case GELU_TANH: dequantise(sums, token_scale, channels, GELU_TANH, width, line, 0, 0); return;
        case RELU: dequantise(sums, token_scale, channels, RELU, width, line, 0, 0); return;
        default: dequantise(sums, token_scale, channels, NONE, width, line, 0, 0);
    }
}

/* sums [num_tokens][width] → activated → int8 again, for the next product, and scales [num_tokens]. What lies between is
 * a token's line of float32, and never leaves the nearest cache. */
void prefixrack_requantise(const int32_t *sums, const float *token_scales, const float *channel_scales,
                           const float *bias, int activation, int64_t num_tokens, int64_t width, int8_t *out,
                           float *scales) {
    Channels channels = {channel_scales, bias};
#pragma omp parallel for schedule(static) if (num_tokens * width > FEW)
    for (int64_t token = 0; token < num_tokens; token++) {
        float line[width];
        activate(activation, sums + token * width, token_scales[token], channels, width, line);
        scales[token] = quantise(line, 0, width, 0, out + token * width);
    }
}
