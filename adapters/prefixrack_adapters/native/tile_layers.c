/* Layers of a transformer in bfloat16 on the processor's matrix tiles (AMX): a linear layer, all that follows attention in
 * a layer of BERT's form, and such layers as a whole.
 *
 * Many tokens are shared out to threads in chunks, each of which a thread takes through all steps, so that what one step
 * leaves to the next stays in its core's cache. With few tokens all threads take each step together, and share out its
 * outputs.
 */

#include "tiles.h"

#ifdef HAS_TILES
#include "attend.h"
#include "normalise.h"
#include "tile_product.h"

#include <omp.h>
#include <stdlib.h>

#define CHUNK_BYTES (2048 * 1024) /* what a chunk's states may take: a core's cache, of which each step needs a part */
#define LEAST_TOKENS 128          /* of a chunk: for each, weights come from further away */
#define WORTH_A_THREAD 128        /* tokens */
#define MOST_OF_A_TEAM 1536       /* tokens; more are cut up, however many threads there are */

typedef struct { /* the threads that take a chunk together, and the number of this one */
    int64_t index, size;
} Team;

typedef struct {
    int64_t first, num_tokens, num_squares; /* the first token, and how many there are */
    Range rows;                             /* where chunks end with rows */
} Chunk;

typedef struct { /* a chunk's: `states` has so many elements a token as the work asks for */
    uint16_t *states;
    float *scratch;
} Memory;

/* What a team makes of a chunk. */
typedef void Work(const void *call, Chunk chunk, Team team, Memory memory);

typedef struct { /* tokens; with `starts`, [num_rows + 1], rows stay in one piece */
    int64_t num_tokens, num_rows;
    const int64_t *starts;
} Extent;

typedef struct { /* what a work keeps: of a token, in elements, and of each thread, in floats */
    int64_t width, scratch;
} Needs;

static Range share_of(int64_t whole, Team team) {
    int64_t part = shared(whole, team.size), first = smaller_of(part * team.index, whole);
    return (Range){first, smaller_of(first + part, whole)};
}

static inline void wait_for(Team team) {
    if (team.size > 1) {
#pragma omp barrier
    }
}

static Chunk chunk_of(int64_t first, int64_t end, Range rows) {
    return (Chunk){first, end - first, shared(end - first, SQUARE), rows};
}

/* Into so many chunks of about one size, or fewer; returns how many they are. */
static int64_t cut(const Extent *extent, int64_t wanted, Chunk *chunks) {
    int64_t tokens = extent->num_tokens, num_chunks = 0;
    if (extent->starts == NULL) {
        int64_t size = shared(shared(tokens, wanted), SQUARE) * SQUARE;
        for (int64_t first = 0; first < tokens; first += size) {
            chunks[num_chunks++] = chunk_of(first, smaller_of(first + size, tokens), (Range){0, 0});
        }
        return num_chunks;
    }
    const int64_t *starts = extent->starts;
    for (int64_t row = 0, end = 0, part = 1; row < extent->num_rows; row = end, part++) {
        while (end < extent->num_rows && starts[end] * wanted < tokens * part) end++;
        if (starts[end] > starts[row]) chunks[num_chunks++] = chunk_of(starts[row], starts[end], (Range){row, end});
    }
    return num_chunks;
}

/* All of it by all threads. Returns 0, or 1 without memory. */
static int run(Work *work, const void *call, Extent extent, Needs needs) {
    if (extent.num_tokens == 0) return 0;
    int64_t threads = omp_get_max_threads(), tokens = extent.num_tokens, most = CHUNK_BYTES / (2 * needs.width);
    int64_t is_team = tokens < smaller_of(WORTH_A_THREAD * threads, MOST_OF_A_TEAM);
    int64_t wanted = is_team ? 1 : threads * shared(tokens, threads * (most < LEAST_TOKENS ? LEAST_TOKENS : most));
    Chunk chunks[wanted];
    int64_t num_chunks = cut(&extent, wanted, chunks), squares = 0, num_states = is_team ? 1 : threads;
    for (int64_t c = 0; c < num_chunks; c++) {
        if (chunks[c].num_squares > squares) squares = chunks[c].num_squares;
    }
    int64_t state_bytes = squares * SQUARE * needs.width * sizeof(uint16_t);
    int64_t scratch_bytes = needs.scratch * sizeof(float);
    char *memory = aligned_alloc(64, num_states * state_bytes + threads * scratch_bytes);
    if (memory == NULL) return 1;
#pragma omp parallel
    {
        Team team = {omp_get_thread_num(), omp_get_num_threads()};
        char *scratch = memory + num_states * state_bytes + team.index * scratch_bytes;
        Memory own = {(uint16_t *)(memory + team.index % num_states * state_bytes), (float *)scratch};
        take_tiles();
        if (is_team) {
            work(call, chunks[0], team, own);
        } else {
#pragma omp for schedule(dynamic)
            for (int64_t c = 0; c < num_chunks; c++) work(call, chunks[num_chunks - 1 - c], (Team){0, 1}, own);
        }
        release_tiles();
    }
    free(memory);
    return 0;
}

static Range panels_of(const Linear *layer, Team team) { return share_of(layer->outputs / SQUARE, team); }

typedef struct {
    Linear layer;
    const uint16_t *states;
    uint16_t *out;
    int activation;
} LinearCall;

static void linear(const void *given, Chunk chunk, Team team, Memory memory) {
    const LinearCall *call = given;
    const Linear *layer = &call->layer;
    const uint16_t *states = call->states + chunk.first * layer->inputs;
    read_tiles(states, layer->inputs, chunk.num_tokens, share_of(chunk.num_squares, team), memory.states);
    wait_for(team);
    product(layer, memory.states, chunk.num_squares, panels_of(layer, team), call->activation,
            lines(call->out + chunk.first * layer->outputs, layer->outputs, chunk.num_tokens));
}

typedef struct { /* what follows attention in a layer of BERT's form */
    Linear output, up, down;
    Norm norm, last_norm;
    int activation;
} LayerEnd;

typedef struct {
    LayerEnd end;
    const uint16_t *attended, *hidden;
    uint16_t *out;
} LayerEndCall;

typedef struct {
    Linear input; /* gives query, key and value side by side */
    LayerEnd end;
    int64_t num_rows, num_heads; /* rows as in attention.c */
    const int64_t *starts;
    const void *const *prefix_keys, *const *prefix_values;
    const int64_t *prefix_lens;
    float scale;
} LayerCall;

/* states = LayerNorm(states + residual) of squares, both in tiles; also for tokens that are none. */
static void
normalise_squares(const Norm *norm, uint16_t *states, const uint16_t *residual, int64_t width, Range squares) {
    float lines[TOGETHER * width];
    for (int64_t token = squares.first * SQUARE; token < squares.end * SQUARE; token += TOGETHER) {
        Token tokens[TOGETHER];
        for (int64_t t = 0, first = place_in_tiles(token, width); t < TOGETHER; t++, first += DEPTH) {
            tokens[t] = (Token){states + first, residual + first};
        }
        normalise(TOGETHER, norm, tokens, 1, width, 2 * TILE, lines);
    }
}

typedef struct { /* a chunk's states in tiles, behind one another */
    uint16_t *hidden, *attended, *middle, *wide;
} States;

static States states_in(Memory memory, Chunk chunk, int64_t width) {
    int64_t size = chunk.num_squares * SQUARE * width;
    return (States){memory.states, memory.states + size, memory.states + 2 * size, memory.states + 3 * size};
}

/* From what attention gave; `states.hidden` becomes what the layer gives. */
static void end_layer(const LayerEnd *end, States states, Chunk chunk, Team team) {
    int64_t width = end->up.inputs, squares = chunk.num_squares;
    Range share = share_of(squares, team);
    product(&end->output, states.attended, squares, panels_of(&end->output, team), NONE,
            in_tiles(states.middle, width, squares));
    wait_for(team);
    normalise_squares(&end->norm, states.middle, states.hidden, width, share);
    wait_for(team);
    product(&end->up, states.middle, squares, panels_of(&end->up, team), end->activation,
            in_tiles(states.wide, end->up.outputs, squares));
    wait_for(team);
    product(&end->down, states.wide, squares, panels_of(&end->down, team), NONE,
            in_tiles(states.hidden, width, squares));
    wait_for(team);
    normalise_squares(&end->last_norm, states.hidden, states.middle, width, share);
    wait_for(team);
}

static void layer_end(const void *given, Chunk chunk, Team team, Memory memory) {
    const LayerEndCall *call = given;
    int64_t width = call->end.up.inputs, first = chunk.first * width, tokens = chunk.num_tokens;
    Range share = share_of(chunk.num_squares, team);
    States states = states_in(memory, chunk, width);
    read_tiles(call->attended + first, width, tokens, share, states.attended);
    read_tiles(call->hidden + first, width, tokens, share, states.hidden);
    wait_for(team);
    end_layer(&call->end, states, chunk, team);
    write_lines(states.hidden, width, tokens, share, call->out + first);
}

/* Of the chunk's rows, a share of their heads. All queries of a head lie together, token by token, behind all heads' queries
 * their keys, and then their values: what a row's head reads is in three pieces, which the processor sees coming. */
static void attend_rows(const LayerCall *call, States states, Chunk chunk, Team team, float *memory) {
    int64_t width = call->end.up.inputs, heads = call->num_heads, head_dim = width / heads, last_row = -1;
    int64_t head_step = chunk.num_squares * SQUARE * head_dim, kind = 2 * heads * head_step; /* in bytes */
    const char *query = (const char *)states.wide;
    Pack pack = {query, query + kind, query + 2 * kind, (char *)states.attended, head_dim, head_step, heads, head_dim,
                 chunk.first, call->starts, call->prefix_lens, call->prefix_keys, call->prefix_values, call->scale, 1};
    Scratch scratch = scratch_in(memory, largest_of(call->starts, call->prefix_lens, call->num_rows), head_dim);
    Range jobs = share_of((chunk.rows.end - chunk.rows.first) * heads, team);
    for (int64_t done = jobs.first; done < jobs.end; done++) {
        int64_t row = chunk.rows.first + done / heads, head = done % heads;
        if (row != last_row) bring_prefix(&pack, row);
        last_row = row;
        Job job = job_of(&pack, row, head);
        Out out = in_tiles(states.attended + head * head_dim * SQUARE, width, chunk.num_squares);
        attend_tiles(&scratch, &job, out, call->starts[row] - chunk.first);
    }
}

/* `states.hidden` becomes what the layer gives. */
static void layer(const LayerCall *call, States states, Chunk chunk, Team team, float *scratch) {
    int64_t width = call->end.up.inputs, squares = chunk.num_squares, head_dim = width / call->num_heads;
    int64_t tokens = squares * SQUARE;
    Out by_head = {states.wide, head_dim, SQUARE * head_dim, head_dim / SQUARE, tokens * head_dim, tokens};
    product(&call->input, states.hidden, squares, panels_of(&call->input, team), NONE, by_head);
    wait_for(team);
    attend_rows(call, states, chunk, team, scratch);
    wait_for(team);
    end_layer(&call->end, states, chunk, team);
}

/* states [num_tokens][inputs] → out [num_tokens][outputs] = activation(x W + b), neither with gaps. A weight is tiles:
 * [outputs / 32][inputs / 32][2][16][16][2], the last three being pairs of inputs, outputs, and the inputs of a pair.
 * Returns 0, or 1 without memory. */
int prefixrack_tile_linear(const LinearCall *call, int64_t num_tokens) {
    Extent extent = {num_tokens, 0, NULL};
    return run(linear, call, extent, (Needs){call->layer.inputs + call->layer.outputs, 0});
}

/* attended, hidden [num_tokens][width] → out, of the same shape: middle = LayerNorm(output(attended) + hidden), out =
 * LayerNorm(down(activation(up(middle))) + middle). Returns 0, or 1 without memory. */
int prefixrack_tile_layer_end(const LayerEndCall *call, int64_t num_tokens) {
    Extent extent = {num_tokens, 0, NULL};
    return run(layer_end, call, extent, (Needs){3 * call->end.up.inputs + call->end.up.outputs, 0});
}

typedef struct {
    const LayerCall *layers;
    int64_t num_layers;
    const uint16_t *hidden;
    uint16_t *out;
} LayersCall;

static void layers(const void *given, Chunk chunk, Team team, Memory memory) {
    const LayersCall *call = given;
    int64_t width = call->layers->end.up.inputs, first = chunk.first * width, tokens = chunk.num_tokens;
    Range share = share_of(chunk.num_squares, team);
    States states = states_in(memory, chunk, width);
    read_tiles(call->hidden + first, width, tokens, share, states.hidden);
    clear_behind(states.attended, width, tokens, share);
    wait_for(team);
    for (int64_t i = 0; i < call->num_layers; i++) layer(call->layers + i, states, chunk, team, memory.scratch);
    write_lines(states.hidden, width, tokens, share, call->out + first);
}

/* hidden [num_tokens][width] → out, of the same shape: layer by layer attention, of heads whose dimensions are a multiple
 * of 32, and what follows it. Returns 0, or 1 without memory. */
int prefixrack_tile_layers(const LayersCall *call, int64_t num_tokens) {
    const LayerCall *first = call->layers;
    int64_t width = first->end.up.inputs, wide = 3 * width;
    Needs needs = {0, 0};
    for (int64_t i = 0; i < call->num_layers; i++) {
        const LayerCall *one = call->layers + i;
        if (one->end.up.outputs > wide) wide = one->end.up.outputs;
        Largest largest = largest_of(one->starts, one->prefix_lens, one->num_rows);
        int64_t scratch = scratch_floats(largest, width / one->num_heads);
        if (scratch > needs.scratch) needs.scratch = scratch;
    }
    needs.width = 3 * width + wide;
    return run(layers, call, (Extent){num_tokens, first->num_rows, first->starts}, needs);
}
#endif

/* Whether this processor and system let a process use its tiles. */
int prefixrack_has_tiles(void) { return may_use_tiles(); }
