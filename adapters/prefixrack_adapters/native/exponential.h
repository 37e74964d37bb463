/* The exponential function of a vector. */

#pragma once

#include "vectors.h"

/* e^x for x <= 0, to about 2 ulp: 2^n e^r with |r| <= ln 2 / 2. The polynomial's coefficients are those of expf in the
 * Cephes library (S. Moshier). */
static inline vf exp_negative(vf x) {
    x = larger(splat(-87.0f), x); /* NaN for NaN */
    vf shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: n is in the lowest bits, rounded to nearest */
    vf n = shifted - 12582912.0f;
    vf r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vf y = splat(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    return (vf)((vu)y + ((vu)shifted << 23));
}
