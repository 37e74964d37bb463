/* Attention of one head of one row in bfloat16, multiplied on matrix tiles: 16 queries at a time, whose scores are lines
 * of keys. Lines of what keys weigh are then what the second product takes: nothing is turned over but the keys.
 */

#pragma once

#include "attend_job.h"
#include "attend_pairs.h"
#include "tiles.h"

#ifdef HAS_TILES
#include "tile_product.h"

#include <math.h>

typedef uint16_t vw __attribute__((vector_size(2 * DEPTH), aligned(2)));

/* Numbers of two lines, two by two. */
#define FRONT_PAIRS                                                                                                     \
    0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47
#define BACK_PAIRS                                                                                                      \
    16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, \
        62, 31, 63

/* [head_dim / 2][width] pairs of keys' neighbouring dimensions, prefix first; zeros behind the last key. */
static inline void read_key_pairs(const Job *job, int64_t num_keys, int64_t width, uint32_t *out) {
    for (int64_t n = 0; n < num_keys; n += SIDE)
        for (int64_t i = 0; i < job->head_dim; i += DEPTH) {
            vf rows[LANES];
            for (int r = 0; r < LANES; r++) {
                if (n + r >= num_keys) rows[r] = splat(0);
                else rows[r] = *(const vf *)(state_of(job, job->prefix.key, job->own.key, n + r) + i);
            }
            transpose(rows);
            for (int r = 0; r < LANES; r++) *(vf *)(out + (i / 2 + r) * width + n) = rows[r];
        }
}

/* [width / 2][head_dim] pairs of neighbouring keys' values, likewise. */
static inline void read_values(const Job *job, int64_t num_keys, int64_t width, uint32_t *out) {
    for (int64_t n = 0; n < width; n += 2)
        for (int64_t i = 0; i < job->head_dim; i += DEPTH) {
            vw first = {}, second = {};
            if (n < num_keys) first = *(const vw *)(state_of(job, job->prefix.value, job->own.value, n) + i);
            if (n + 1 < num_keys) second = *(const vw *)(state_of(job, job->prefix.value, job->own.value, n + 1) + i);
            uint32_t *pairs = out + n / 2 * job->head_dim + i;
            *(vw *)pairs = __builtin_shufflevector(first, second, FRONT_PAIRS);
            *(vw *)(pairs + SIDE) = __builtin_shufflevector(first, second, BACK_PAIRS);
        }
}

/* Queries q to q + 16 of the row. Where there are fewer they are copied, with zeros behind them: nothing is read behind
 * the row. Returns where they lie, `step` elements apart. */
static inline const uint16_t *queries_from(const Job *job, int64_t q, uint16_t *copies, int64_t *step) {
    const uint16_t *first = (const uint16_t *)job->query + q * job->own.stride;
    int64_t count = job->own.length - q, head_dim = job->head_dim;
    *step = job->own.stride;
    if (count >= SIDE) return first;
    *step = head_dim;
    memset(copies, 0, 2 * SIDE * head_dim);
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = 0; i < head_dim; i += DEPTH) {
            *(vw *)(copies + r * head_dim + i) = *(const vw *)(first + r * job->own.stride + i);
        }
    return copies;
}

/* scores [16][pitch] of queries q to q + 16; those of keys that are none mean nothing. */
static inline void
score_lines(const Scratch *s, const Job *job, int64_t q, int64_t num_keys, int64_t width, int64_t pitch) {
    const uint32_t *keys = (const uint32_t *)s->key;
    int64_t step, head_dim = job->head_dim;
    const uint16_t *queries = queries_from(job, q, (uint16_t *)s->query, &step);
    settle_memory();
    _tile_loadd(1, queries, 2 * step);
    for (int64_t n = 0; n < num_keys; n += SIDE) {
        _tile_zero(0);
        for (int64_t i = 0; i < head_dim; i += DEPTH) {
            if (head_dim > DEPTH) _tile_loadd(1, queries + i, 2 * step);
            _tile_loadd(2, keys + i / 2 * width + n, 4 * width);
            _tile_dpbf16ps(0, 1, 2);
        }
        _tile_stored(0, s->scores + n, 4 * pitch);
    }
    settle_memory();
}

/* Which of the 16 keys from n on there are. */
static inline __mmask16 keys_from(int64_t n, int64_t num_keys) {
    return num_keys - n < SIDE ? (1u << (num_keys - n)) - 1 : 0xffff;
}

/* What 16 keys of a line weigh: e^(scale (score - largest)). */
static inline vf weights_at(const float *scores, float in_twos, vf largest) {
    return power_of_two(*(const vf *)scores * in_twos - largest);
}

static inline vf masked(vf x, __mmask16 mask) { return (vf)_mm512_maskz_mov_ps(mask, (__m512)x); }

static inline float largest_in(const float *line, int64_t num_keys) {
    int64_t n = 0;
    __m512 largest = _mm512_set1_ps(-INFINITY);
    for (; n + SIDE <= num_keys; n += SIDE) largest = _mm512_max_ps(largest, _mm512_loadu_ps(line + n));
    if (n < num_keys) {
        largest = _mm512_mask_max_ps(largest, keys_from(n, num_keys), largest, _mm512_loadu_ps(line + n));
    }
    return _mm512_reduce_max_ps(largest);
}

/* A line of scores becomes what its keys weigh, in bfloat16 and in its place, with zeros behind the last one. */
static inline void weigh_line(float *line, int64_t num_keys, float scale) {
    float in_twos = scale * 1.44269504f; /* e^x is 2 to the power of x log2 e */
    vf largest = splat(largest_in(line, num_keys) * in_twos);
    uint16_t *out = (uint16_t *)line;
    int64_t n = 0;
    for (; n + DEPTH <= num_keys; n += DEPTH) {
        put_line(out + n, weights_at(line + n, in_twos, largest), weights_at(line + n + SIDE, in_twos, largest));
    }
    if (n == num_keys) return;
    vf low = masked(weights_at(line + n, in_twos, largest), keys_from(n, num_keys)), high = splat(0);
    n += SIDE;
    if (n < num_keys) high = masked(weights_at(line + n, in_twos, largest), keys_from(n, num_keys));
    put_line(out + n - SIDE, low, high);
}

/* The first numbers of a line of 16 queries' weights, times 32 dimensions of values: two tiles of sums, and one of the
 * weights' own, since tile 6 is full of ones. */
static inline void multiply_values(const uint16_t *weights, int64_t pitch, const uint32_t *values, int64_t width,
                                   int64_t head_dim, float *sums) {
    settle_memory();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    for (int64_t n = 0; n < width; n += DEPTH) {
        const uint32_t *pairs = values + n / 2 * head_dim;
        _tile_loadd(3, weights + n, 4 * pitch);
        _tile_loadd(4, pairs, 4 * head_dim);
        _tile_loadd(5, pairs + SIDE, 4 * head_dim);
        _tile_dpbf16ps(0, 3, 4);
        _tile_dpbf16ps(1, 3, 5);
        _tile_dpbf16ps(2, 3, 6);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + SUMS, 64);
    _tile_stored(2, sums + 2 * SUMS, 64);
    settle_memory();
}

/* The results of queries q to q + 16, which go `to` the tokens of a head, of which the row's first has number `from`. */
static inline void
weigh_values(const Scratch *s, const Job *job, int64_t q, int64_t width, int64_t pitch, Out to, int64_t from) {
    float sums[3 * SUMS] __attribute__((aligned(64)));
    int64_t rows = smaller_of(SIDE, job->own.length - q);
    for (int64_t i = 0; i < job->head_dim; i += DEPTH) {
        multiply_values((const uint16_t *)s->scores, pitch, (const uint32_t *)s->value + i, width, job->head_dim, sums);
        for (int64_t r = 0; r < rows; r++) {
            const float *line = sums + r * SIDE;
            vf inverse = (vf)_mm512_rcp14_ps(_mm512_load_ps(line + 2 * SUMS)); /* to a 32nd of what is rounded off */
            put_line(place_of(to, i / SQUARE, from + q + r), *(const vf *)line * inverse,
                     *(const vf *)(line + SUMS) * inverse);
        }
    }
}

/* In bfloat16, with head_dim a multiple of 32, by a thread that has taken its tiles. */
static inline void attend_tiles(const Scratch *s, const Job *job, Out to, int64_t from) {
    uint32_t ones[SIDE];
    for (int i = 0; i < SIDE; i++) ones[i] = 0x3f803f80; /* two in a pair */
    settle_memory();
    _tile_loadd(6, ones, 0); /* the same line 16 times */
    int64_t num_keys = job->prefix.length + job->own.length, width = shared(num_keys, DEPTH) * DEPTH;
    int64_t pitch = width + LANES;
    read_key_pairs(job, num_keys, width, (uint32_t *)s->key);
    read_values(job, num_keys, width, (uint32_t *)s->value);
    for (int64_t q = 0; q < job->own.length; q += SIDE) {
        score_lines(s, job, q, num_keys, width, pitch);
        int64_t rows = smaller_of(SIDE, job->own.length - q);
        for (int64_t r = 0; r < rows; r++) weigh_line(s->scores + r * pitch, num_keys, job->scale);
        weigh_values(s, job, q, width, pitch, to, from);
    }
}
#endif
