/* Linear layers in bfloat16 on matrix tiles: states times weights, and what follows at once.
 *
 * A square of 32 tokens x 32 outputs is four tiles of sums. What follows the products is done with the vectors of the
 * square before while the tiles work on the next one. Widths are multiples of 32. Every token is computed alike, wherever
 * it lies.
 */

#pragma once

#include "activation.h"
#include "tiles.h"

#define SQUARE (2 * SIDE) /* tokens, and outputs, of four tiles */
#define SUMS (SIDE * SIDE)
#define MOST_KEPT 12 /* steps of 32 inputs, of which 32 outputs' weights take half of the nearest cache */

typedef struct { /* weight: [outputs / 32][inputs / 32][2][16][16][2], see tile_layers.c */
    const uint16_t *weight;
    const float *bias;
    int64_t inputs, outputs;
} Linear;

typedef struct { /* of squares, or of panels of 32 outputs */
    int64_t first, end;
} Range;

typedef struct { /* where results go, in elements: from token to token and from square to square; `together` panels of 32
                  * outputs lie side by side, and the next ones `step` from there */
    uint16_t *first;
    int64_t token_step, square_step, together, step, num_tokens;
} Out;

typedef struct { /* a square whose products are there */
    const float *sums, *bias;
    uint16_t *out;
    int64_t token_step, num_tokens;
} Square;

static inline int64_t smaller_of(int64_t x, int64_t y) { return x < y ? x : y; }
static inline int64_t shared(int64_t whole, int64_t parts) { return (whole + parts - 1) / parts; }

/* Where the 32 outputs of a panel go for a token. */
static inline uint16_t *place_of(Out out, int64_t panel, int64_t token) {
    int64_t of_panel = panel / out.together * out.step + panel % out.together * SQUARE;
    return out.first + of_panel + token / SQUARE * out.square_step + token % SQUARE * out.token_step;
}

/* States [tokens][width] without gaps. */
static inline Out lines(uint16_t *first, int64_t width, int64_t num_tokens) {
    return (Out){first, width, SQUARE * width, 1, SQUARE, num_tokens};
}

/* States as tiles: [squares][width / 32][2][16][32]. Tokens that are none have a place too. */
static inline Out in_tiles(uint16_t *first, int64_t width, int64_t num_squares) {
    return (Out){first, DEPTH, SQUARE * width, 1, 2 * TILE, num_squares * SQUARE};
}

/* Where a token begins in such tiles. */
static inline int64_t place_in_tiles(int64_t token, int64_t width) {
    return token / SQUARE * SQUARE * width + token % SQUARE * DEPTH;
}

/* From lines to tiles, with zeros for tokens that are none. */
static inline void
read_tiles(const uint16_t *states, int64_t width, int64_t num_tokens, Range squares, uint16_t *tiles) {
    for (int64_t token = squares.first * SQUARE; token < squares.end * SQUARE; token++) {
        uint16_t *line = tiles + place_in_tiles(token, width);
        for (int64_t i = 0; i < width; i += DEPTH) {
            __m512i x = _mm512_setzero_si512();
            if (token < num_tokens) x = _mm512_loadu_si512(states + token * width + i);
            _mm512_store_si512(line + i * SQUARE, x);
        }
    }
}

/* From tiles to lines, without tokens that are none. */
static inline void
write_lines(const uint16_t *tiles, int64_t width, int64_t num_tokens, Range squares, uint16_t *states) {
    int64_t end = smaller_of(squares.end * SQUARE, num_tokens);
    for (int64_t token = squares.first * SQUARE; token < end; token++) {
        const uint16_t *line = tiles + place_in_tiles(token, width);
        for (int64_t i = 0; i < width; i += DEPTH) {
            _mm512_storeu_si512(states + token * width + i, _mm512_load_si512(line + i * SQUARE));
        }
    }
}

/* Zeros in tiles for tokens that are none. */
static inline void clear_behind(uint16_t *tiles, int64_t width, int64_t num_tokens, Range squares) {
    for (int64_t token = num_tokens; token < squares.end * SQUARE; token++) {
        uint16_t *line = tiles + place_in_tiles(token, width);
        for (int64_t i = 0; i < width; i += DEPTH) _mm512_store_si512(line + i * SQUARE, _mm512_setzero_si512());
    }
}

/* 32 numbers in bfloat16. */
static inline void put_line(uint16_t *out, vf low, vf high) {
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
}

/* Tokens that the square lacks fall on its last one, which therefore comes after them. */
static inline __attribute__((always_inline)) void finish_token(const Square *square, int64_t token, int activation) {
    const float *sums = square->sums + token / SIDE * 2 * SUMS + token % SIDE * SIDE;
    vf low = activated(*(const vf *)sums + load(square->bias, 0, 0), activation);
    vf high = activated(*(const vf *)(sums + SUMS) + load(square->bias, SIDE, 0), activation);
    put_line(square->out + smaller_of(token, square->num_tokens - 1) * square->token_step, low, high);
}

/* SQUARE tokens x SQUARE outputs → sums. Meanwhile the square before is finished, a few tokens at each step, and weights
 * that will be multiplied `next` are brought nearer, some lines at each step. */
static inline __attribute__((always_inline)) void
multiply(const uint16_t *states, const uint16_t *weight, int64_t depth, float *sums,
         const Square *before, int activation, const uint16_t *next, int64_t lines) {
    int64_t at_once = shared(SQUARE, depth), token = SQUARE;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < depth; k++) {
        const uint16_t *a = states + 2 * k * TILE, *b = weight + 2 * k * TILE;
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + TILE, 64);
        if (depth <= MOST_KEPT) { /* a hint that leaves the nearest cache to the weights: the next square needs the same */
            _tile_stream_loadd(4, a, 64);
            _tile_stream_loadd(5, a + TILE, 64);
        } else {
            _tile_loadd(4, a, 64);
            _tile_loadd(5, a + TILE, 64);
        }
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        for (int64_t line = 0; line < lines; line++, next += DEPTH) _mm_prefetch(next, _MM_HINT_T1);
        int64_t end = token - at_once < 0 ? 0 : token - at_once;
        while (token > end) finish_token(before, --token, activation);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + SUMS, 64);
    _tile_stored(2, sums + 2 * SUMS, 64);
    _tile_stored(3, sums + 3 * SUMS, 64);
}

static inline __attribute__((always_inline)) void
multiply_all(const Linear *layer, const uint16_t *states, int64_t num_squares, Range panels, int activation, Out out) {
    float sums[4 * SUMS] __attribute__((aligned(64))) = {0};
    uint16_t nowhere[SQUARE];
    int64_t lines = shared(SQUARE, num_squares), panel = SQUARE * layer->inputs; /* has SQUARE lines for each step */
    Square before = {sums, sums, nowhere, 0, 1};
    settle_memory();
    for (int64_t p = panels.first; p < panels.end; p++) {
        const uint16_t *weight = layer->weight + p * panel;
        for (int64_t s = 0; s < num_squares; s++) {
            multiply(states + s * panel, weight, layer->inputs / DEPTH, sums, &before,
                     activation, weight + panel + s * lines * layer->inputs, lines);
            before = (Square){
                .sums = sums,
                .bias = layer->bias + p * SQUARE,
                .out = place_of(out, p, s * SQUARE),
                .token_step = out.token_step,
                .num_tokens = smaller_of(SQUARE, out.num_tokens - s * SQUARE),
            };
        }
    }
    for (int64_t token = SQUARE; token-- > 0;) finish_token(&before, token, activation);
}

/* activation(x W + b) of squares of tokens, `states` in tiles, for some of the layer's outputs. */
static inline void
product(const Linear *layer, const uint16_t *states, int64_t num_squares, Range panels, int activation, Out out) {
    switch (activation) { /* a constant of the loop in each case */
        case GELU: multiply_all(layer, states, num_squares, panels, GELU, out); return;
        case GELU_TANH: multiply_all(layer, states, num_squares, panels, GELU_TANH, out); return;
        case RELU: multiply_all(layer, states, num_squares, panels, RELU, out); return;
        default: multiply_all(layer, states, num_squares, panels, NONE, out);
    }
}
