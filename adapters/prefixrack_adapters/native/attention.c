/* Packed prefix attention on a CPU: every row's queries over (its prefix) + (its own tokens), without copies or padding. */

#include "attend.h"

#include <stdlib.h>

#define FEW_ROWS 16 /* whose heads are shared out one by one; of more rows, each is one thread's */

/* PLAIN, PAIRS or TILES. */
int prefixrack_fastest_products(void) { return fastest_products(); }

/* Bring all that a row's heads read into the cache. A head's part of it is a line or two from each token, where the
 * processor waits for every line; from end to end it sees the next ones coming. */
static void bring_row(const Pack *pack, int64_t row) {
    int64_t size = pack->is_bf16 ? 2 : 4, state = pack->num_heads * pack->head_dim * size;
    int64_t start = pack->starts[row], length = pack->starts[row + 1] - start, step = pack->token_step * size;
    if (pack->key == pack->query + state && pack->value == pack->key + state && step == 3 * state) {
        pass_over(pack->query + start * step, length * step); /* one stretch */
    } else {
        for (int64_t n = start; n < start + length; n++) {
            pass_over(pack->query + n * step, state);
            pass_over(pack->key + n * step, state);
            pass_over(pack->value + n * step, state);
        }
    }
    bring_prefix(pack, row);
}

/* All rows x all heads. query, key, value: token 0, head 0, `stride` elements from token to token; out is
 * [T][num_heads * head_dim]. Of row r: starts[r] .. starts[r + 1] are its tokens; prefix_keys[r] and prefix_values[r]
 * point to [prefix_lens[r]][num_heads][head_dim]. head_dim is a multiple of 16.
 * `products` of bfloat16 are taken so, or in a slower way. Returns 0, or 1 without memory. */
int prefixrack_attend(const void *query, const void *key, const void *value, int64_t stride, void *out, int is_bf16,
                      int products, int64_t num_rows, const int64_t *starts, const void *const *prefix_keys,
                      const void *const *prefix_values, const int64_t *prefix_lens, int64_t num_heads,
                      int64_t head_dim, float scale) {
    Pack pack = {query, key, value, out, stride, head_dim, num_heads, head_dim, 0, starts, prefix_lens, prefix_keys,
                 prefix_values, scale, is_bf16};
    int64_t num_jobs = num_rows * num_heads, chunk = num_rows < FEW_ROWS ? 1 : num_heads;
    Largest largest = largest_of(starts, prefix_lens, num_rows);
    int64_t bytes = scratch_floats(largest, head_dim) * sizeof(float);
    int failed = 0, on_tiles = is_bf16 && products == TILES;
#pragma omp parallel
    {
        float *memory = aligned_alloc(64, bytes);
        if (memory == NULL) {
#pragma omp atomic write
            failed = 1;
        } else {
            memset(memory, 0, bytes);
        }
        if (on_tiles) take_tiles();
#pragma omp for schedule(dynamic, chunk)
        for (int64_t done = 0; done < num_jobs; done++) {
            if (memory == NULL) continue;
            int64_t row = num_rows - 1 - done / num_heads; /* the longest rows come last: begin with them */
            int64_t head = done % num_heads;
            Job job = job_of(&pack, row, head);
            if (chunk == num_heads && head == 0) bring_row(&pack, row);
            Scratch scratch = scratch_in(memory, largest, head_dim);
            attend(&scratch, &job, products);
        }
        if (on_tiles) release_tiles();
        free(memory);
    }
    return failed;
}
