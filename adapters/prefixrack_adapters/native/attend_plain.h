/* Attention of one head of one row, multiplied in float32. */

#pragma once

#include "attend_job.h"
#include "exponential.h"

/* c[rows][vectors] = sum over k of a[row][k] * b[k][columns]; rows <= ROWS, vectors 1 or 2. */
static inline __attribute__((always_inline)) void
tile(int vectors, int64_t depth, const float *a, int64_t a_row, int64_t a_k, const float *b, int64_t b_k,
     vf c[ROWS][2]) {
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < vectors; v++) c[r][v] = splat(0);
    for (int64_t k = 0; k < depth; k++) {
        vf b0 = *(const vf *)(b + k * b_k), b1 = vectors == 2 ? *(const vf *)(b + k * b_k + LANES) : b0;
        for (int r = 0; r < ROWS; r++) {
            vf x = splat(a[r * a_row + k * a_k]);
            c[r][0] += x * b0;
            if (vectors == 2) c[r][1] += x * b1;
        }
    }
}

static inline void read_part(const Part *part, int is_bf16, int64_t head_dim, float *key, float *value) {
    for (int64_t n = 0; n < part->length; n++) {
        int64_t at = n * part->stride;
        for (int64_t i = 0; i < head_dim; i += LANES) {
            vf k = load(part->key, at + i, is_bf16), v = load(part->value, at + i, is_bf16);
            *(vf *)(key + n * head_dim + i) = k;
            *(vf *)(value + n * head_dim + i) = v;
        }
    }
}

static inline void read_queries(const void *query, int64_t stride, int is_bf16, int64_t length, int64_t width,
                                int64_t head_dim, float scale, float *out) {
    for (int64_t q = 0; q < width; q += LANES)
        for (int64_t i = 0; i < head_dim; i += LANES) {
            vf rows[LANES];
            for (int r = 0; r < LANES; r++) {
                int64_t at = (q + r) * stride + i;
                if (q + r >= length) rows[r] = splat(0);
                else rows[r] = load(query, at, is_bf16) * scale;
            }
            transpose(rows);
            for (int r = 0; r < LANES; r++) *(vf *)(out + (i + r) * width + q) = rows[r];
        }
}

/* scores[key][query] = key . query, ROWS keys and two vectors of queries at a time. */
static inline void score(const Scratch *s, int64_t num_keys, int64_t width, int64_t pitch, int64_t head_dim) {
    for (int64_t n = 0; n < num_keys; n += ROWS)
        for (int64_t q = 0; q < width; q += 2 * LANES) {
            float *scores = s->scores + n * pitch + q;
            vf c[ROWS][2];
            if (q + LANES < width) {
                tile(2, head_dim, s->key + n * head_dim, head_dim, 1, s->query + q, width, c);
                put_scores(2, c, scores, pitch);
            } else {
                tile(1, head_dim, s->key + n * head_dim, head_dim, 1, s->query + q, width, c);
                put_scores(1, c, scores, pitch);
            }
        }
}

static inline void softmax(const Scratch *s, int64_t num_keys, int64_t width, int64_t pitch) {
    for (int64_t q = 0; q < width; q += LANES) {
        vf most = *(const vf *)(s->scores + q), sum = splat(0);
        for (int64_t n = 1; n < num_keys; n++) {
            most = larger(most, *(const vf *)(s->scores + n * pitch + q));
        }
        for (int64_t n = 0; n < num_keys; n++) {
            float *at = s->scores + n * pitch + q;
            vf x = exp_negative(*(const vf *)at - most);
            sum += x;
            *(vf *)at = x;
        }
        *(vf *)(s->inverse + q) = 1.0f / sum;
    }
}

/* out[query] = sum over keys of scores[key][query] * value[key] * inverse[query]. */
static inline void weigh(const Scratch *s, void *out, int64_t out_stride, int is_bf16, int64_t length,
                         int64_t num_keys, int64_t pitch, int64_t head_dim) {
    for (int64_t q = 0; q < length; q += ROWS)
        for (int64_t i = 0; i < head_dim; i += 2 * LANES) {
            int vectors = i + LANES < head_dim ? 2 : 1;
            vf c[ROWS][2];
            if (vectors == 2) tile(2, num_keys, s->scores + q, 1, pitch, s->value + i, head_dim, c);
            else tile(1, num_keys, s->scores + q, 1, pitch, s->value + i, head_dim, c);
            int64_t rows = length - q < ROWS ? length - q : ROWS;
            for (int64_t r = 0; r < rows; r++)
                for (int v = 0; v < vectors; v++) {
                    int64_t at = (q + r) * out_stride + i + v * LANES;
                    store(out, at, c[r][v] * s->inverse[q + r], is_bf16);
                }
        }
}

static inline void attend_plain(const Scratch *s, const Job *job) {
    int64_t num_keys = job->prefix.length + job->own.length, done = job->prefix.length * job->head_dim;
    int64_t width = padded(job->own.length), pitch = width + ROWS;
    read_part(&job->prefix, job->is_bf16, job->head_dim, s->key, s->value);
    read_part(&job->own, job->is_bf16, job->head_dim, s->key + done, s->value + done);
    read_queries(job->query, job->own.stride, job->is_bf16, job->own.length, width, job->head_dim, job->scale, s->query);
    score(s, num_keys, width, pitch, job->head_dim);
    softmax(s, num_keys, width, pitch);
    weigh(s, job->out, job->out_stride, job->is_bf16, job->own.length, num_keys, pitch, job->head_dim);
}
