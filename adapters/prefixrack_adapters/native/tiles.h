/* The processor's matrix tiles (AMX), for bfloat16: 16 lines of 64 bytes each. A product adds to 16 x 16 sums in float32
 * what 32 numbers of each line of `a` make with 32 of each column of `b`, whose lines hold them two by two.
 */

#pragma once

#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What stands between products takes vectors of bfloat16; every processor with tiles has them, but a compiler may be told
 * otherwise. */
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define HAS_TILES
#include <immintrin.h>

#define SIDE 16  /* lines of a tile, and sums to a line */
#define DEPTH 32 /* numbers of a line that one product takes */
#define TILE (SIDE * DEPTH)

typedef struct { /* of LDTILECFG */
    uint8_t palette, start_row, reserved[14];
    uint16_t line_bytes[16];
    uint8_t lines[16];
} Palette;

/* Before tiles are loaded from what was just written: GCC's tile loads do not say that they read memory. */
static inline void settle_memory(void) { __asm__ volatile("" ::: "memory"); }

/* Every tile as large as it can be, for the calling thread. `release_tiles` gives them up again: others may want them
 * in another form, and a thread without them is cheaper to switch to. */
static inline void take_tiles(void) {
    Palette palette = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        palette.line_bytes[tile] = 64;
        palette.lines[tile] = SIDE;
    }
    settle_memory();
    _tile_loadconfig(&palette);
}

static inline void release_tiles(void) { _tile_release(); }
#else
static inline void take_tiles(void) {}
static inline void release_tiles(void) {}
#endif

/* Whether there are tiles here, and the kernel lets this process use them: it has to ask (arch_prctl(2)). */
static inline int may_use_tiles(void) {
#ifdef HAS_TILES
    const int request_permission = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return 0;
#endif
}
