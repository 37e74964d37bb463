/* Small linear heads: products of a head's weights with vectors of its row, in float32. */

#include "vectors.h"

#define FEW 65536 /* products that are not worth a second thread */

typedef struct {
    const char *hidden;     /* [any number][width] */
    const int64_t *places;  /* [num_places]: lines of it */
    const float *const *weights, *const *biases; /* for each place [num_outputs][width] and [num_outputs], or NULL */
    float *out;             /* [num_places][num_outputs] */
    int64_t num_places, num_outputs, width;
    int is_bf16;            /* the hidden states */
} Heads;

static inline float element(const char *states, int64_t i, int is_bf16) {
    union { uint32_t bits; float number; } wide;
    if (!is_bf16) return ((const float *)states)[i];
    wide.bits = (uint32_t)((const uint16_t *)states)[i] << 16;
    return wide.number;
}

static inline __attribute__((always_inline)) float
dot(const float *weight, const char *states, int64_t width, int is_bf16) {
    vf sums = splat(0);
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) sums += *(const vf *)(weight + i) * load(states, i, is_bf16);
    float sum = total(sums);
    for (; i < width; i++) sum += weight[i] * element(states, i, is_bf16);
    return sum;
}

void prefixrack_read_heads(const Heads *heads) {
    int64_t outputs = heads->num_outputs, width = heads->width, bytes = width * (heads->is_bf16 ? 2 : 4);
#pragma omp parallel for schedule(static) if (heads->num_places * outputs * width > FEW)
    for (int64_t n = 0; n < heads->num_places; n++) {
        const char *states = heads->hidden + heads->places[n] * bytes;
        for (int64_t j = 0; j < outputs; j++) {
            const float *weight = heads->weights[n] + j * width;
            float sum = heads->is_bf16 ? dot(weight, states, width, 1) : dot(weight, states, width, 0);
            heads->out[n * outputs + j] = heads->biases == NULL ? sum : sum + heads->biases[n][j];
        }
    }
}
