/* What one head of one row attends to, and what is kept meanwhile. */

#pragma once

#include "vectors.h"

#include <string.h>

#define ROWS 8 /* of a register tile: 8 x 2 vectors are 16 accumulators */
#define SLACK 32 /* lines that tiles may take in behind the last key */

typedef struct {
    const void *key, *value; /* of token 0, head 0 */
    int64_t stride;          /* elements from one token to the next; heads lie side by side */
    int64_t length;
} Part;

typedef struct { /* one head of one row */
    Part prefix, own;
    const void *query; /* of the row's first token, head 0; strides are those of its own keys */
    void *out;         /* of the row's first token, head 0 */
    int64_t out_stride, head_dim, head;
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

#define FRONT 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define BACK 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31

/* A square of LANES x LANES: four rounds, each of which interleaves the upper half of the rows with the lower one. */
static inline void transpose(vf rows[LANES]) {
    for (int width = 1; width < LANES; width *= 2) {
        vf next[LANES];
        for (int r = 0; r < LANES / 2; r++) {
            next[2 * r] = __builtin_shufflevector(rows[r], rows[r + LANES / 2], FRONT);
            next[2 * r + 1] = __builtin_shufflevector(rows[r], rows[r + LANES / 2], BACK);
        }
        memcpy(rows, next, sizeof next);
    }
}

/* A tile of scores to its place; `vectors` is a constant where this is inlined, as in `tile`. */
static inline __attribute__((always_inline)) void put_scores(int vectors, vf c[ROWS][2], float *scores, int64_t pitch) {
    for (int r = 0; r < ROWS; r++) {
        *(vf *)(scores + r * pitch) = c[r][0];
        if (vectors == 2) *(vf *)(scores + r * pitch + LANES) = c[r][1];
    }
}
