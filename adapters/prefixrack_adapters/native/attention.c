/* Packed prefix attention on a CPU: every row's queries over (its prefix) + (its own tokens), without copies or padding.
 *
 * Keys and values are read where they lie. For each row and head the scores are kept transposed, [key][query]: maxima
 * and sums then run down columns, a vector of queries at a time. Sums and exponentials are in float32, whatever is
 * stored, and so are products, except those of bfloat16 where the processor multiplies it as it is (pairs.h).
 */

#include "exponential.h"
#include "vectors.h"
#ifdef __AVX512BF16__
#include "pairs.h"
#endif

#include <stdlib.h>
#include <string.h>

#define ROWS 8 /* of a register tile: 8 x 2 vectors are 16 accumulators */
#define FEW_ROWS 16 /* whose heads are shared out one by one; of more rows, each is one thread's */

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

/* A tile of scores to its place; `vectors` is a constant where this is inlined, as in `tile`. */
static inline __attribute__((always_inline)) void put_scores(int vectors, vf c[ROWS][2], float *scores, int64_t pitch) {
    for (int r = 0; r < ROWS; r++) {
        *(vf *)(scores + r * pitch) = c[r][0];
        if (vectors == 2) *(vf *)(scores + r * pitch + LANES) = c[r][1];
    }
}

typedef struct {
    float *query;  /* [head_dim][width]: transposed and scaled */
    float *key;    /* [num_keys + ROWS][head_dim] */
    float *value;  /* [num_keys][head_dim] */
    float *scores; /* [num_keys + ROWS][width + ROWS] */
    float *inverse; /* [width]: of the sums of scores */
} Scratch;

static void read_part(const Part *part, int is_bf16, int64_t head_dim, int64_t head, float *key, float *value) {
    for (int64_t n = 0; n < part->length; n++) {
        int64_t at = n * part->stride + head * head_dim;
        for (int64_t i = 0; i < head_dim; i += LANES) {
            vf k = load(part->key, at + i, is_bf16), v = load(part->value, at + i, is_bf16);
            *(vf *)(key + n * head_dim + i) = k;
            *(vf *)(value + n * head_dim + i) = v;
        }
    }
}

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

static void read_queries(const void *query, int64_t stride, int is_bf16, int64_t length, int64_t width,
                         int64_t head_dim, int64_t head, float scale, float *out) {
    for (int64_t q = 0; q < width; q += LANES)
        for (int64_t i = 0; i < head_dim; i += LANES) {
            vf rows[LANES];
            for (int r = 0; r < LANES; r++) {
                int64_t at = (q + r) * stride + head * head_dim + i;
                if (q + r >= length) rows[r] = splat(0);
                else rows[r] = load(query, at, is_bf16) * scale;
            }
            transpose(rows);
            for (int r = 0; r < LANES; r++) *(vf *)(out + (i + r) * width + q) = rows[r];
        }
}

/* scores[key][query] = key . query, ROWS keys and two vectors of queries at a time. */
static void score(const Scratch *s, int64_t num_keys, int64_t width, int64_t pitch, int64_t head_dim) {
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

static void softmax(const Scratch *s, int64_t num_keys, int64_t width, int64_t pitch) {
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
static void weigh(const Scratch *s, void *out, int64_t out_stride, int is_bf16, int64_t length, int64_t num_keys,
                  int64_t pitch, int64_t head_dim, int64_t head) {
    for (int64_t q = 0; q < length; q += ROWS)
        for (int64_t i = 0; i < head_dim; i += 2 * LANES) {
            int vectors = i + LANES < head_dim ? 2 : 1;
            vf c[ROWS][2];
            if (vectors == 2) tile(2, num_keys, s->scores + q, 1, pitch, s->value + i, head_dim, c);
            else tile(1, num_keys, s->scores + q, 1, pitch, s->value + i, head_dim, c);
            int64_t rows = length - q < ROWS ? length - q : ROWS;
            for (int64_t r = 0; r < rows; r++)
                for (int v = 0; v < vectors; v++) {
                    int64_t at = (q + r) * out_stride + head * head_dim + i + v * LANES;
                    store(out, at, c[r][v] * s->inverse[q + r], is_bf16);
                }
        }
}

static void attend_plain(const Scratch *s, const Job *job) {
    int64_t num_keys = job->prefix.length + job->own.length, done = job->prefix.length * job->head_dim;
    int64_t width = padded(job->own.length), pitch = width + ROWS;
    read_part(&job->prefix, job->is_bf16, job->head_dim, job->head, s->key, s->value);
    read_part(&job->own, job->is_bf16, job->head_dim, job->head, s->key + done, s->value + done);
    read_queries(job->query, job->own.stride, job->is_bf16, job->own.length, width, job->head_dim, job->head, job->scale,
                 s->query);
    score(s, num_keys, width, pitch, job->head_dim);
    softmax(s, num_keys, width, pitch);
    weigh(s, job->out, job->out_stride, job->is_bf16, job->own.length, num_keys, pitch, job->head_dim, job->head);
}

#ifdef __AVX512BF16__
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
    int64_t own = n - job->prefix.length, at = job->head * job->head_dim;
    return own < 0 ? (const uint16_t *)of_prefix + n * job->prefix.stride + at
                   : (const uint16_t *)of_own + own * job->own.stride + at;
}

/* [head_dim / 2][width] pairs of neighbouring dimensions. Not scaled: that would round them once more. */
static void read_query_pairs(const Job *job, int64_t width, uint32_t *out) {
    int64_t num_pairs = job->head_dim / 2;
    const uint16_t *query = (const uint16_t *)job->query + job->head * job->head_dim;
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
static void read_value_pairs(const Job *job, int64_t num_keys, uint32_t *out) {
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
static void score_pairs(const Scratch *s, const Job *job, int64_t num_keys, int64_t width, int64_t pitch) {
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
static void softmax_pairs(const Scratch *s, int64_t num_keys, int64_t width, int64_t pitch, float scale) {
    for (int64_t q = 0; q < width; q += LANES) {
        vf most = *(const vf *)(s->scores + q) * scale, sum = splat(0);
        for (int64_t n = 1; n < num_keys; n++) most = larger(most, *(const vf *)(s->scores + n * pitch + q) * scale);
        for (int64_t n = 0; n < num_keys; n += 2) {
            const float *at = s->scores + n * pitch + q;
            vf first = exp_negative(*(const vf *)at * scale - most), second = splat(0);
            if (n + 1 < num_keys) second = exp_negative(*(const vf *)(at + pitch) * scale - most);
            sum += first + second;
            *(vu *)(s->scores + n / 2 * pitch + q) = pairs_of(first, second);
        }
        *(vf *)(s->inverse + q) = 1.0f / sum;
    }
}

/* As `weigh`. */
static void weigh_pairs(const Scratch *s, const Job *job, int64_t num_keys, int64_t pitch) {
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
                    int64_t at = (q + r) * job->out_stride + job->head * job->head_dim + i + v * LANES;
                    store(job->out, at, c[r][v] * s->inverse[q + r], 1);
                }
        }
    }
}

static void attend_pairs(const Scratch *s, const Job *job) {
    int64_t num_keys = job->prefix.length + job->own.length, width = padded(job->own.length), pitch = width + ROWS;
    read_query_pairs(job, width, (uint32_t *)s->query);
    read_value_pairs(job, num_keys, (uint32_t *)s->value);
    score_pairs(s, job, num_keys, width, pitch);
    softmax_pairs(s, num_keys, width, pitch, job->scale);
    weigh_pairs(s, job, num_keys, pitch);
}
#endif

static void attend(const Scratch *s, const Job *job, int has_pairs) {
#ifdef __AVX512BF16__
    if (has_pairs) {
        attend_pairs(s, job);
        return;
    }
#endif
    attend_plain(s, job);
}

/* Whether products of bfloat16 can be taken in pairs here. */
int prefixrack_has_pairs(void) {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

typedef struct { /* what a call is given; see prefixrack_attend */
    const char *query, *key, *value;
    char *out;
    int64_t stride, num_heads, head_dim;
    const int64_t *starts, *prefix_lens;
    const void *const *prefix_keys, *const *prefix_values;
    float scale;
    int is_bf16;
} Call;

static Job job_of(const Call *call, int64_t row, int64_t head) {
    int64_t start = call->starts[row], size = call->is_bf16 ? 2 : 4, out_stride = call->num_heads * call->head_dim;
    int64_t skipped = start * call->stride * size, length = call->starts[row + 1] - start;
    return (Job){
        .prefix = {call->prefix_keys[row], call->prefix_values[row], out_stride, call->prefix_lens[row]},
        .own = {call->key + skipped, call->value + skipped, call->stride, length},
        .query = call->query + skipped,
        .out = call->out + start * out_stride * size,
        .out_stride = out_stride,
        .head_dim = call->head_dim,
        .head = head,
        .scale = call->scale,
        .is_bf16 = call->is_bf16,
    };
}

/* Read memory from one end to the other and do nothing with it. */
static void pass_over(const char *first, int64_t bytes) {
    vi sum = {};
    for (int64_t at = 0; at + 64 <= bytes; at += 64) sum ^= *(const vi *)(first + at);
    __asm__ volatile("" : : "r"(&sum) : "memory"); /* or the compiler would leave the loop out */
}

/* Bring all that a row's heads read into the cache. A head's part of it is a line or two from each token, where the
 * processor waits for every line; from end to end it sees the next ones coming. */
static void bring_row(const Call *call, int64_t row) {
    int64_t size = call->is_bf16 ? 2 : 4, state = call->num_heads * call->head_dim * size;
    int64_t start = call->starts[row], length = call->starts[row + 1] - start, step = call->stride * size;
    if (call->key == call->query + state && call->value == call->key + state && step == 3 * state) {
        pass_over(call->query + start * step, length * step); /* one stretch */
    } else {
        for (int64_t n = start; n < start + length; n++) {
            pass_over(call->query + n * step, state);
            pass_over(call->key + n * step, state);
            pass_over(call->value + n * step, state);
        }
    }
    pass_over(call->prefix_keys[row], call->prefix_lens[row] * state);
    pass_over(call->prefix_values[row], call->prefix_lens[row] * state);
}

/* All rows x all heads. query, key, value: token 0, head 0, `stride` elements from token to token; out is
 * [T][num_heads * head_dim]. Of row r: starts[r] .. starts[r + 1] are its tokens; prefix_keys[r] and prefix_values[r]
 * point to [prefix_lens[r]][num_heads][head_dim]. head_dim is a multiple of 16.
 * in_pairs: multiply bfloat16 as it is, which takes prefixrack_has_pairs. Returns 0, or 1 without memory. */
int prefixrack_attend(const void *query, const void *key, const void *value, int64_t stride, void *out, int is_bf16,
                      int in_pairs, int64_t num_rows, const int64_t *starts, const void *const *prefix_keys,
                      const void *const *prefix_values, const int64_t *prefix_lens, int64_t num_heads,
                      int64_t head_dim, float scale) {
    Call call = {query, key, value, out, stride, num_heads, head_dim, starts, prefix_lens, prefix_keys, prefix_values,
                 scale, is_bf16};
    int64_t most_keys = 0, most_tokens = 0, num_jobs = num_rows * num_heads;
    int64_t chunk = num_rows < FEW_ROWS ? 1 : num_heads;
    int failed = 0;
    for (int64_t r = 0; r < num_rows; r++) {
        int64_t tokens = starts[r + 1] - starts[r];
        if (tokens > most_tokens) most_tokens = tokens;
        if (tokens + prefix_lens[r] > most_keys) most_keys = tokens + prefix_lens[r];
    }
    int64_t most_width = padded(most_tokens), keys = most_keys + ROWS;
    int64_t floats = head_dim * (most_width + 2 * keys) + keys * (most_width + ROWS) + 2 * most_width;
#pragma omp parallel
    {
        float *memory = aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64);
        if (memory == NULL) {
#pragma omp atomic write
            failed = 1;
        } else {
            memset(memory, 0, floats * sizeof(float)); /* tiles read past the last key and query: anything finite */
        }
#pragma omp for schedule(dynamic, chunk)
        for (int64_t done = 0; done < num_jobs; done++) {
            if (memory == NULL) continue;
            int64_t row = num_rows - 1 - done / num_heads; /* the longest rows come last: begin with them */
            int64_t head = done % num_heads;
            Job job = job_of(&call, row, head);
            if (chunk == num_heads && head == 0) bring_row(&call, row);
            Scratch s = {memory, memory + head_dim * most_width, NULL, NULL, NULL};
            s.value = s.key + head_dim * keys;
            s.scores = s.value + head_dim * keys;
            s.inverse = s.scores + keys * (most_width + ROWS);
            attend(&s, &job, is_bf16 && in_pairs);
        }
        free(memory);
    }
    return failed;
}
