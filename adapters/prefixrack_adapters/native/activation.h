/* What a linear layer's outputs go through, a vector at a time. */

#pragma once

#include "exponential.h"
#include "vectors.h"

enum { NONE, GELU, GELU_TANH, RELU };

static inline vf absolute(vf x) { return (vf)((vi)x & 0x7fffffff); }

/* max(x, 0), NaN for NaN: of two numbers of which one is none, `larger` gives the second. */
static inline vf positive(vf x) { return larger(splat(0), x); }

/* max(x, 0) - g(|x|), where g(z) = z (1 - Phi(z)) is small and smooth: a polynomial of degree 10 in 1 - 2 z / 4.5, by
 * least squares at Chebyshev's points of [0, 4.5], to 1.6e-5. Beyond 4.5 it stays what it is there. */
static inline vf gelu(vf x) {
    static const float coefficients[] = {
        2.74990358e-02f, 1.33017056e-01f, 2.46478552e-01f, 1.47540793e-01f, -2.01935123e-01f,
        -4.36025225e-01f, -2.08082442e-01f, 1.78053228e-01f, 1.80277763e-01f, -2.25840508e-02f,
        -4.42360138e-02f,
    };
    const int degree = sizeof coefficients / sizeof *coefficients - 1;
    vf u = larger(-absolute(x), splat(-4.5f)) * (2 / 4.5f) + 1.0f, y = splat(coefficients[degree]);
    for (int k = degree - 1; k >= 0; k--) y = y * u + coefficients[k];
    return positive(x) - y;
}

static inline vf gelu_tanh(vf x) {
    vf y = (x * x * 0.044715f + 1.0f) * x * 1.59576912f; /* 2 sqrt(2 / pi): x times the sigmoid of it */
    vf e = exp_negative(-absolute(y));
    vi is_negative = y < 0;
    return x * (vf)(((vi)e & is_negative) | ((vi)splat(1.0f) & ~is_negative)) / (e + 1.0f);
}

static inline __attribute__((always_inline)) vf activated(vf x, int activation) {
    switch (activation) {
        case GELU: return gelu(x);
        case GELU_TANH: return gelu_tanh(x);
        case RELU: return positive(x);
        default: return x;
    }
}
