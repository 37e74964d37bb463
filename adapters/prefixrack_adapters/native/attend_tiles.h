/* Attention of one head of one row in bfloat16, multiplied on matrix tiles. */

#pragma once

#include "attend_job.h"
#include "attend_pairs.h"
#include "tiles.h"

#ifdef HAS_TILES
/* Keys as lines of a head, prefix first. */
static inline void read_key_lines(const Job *job, int64_t num_keys, uint16_t *out) {
    for (int64_t n = 0; n < num_keys; n++) {
        const uint16_t *key = state_of(job, job->prefix.key, job->own.key, n);
        memcpy(out + n * job->head_dim, key, 2 * job->head_dim);
    }
}

/* scores[key][query], a tile at a time; those of keys and queries that are none mean nothing. */
static inline void score_tiles(const Scratch *s, int64_t num_keys, int64_t width, int64_t pitch, int64_t head_dim) {
    const uint16_t *keys = (const uint16_t *)s->key;
    const uint32_t *queries = (const uint32_t *)s->query;
    settle_memory();
    for (int64_t n = 0; n < num_keys; n += SIDE)
        for (int64_t q = 0; q < width; q += SIDE) {
            _tile_zero(0);
            for (int64_t i = 0; i < head_dim; i += DEPTH) {
                _tile_loadd(1, keys + n * head_dim + i, 2 * head_dim);
                _tile_loadd(2, queries + i / 2 * width + q, 4 * width);
                _tile_dpbf16ps(0, 1, 2);
            }
            _tile_stored(0, s->scores + n * pitch + q, 4 * pitch);
        }
}

/* Pairs of what keys weigh, [key / 2][query], become lines of queries, square by square and each in its place, with zeros
 * behind the last key. `depth` is a multiple of 32. */
static inline void turn_weights(const Scratch *s, int64_t num_keys, int64_t depth, int64_t width, int64_t pitch) {
    for (int64_t n = 0; n < depth; n += DEPTH)
        for (int64_t q = 0; q < width; q += SIDE) {
            float *square = s->scores + n / 2 * pitch + q;
            vf rows[LANES];
            for (int r = 0; r < LANES; r++) {
                rows[r] = n + 2 * r < num_keys ? *(const vf *)(square + r * pitch) : splat(0);
            }
            transpose(rows);
            for (int r = 0; r < LANES; r++) *(vf *)(square + r * pitch) = rows[r];
        }
}

/* As `weigh`, a tile of queries x dimensions at a time. */
static inline void weigh_tiles(const Scratch *s, const Job *job, int64_t pitch, int64_t depth) {
    float sums[SIDE * SIDE] __attribute__((aligned(64)));
    const uint32_t *values = (const uint32_t *)s->value;
    settle_memory();
    for (int64_t q = 0; q < job->own.length; q += SIDE) {
        int64_t rows = job->own.length - q < SIDE ? job->own.length - q : SIDE;
        for (int64_t i = 0; i < job->head_dim; i += SIDE) {
            _tile_zero(0);
            for (int64_t n = 0; n < depth; n += DEPTH) {
                _tile_loadd(1, s->scores + n / 2 * pitch + q, 4 * pitch);
                _tile_loadd(2, values + n / 2 * job->head_dim + i, 4 * job->head_dim);
                _tile_dpbf16ps(0, 1, 2);
            }
            _tile_stored(0, sums, 64);
            for (int64_t r = 0; r < rows; r++) {
                int64_t at = (q + r) * job->out_stride + job->head * job->head_dim + i;
                store(job->out, at, *(const vf *)(sums + r * SIDE) * s->inverse[q + r], 1);
            }
        }
    }
}

/* In bfloat16, with head_dim a multiple of 32, by a thread that has taken its tiles. */
static inline void attend_tiles(const Scratch *s, const Job *job) {
    int64_t num_keys = job->prefix.length + job->own.length, width = padded(job->own.length), pitch = width + LANES;
    int64_t depth = (num_keys + DEPTH - 1) / DEPTH * DEPTH;
    read_query_pairs(job, width, (uint32_t *)s->query);
    read_key_lines(job, num_keys, (uint16_t *)s->key);
    read_value_pairs(job, num_keys, (uint32_t *)s->value);
    memset((uint32_t *)s->value + (num_keys + 1) / 2 * job->head_dim, 0, (depth - num_keys) / 2 * 4 * job->head_dim);
    score_tiles(s, num_keys, width, pitch, job->head_dim);
    softmax_pairs(s, num_keys, width, pitch, job->scale);
    turn_weights(s, num_keys, depth, width, pitch);
    weigh_tiles(s, job, pitch, depth);
}
#endif
