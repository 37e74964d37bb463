/* Attention of one head of one row in bfloat16, multiplied in pairs. */

#pragma once

#include "attend_job.h"

#ifdef __AVX512BF16__
#include "pairs.h"

/* As `tile`, of pairs: row r of a begins at a[r], and its next pair is a_k pairs further on. */
static inline __attribute__((always_inline)) void
tile_pairs(int vectors, int64_t depth, const void *const a[ROWS], int64_t a_k, const uint32_t *b, int64_t b_k,
           vf c[ROWS][2]) {
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < vectors; v++) c[r][v] = splat(0);
    for (int64_t k = 0; k < depth; k++) {
        vu b0 = *(const vu *)(b + k * b_k), b1 = vectors == 2 ? *(const vu *)(b + k * b_k + LANES) : b0;
        for (int r = 0; r < ROWS; r++) {
            vu x = splat_pair((const char *)a[r] + 4 * k * a_k);
            c[r][0] = add_dots(c[r][0], x, b0);
            if (vectors == 2) c[r][1] = add_dots(c[r][1], x, b1);
        }
    }
}

/* Where key or value n of the row lies: in its prefix, or behind that among its own. */
static inline const uint16_t *state_of(const Job *job, const void *of_prefix, const void *of_own, int64_t n) {
    int64_t own = n - job->prefix.length;
    return own < 0 ? (const uint16_t *)of_prefix + n * job->prefix.stride
                   : (const uint16_t *)of_own + own * job->own.stride;
}

/* [head_dim / 2][width] pairs of neighbouring dimensions. Not scaled: that would round them once more. */
static inline void read_query_pairs(const Job *job, int64_t width, uint32_t *out) {
    int64_t num_pairs = job->head_dim / 2;
    const uint16_t *query = job->query;
    for (int64_t q = 0; q < width; q += LANES)
        for (int64_t i = 0; i < num_pairs; i += LANES) {
            vf rows[LANES];
            for (int r = 0; r < LANES; r++) {
                if (q + r >= job->own.length) rows[r] = splat(0);
                else rows[r] = (vf)load_pairs(query + (q + r) * job->own.stride + 2 * i, num_pairs - i);
            }
            transpose(rows);
            for (int r = 0; r < LANES && i + r < num_pairs; r++) *(vu *)(out + (i + r) * width + q) = (vu)rows[r];
        }
}

/* [num_keys / 2, rounded up][head_dim] pairs of neighbouring keys' values. */
static inline void read_value_pairs(const Job *job, int64_t num_keys, uint32_t *out) {
    for (int64_t n = 0; n < num_keys; n += 2) {
        const uint16_t *first = state_of(job, job->prefix.value, job->own.value, n), *second = NULL;
        if (n + 1 < num_keys) second = state_of(job, job->prefix.value, job->own.value, n + 1);
        for (int64_t i = 0; i < job->head_dim; i += LANES) {
            vu pairs = interleaved(first + i, second == NULL ? NULL : second + i);
            *(vu *)(out + n / 2 * job->head_dim + i) = pairs;
        }
    }
}

/* As `score`, with keys read where they lie; the last of them stands in for those that a tile has too few of. */
static inline void score_pairs(const Scratch *s, const Job *job, int64_t num_keys, int64_t width, int64_t pitch) {
    for (int64_t n = 0; n < num_keys; n += ROWS) {
        const void *keys[ROWS];
        for (int r = 0; r < ROWS; r++) {
            keys[r] = state_of(job, job->prefix.key, job->own.key, n + r < num_keys ? n + r : num_keys - 1);
        }
        for (int64_t q = 0; q < width; q += 2 * LANES) {
            const uint32_t *query = (const uint32_t *)s->query + q;
            float *scores = s->scores + n * pitch + q;
            vf c[ROWS][2];
            if (q + LANES < width) {
                tile_pairs(2, job->head_dim / 2, keys, 1, query, width, c);
                put_scores(2, c, scores, pitch);
            } else {
                tile_pairs(1, job->head_dim / 2, keys, 1, query, width, c);
                put_scores(1, c, scores, pitch);
            }
        }
    }
}

/* As `softmax`. Row m of the scores becomes [width] pairs: what keys 2m and 2m + 1 weigh. */
static inline void softmax_pairs(const Scratch *s, int64_t num_keys, int64_t width, int64_t pitch, float scale) {
    float in_twos = scale * 1.44269504f; /* e^x is 2 to the power of x log2 e */
    for (int64_t q = 0; q < width; q += LANES) {
        vf most = *(const vf *)(s->scores + q), sum = splat(0);
        for (int64_t n = 1; n < num_keys; n++) most = larger(most, *(const vf *)(s->scores + n * pitch + q));
        most *= in_twos;
        for (int64_t n = 0; n < num_keys; n += 2) {
            const float *at = s->scores + n * pitch + q;
            vf first = power_of_two(*(const vf *)at * in_twos - most), second = splat(0);
            if (n + 1 < num_keys) second = power_of_two(*(const vf *)(at + pitch) * in_twos - most);
            sum += first + second;
            *(vu *)(s->scores + n / 2 * pitch + q) = pairs_of(first, second);
        }
        *(vf *)(s->inverse + q) = 1.0f / sum;
    }
}

/* As `weigh`. */
static inline void weigh_pairs(const Scratch *s, const Job *job, int64_t num_keys, int64_t pitch) {
    for (int64_t q = 0; q < job->own.length; q += ROWS) {
        const void *weights[ROWS];
        for (int r = 0; r < ROWS; r++) weights[r] = s->scores + q + r;
        for (int64_t i = 0; i < job->head_dim; i += 2 * LANES) {
            int vectors = i + LANES < job->head_dim ? 2 : 1;
            int64_t depth = (num_keys + 1) / 2;
            const uint32_t *value = (const uint32_t *)s->value + i;
            vf c[ROWS][2];
            if (vectors == 2) tile_pairs(2, depth, weights, pitch, value, job->head_dim, c);
            else tile_pairs(1, depth, weights, pitch, value, job->head_dim, c);
            int64_t rows = job->own.length - q < ROWS ? job->own.length - q : ROWS;
            for (int64_t r = 0; r < rows; r++)
                for (int v = 0; v < vectors; v++) {
                    int64_t at = (q + r) * job->out_stride + i + v * LANES;
                    store(job->out, at, c[r][v] * s->inverse[q + r], 1);
                }
        }
    }
}

static inline void attend_pairs(const Scratch *s, const Job *job) {
    int64_t num_keys = job->prefix.length + job->own.length, width = padded(job->own.length), pitch = width + ROWS;
    read_query_pairs(job, width, (uint32_t *)s->query);
    read_value_pairs(job, num_keys, (uint32_t *)s->value);
    score_pairs(s, job, num_keys, width, pitch);
    softmax_pairs(s, num_keys, width, pitch, job->scale);
    weigh_pairs(s, job, num_keys, pitch);
}
#endif
