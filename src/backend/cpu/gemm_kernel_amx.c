/* The inner loop on AMX: tiles of 16 x 32 bf16, 32 times as many products a cycle as vectors of
 * f32.
 *
 * Both operands are split in two (gemm_split.h) and three of the four products of the halves are
 * taken; the fourth is below the rounding of f32 sums. The result is as good as f32, 1e-5 and
 * better, at a third of the tiles' speed. Intel SDM volume 1, chapter 18.
 */
#include "backend/cpu/gemm_split.h"

#define TILE_ROWS 16
#define TILE_ROW_BYTES 64
#define A_STEP (GEMM_ROW_STRIDE * (int64_t)sizeof(float))
#define B_STEP (2 * GEMM_NR * (int64_t)sizeof(float)) /* two k's, both planes */

struct tile_configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

#define EIGHT(value)                                                                               \
    {                                                                                              \
        (value), (value), (value), (value), (value), (value), (value), (value)                     \
    }

/* Static, because GCC 12 believes that loading it reads 8 bytes only and would leave the rest of a
 * local one unwritten. */
static const struct tile_configuration all_tiles = {
    .palette = 1, .row_bytes = EIGHT(TILE_ROW_BYTES), .rows = EIGHT(TILE_ROWS)};

void LEVEL(gemm_begin)(void)
{
    _tile_loadconfig(&all_tiles);
}

void LEVEL(gemm_end)(void)
{
    _tile_release();
}

void LEVEL(gemm_finish_rows)(float *rows, int64_t count, int64_t depth)
{
    for (int64_t r = 0; r < count; r++)
        split_row(rows + r * GEMM_ROW_STRIDE, depth);
}

void LEVEL(gemm_finish_panel)(float *panel, int64_t depth)
{
    split_panel(panel, depth);
}

/* The first 16 rows are tiles 0 and 1, the second 2 and 3; 4 and 5 hold rows of a, 6 and 7 columns
 * of b. */
static void multiply_tiles(const struct gemm_tile *tile, float (*sums)[GEMM_NR])
{
    const int64_t split = split_depth(tile->depth);
    const int64_t low_a = split * (int64_t)sizeof(uint16_t);
    const int64_t low_b = B_STEP / 2;
    const int has_second = tile->rows > TILE_ROWS;

    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < split; k += SPLIT_STEP) {
        const char *a = (const char *)tile->a + k * (int64_t)sizeof(uint16_t);
        const char *second = a + TILE_ROWS * A_STEP;
        const char *b = (const char *)(tile->b + k * GEMM_NR);

        /* high a, high b */
        _tile_loadd(6, b, B_STEP);
        _tile_loadd(7, b + TILE_ROW_BYTES, B_STEP);
        _tile_loadd(4, a, A_STEP);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (has_second) {
            _tile_loadd(5, second, A_STEP);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        /* low a, high b */
        _tile_loadd(4, a + low_a, A_STEP);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (has_second) {
            _tile_loadd(5, second + low_a, A_STEP);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        /* high a, low b */
        _tile_loadd(6, b + low_b, B_STEP);
        _tile_loadd(7, b + low_b + TILE_ROW_BYTES, B_STEP);
        _tile_loadd(4, a, A_STEP);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (has_second) {
            _tile_loadd(5, second, A_STEP);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, sizeof *sums);
    _tile_stored(1, sums[0] + 16, sizeof *sums);
    _tile_stored(2, sums[TILE_ROWS], sizeof *sums);
    _tile_stored(3, sums[TILE_ROWS] + 16, sizeof *sums);
}

void LEVEL(gemm_kernel)(const struct gemm_tile *tile)
{
    float sums[GEMM_MR][GEMM_NR];

    multiply_tiles(tile, sums);
    for (int r = 0; r < tile->rows; r++) {
        __m512 sum[2] = {_mm512_loadu_ps(sums[r]), _mm512_loadu_ps(sums[r] + 16)};

        add_rest(sum, tile, r, split_depth(tile->depth));
        add_row_to_out(tile, r, sum);
    }
}
