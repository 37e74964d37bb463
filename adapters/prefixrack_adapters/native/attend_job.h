/* What one head of one row attends to, and what is kept meanwhile. */

#pragma once

#include "vectors.h"

#include <string.h>

#define ROWS 8 /* of a register tile: 8 x 2 vectors are 16 accumulators */
#define SLACK 32 /* lines that tiles may take in behind the last key */

typedef struct {
    const void *key, *value; /* of token 0 */
    int64_t stride;          /* elements from one token to the next */
    int64_t length;
} Part;

typedef struct { /* one head of one row */
    Part prefix, own;
    const void *query; /* of the row's first token; strides are those of its own keys */
    void *out;         /* of the row's first token */
    int64_t out_stride, head_dim;
    float scale;
    int is_bf16;
} Job;

static inline int64_t padded(int64_t length) { return (length + LANES - 1) / LANES * LANES; }

typedef struct {
    float *query;  /* [head_dim][width]: transposed; in float32 scaled too */
    float *key;    /* [num_keys + SLACK][head_dim] */
    float *value;  /* likewise */
    float *scores; /* [num_keys + SLACK][width + LANES] */
    float *inverse; /* [width]: of the sums of scores */
} Scratch;

#define LOW_ONES 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define HIGH_ONES 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define LOW_TWOS 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define HIGH_TWOS 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define EVEN_FOURS 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27
#define ODD_FOURS 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31

/* A square of LANES x LANES: numbers of two rows are interleaved, then pairs, then fours twice. */
static inline __attribute__((always_inline)) void transpose(vf rows[LANES]) {
    vf ones[LANES], twos[LANES];
    for (int r = 0; r < LANES; r += 2) {
        ones[r] = __builtin_shufflevector(rows[r], rows[r + 1], LOW_ONES);
        ones[r + 1] = __builtin_shufflevector(rows[r], rows[r + 1], HIGH_ONES);
    }
    for (int r = 0; r < LANES; r += 4)
        for (int k = 0; k < 2; k++) {
            twos[r + 2 * k] = __builtin_shufflevector(ones[r + k], ones[r + k + 2], LOW_TWOS);
            twos[r + 2 * k + 1] = __builtin_shufflevector(ones[r + k], ones[r + k + 2], HIGH_TWOS);
        }
    for (int k = 0; k < 4; k++) {
        vf even = __builtin_shufflevector(twos[k], twos[k + 4], EVEN_FOURS);
        vf odd = __builtin_shufflevector(twos[k], twos[k + 4], ODD_FOURS);
        vf even_below = __builtin_shufflevector(twos[k + 8], twos[k + 12], EVEN_FOURS);
        vf odd_below = __builtin_shufflevector(twos[k + 8], twos[k + 12], ODD_FOURS);
        rows[k] = __builtin_shufflevector(even, even_below, EVEN_FOURS);
        rows[k + 4] = __builtin_shufflevector(odd, odd_below, EVEN_FOURS);
        rows[k + 8] = __builtin_shufflevector(even, even_below, ODD_FOURS);
        rows[k + 12] = __builtin_shufflevector(odd, odd_below, ODD_FOURS);
    }
}

/* A tile of scores to its place; `vectors` is a constant where this is inlined, as in `tile`. */
static inline __attribute__((always_inline)) void put_scores(int vectors, vf c[ROWS][2], float *scores, int64_t pitch) {
    for (int r = 0; r < ROWS; r++) {
        *(vf *)(scores + r * pitch) = c[r][0];
        if (vectors == 2) *(vf *)(scores + r * pitch + LANES) = c[r][1];
    }
}
