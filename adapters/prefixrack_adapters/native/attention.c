/* Packed prefix attention on a CPU: every row's queries over (its prefix) + (its own tokens), without copies or padding.
 *
 * Keys and values are read where they lie. For each row and head the scores are kept transposed, [key][query]: maxima
 * and sums then run down columns, a vector of queries at a time. All arithmetic is in float32, whatever is stored.
 */

#include "vectors.h"

#include <stdlib.h>
#include <string.h>

#define ROWS 8 /* of a register tile: 8 x 2 vectors are 16 accumulators */

typedef struct {
    const void *key, *value; /* of token 0, head 0 */
    int64_t stride;          /* elements from one token to the next; heads lie side by side */
    int64_t length;
} Part;

/* e^x for x <= 0, to about 2 ulp: 2^n e^r with |r| <= ln 2 / 2. The polynomial's coefficients are those of expf in the
 * Cephes library (S. Moshier). */
static inline vf exp_negative(vf x) {
    x = larger(x, splat(-87.0f));
    vi n = __builtin_convertvector(x * 1.44269504f - 0.5f, vi);
    vf whole = __builtin_convertvector(n, vf);
    vf r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    vf y = splat(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    return y * (vf)((n + 127) << 23);
}

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
            int vectors = q + LANES < width ? 2 : 1;
            vf c[ROWS][2];
            if (vectors == 2) tile(2, head_dim, s->key + n * head_dim, head_dim, 1, s->query + q, width, c);
            else tile(1, head_dim, s->key + n * head_dim, head_dim, 1, s->query + q, width, c);
            for (int r = 0; r < ROWS; r++)
                for (int v = 0; v < vectors; v++) *(vf *)(s->scores + (n + r) * pitch + q + v * LANES) = c[r][v];
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

/* Rows [first, last) x all heads. query, key, value: token 0, head 0, `stride` elements from token to token; out is
 * [T][num_heads * head_dim]. Of row r: starts[r] .. starts[r + 1] are its tokens; prefix_keys[r] and prefix_values[r]
 * point to [prefix_lens[r]][num_heads][head_dim]. head_dim is a multiple of 16. Returns 0, or 1 without memory. */
int prefixrack_attend(const void *query, const void *key, const void *value, int64_t stride, void *out, int is_bf16,
                      int64_t num_rows, const int64_t *starts, const void *const *prefix_keys,
                      const void *const *prefix_values, const int64_t *prefix_lens, int64_t num_heads,
                      int64_t head_dim, float scale) {
    int64_t size = is_bf16 ? 2 : 4, most_keys = 0, most_tokens = 0;
    int failed = 0;
    for (int64_t r = 0; r < num_rows; r++) {
        int64_t tokens = starts[r + 1] - starts[r];
        if (tokens > most_tokens) most_tokens = tokens;
        if (tokens + prefix_lens[r] > most_keys) most_keys = tokens + prefix_lens[r];
    }
    int64_t most_width = (most_tokens + LANES - 1) / LANES * LANES, keys = most_keys + ROWS;
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
#pragma omp for schedule(dynamic, 2)
        for (int64_t job = num_rows * num_heads - 1; job >= 0; job--) { /* the longest rows come last: begin with them */
            if (memory == NULL) continue;
            int64_t row = job / num_heads, head = job % num_heads, start = starts[row];
            int64_t length = starts[row + 1] - start, width = (length + LANES - 1) / LANES * LANES;
            int64_t num_keys = prefix_lens[row] + length, pitch = width + ROWS, done = prefix_lens[row] * head_dim;
            Scratch s = {memory, memory + head_dim * most_width, NULL, NULL, NULL};
            s.value = s.key + head_dim * keys;
            s.scores = s.value + head_dim * keys;
            s.inverse = s.scores + keys * (most_width + ROWS);
            int64_t skipped = start * stride * size, written = start * num_heads * head_dim * size;
            Part prefix = {prefix_keys[row], prefix_values[row], num_heads * head_dim, prefix_lens[row]};
            Part own = {(const char *)key + skipped, (const char *)value + skipped, stride, length};
            read_part(&prefix, is_bf16, head_dim, head, s.key, s.value);
            read_part(&own, is_bf16, head_dim, head, s.key + done, s.value + done);
            read_queries((const char *)query + skipped, stride, is_bf16, length, width, head_dim, head, scale, s.query);
            score(&s, num_keys, width, pitch, head_dim);
            softmax(&s, num_keys, width, pitch);
            weigh(&s, (char *)out + written, num_heads * head_dim, is_bf16, length, num_keys, pitch, head_dim, head);
        }
        free(memory);
    }
    return failed;
}
