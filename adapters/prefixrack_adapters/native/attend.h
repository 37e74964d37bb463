/* Packed prefix attention of one head of one row: its queries over (its prefix) + (its own tokens), read where they lie.
 *
 * Without tiles the scores are kept transposed, [key][query]: maxima and sums then run down columns, a vector of queries at
 * a time. Sums and exponentials are in float32, whatever is stored, and so are products, except those of bfloat16 where
 * the processor multiplies it as it is.
 */

#pragma once

#include "attend_pairs.h"
#include "attend_plain.h"
#include "attend_tiles.h"

/* How products of bfloat16 are taken, each faster than the one before: turned into float32, in pairs, on tiles. */
enum { PLAIN, PAIRS, TILES };

/* The fastest way that this processor and system have. */
static inline int fastest_products(void) {
    if (may_use_tiles()) return TILES;
#ifdef __AVX512BF16__
    return PAIRS;
#else
    return PLAIN;
#endif
}

/* On tiles: by a thread that has taken them. */
static inline void attend(const Scratch *s, const Job *job, int products) {
#ifdef HAS_TILES
    if (job->is_bf16 && products == TILES && job->head_dim % DEPTH == 0) {
        attend_tiles(s, job, lines(job->out, job->out_stride, job->own.length), 0);
        return;
    }
#endif
#ifdef __AVX512BF16__
    if (job->is_bf16 && products != PLAIN) {
        attend_pairs(s, job);
        return;
    }
#endif
    attend_plain(s, job);
}

typedef struct { /* of some rows, the most of each */
    int64_t tokens, keys;
} Largest;

static inline Largest largest_of(const int64_t *starts, const int64_t *prefix_lens, int64_t num_rows) {
    Largest largest = {0, 0};
    for (int64_t r = 0; r < num_rows; r++) {
        int64_t tokens = starts[r + 1] - starts[r];
        if (tokens > largest.tokens) largest.tokens = tokens;
        if (tokens + prefix_lens[r] > largest.keys) largest.keys = tokens + prefix_lens[r];
    }
    return largest;
}

/* How many floats a scratch takes. What products read past the last key and query reaches no result. */
static inline int64_t scratch_floats(Largest largest, int64_t head_dim) {
    int64_t width = padded(largest.tokens), keys = largest.keys + SLACK;
    return (head_dim * (width + 2 * keys) + keys * (width + LANES) + 2 * width + LANES - 1) / LANES * LANES;
}

static inline Scratch scratch_in(float *memory, Largest largest, int64_t head_dim) {
    int64_t width = padded(largest.tokens), keys = largest.keys + SLACK;
    Scratch s = {memory, memory + head_dim * width, NULL, NULL, NULL};
    s.value = s.key + head_dim * keys;
    s.scores = s.value + head_dim * keys;
    s.inverse = s.scores + keys * (width + LANES);
    return s;
}

typedef struct { /* what a pass gives; see prefixrack_attend */
    const char *query, *key, *value;
    char *out;
    int64_t token_step, head_step; /* of query, key and value, in elements */
    int64_t num_heads, head_dim, first_token; /* that query, key, value and out begin with */
    const int64_t *starts, *prefix_lens;
    const void *const *prefix_keys, *const *prefix_values;
    float scale;
    int is_bf16;
} Pack;

static inline Job job_of(const Pack *pack, int64_t row, int64_t head) {
    int64_t start = pack->starts[row] - pack->first_token, size = pack->is_bf16 ? 2 : 4;
    int64_t out_stride = pack->num_heads * pack->head_dim, of_head = head * pack->head_dim * size;
    int64_t length = pack->starts[row + 1] - pack->starts[row];
    int64_t skipped = (start * pack->token_step + head * pack->head_step) * size;
    const char *prefix_key = pack->prefix_keys[row], *prefix_value = pack->prefix_values[row];
    return (Job){
        .prefix = {prefix_key + of_head, prefix_value + of_head, out_stride, pack->prefix_lens[row]},
        .own = {pack->key + skipped, pack->value + skipped, pack->token_step, length},
        .query = pack->query + skipped,
        .out = pack->out + start * out_stride * size + of_head,
        .out_stride = out_stride,
        .head_dim = pack->head_dim,
        .scale = pack->scale,
        .is_bf16 = pack->is_bf16,
    };
}

/* Read memory from one end to the other and do nothing with it. */
static inline void pass_over(const char *first, int64_t bytes) {
    vi sum = {};
    for (int64_t at = 0; at + 64 <= bytes; at += 64) sum ^= *(const vi *)(first + at);
    __asm__ volatile("" : : "r"(&sum) : "memory"); /* or the compiler would leave the loop out */
}

/* As a row's heads come to it, they wait for every line; read from end to end, the processor sees the next ones coming. */
static inline void bring_prefix(const Pack *pack, int64_t row) {
    int64_t bytes = pack->prefix_lens[row] * pack->num_heads * pack->head_dim * (pack->is_bf16 ? 2 : 4);
    pass_over(pack->prefix_keys[row], bytes);
    pass_over(pack->prefix_values[row], bytes);
}
