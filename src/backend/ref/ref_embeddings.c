/* Tables, positions, and the two orders of a patch. */
#include <assert.h>
#include <math.h>

#include "backend/ref/ref_ops.h"
#include "base/size.h"

void ref_embedding_rows(struct stream *stream, struct tensor *out, const struct tensor *table,
                        const struct tensor *ids)
{
    if (stream_skips(stream))
        return;
    assert(ids->dtype == DTYPE_I32 && out->dim[0] == ids->dim[0] && out->dim[1] == table->dim[1]);
    for (int64_t t = 0; t < out->dim[0]; t++) {
        int64_t id = ((const int32_t *)ids->data)[t * ids->stride[0]];

        if (id < 0 || id >= table->dim[0]) {
            stream_fail(stream, ERROR_BACKEND, "embedding_rows: id %lld is not below %lld",
                        (long long)id, (long long)table->dim[0]);
            return;
        }
        for (int64_t c = 0; c < out->dim[1]; c++) {
            double value = ref_get(table, id * table->stride[0] + c);

            ref_put(out, t * out->stride[0] + c, isnan(value) ? 0.0 : value);
        }
    }
}

/* Calls visit-like loops over (b, gy, gx, c, y, x): both patch orders share the walk and differ in
 * where inside the token an element lies. */
static void walk_patches(struct tensor *out, const struct tensor *x, const struct tensor *picture,
                         const struct tensor *tokens, int patch, bool channel_fastest)
{
    int64_t channels = picture->dim[1], height = picture->dim[2], width = picture->dim[3];
    int64_t grid_width = width / patch;

    for (int64_t i = 0; i < tensor_count(picture); i++) {
        int64_t column = i % width, row = i / width % height;
        int64_t c = i / (width * height) % channels, b = i / (width * height * channels);
        int64_t token = row / patch * grid_width + column / patch;
        int64_t py = row % patch, px = column % patch;
        int64_t inside =
            channel_fastest ? (py * patch + px) * channels + c : (c * patch + py) * patch + px;
        int64_t at_token = b * tokens->stride[0] + token * tokens->stride[1] + inside;
        int64_t at_pixel = ref_offset(picture, i);

        ref_put(out, out == picture ? at_pixel : at_token,
                ref_get(x, x == picture ? at_pixel : at_token));
    }
}

void ref_patchify(struct stream *stream, struct tensor *out, const struct tensor *x, int patch)
{
    if (stream_skips(stream))
        return;
    assert(tensor_count(out) == tensor_count(x));
    walk_patches(out, x, x, out, patch, false);
}

void ref_unpatchify(struct stream *stream, struct tensor *out, const struct tensor *x, int patch)
{
    if (stream_skips(stream))
        return;
    assert(tensor_count(out) == tensor_count(x));
    walk_patches(out, x, out, x, patch, true);
}

void ref_timestep_embedding(struct stream *stream, struct tensor *out,
                            const struct tensor *timesteps)
{
    int64_t half;

    if (stream_skips(stream))
        return;
    half = out->dim[1] / 2;
    for (int64_t r = 0; r < out->dim[0]; r++) {
        double t = ref_get(timesteps, r * timesteps->stride[0]);

        for (int64_t i = 0; i < half; i++) {
            double angle = t * exp(-log(10000.0) * (double)i / (double)half);

            ref_put(out, r * out->stride[0] + i, cos(angle));
            ref_put(out, r * out->stride[0] + half + i, sin(angle));
        }
    }
}

void ref_position_embedding(struct stream *stream, struct tensor *out, const struct tensor *x,
                            const struct tensor *table, int64_t grid_height, int64_t grid_width)
{
    int64_t side, top, left;

    if (stream_skips(stream))
        return;
    side = (int64_t)llround(sqrt((double)table->dim[0]));
    assert(side * side == table->dim[0] && grid_height <= side && grid_width <= side);
    assert(out->dim[1] == grid_height * grid_width && tensor_same_shape(out, x));
    top = (side - grid_height) / 2;
    left = (side - grid_width) / 2;
    for (int64_t i = 0; i < tensor_count(out); i++) {
        int64_t c = i % out->dim[2], token = i / out->dim[2] % out->dim[1];
        int64_t row = (top + token / grid_width) * side + left + token % grid_width;

        ref_put(out, ref_offset(out, i),
                ref_get(x, ref_offset(x, i)) + ref_get(table, row * table->stride[0] + c));
    }
}

/* Near distances have a bucket each, far ones share logarithmically growing buckets; keys after the
 * query use the upper half. */
int64_t ref_relative_bucket(int64_t offset, int64_t buckets, int max_distance)
{
    int64_t half = buckets / 2, exact = half / 2;
    int64_t distance = offset < 0 ? -offset : offset;
    int64_t bucket = distance;

    if (distance >= exact)
        bucket = min_i64(half - 1, exact + (int64_t)(log((double)distance / (double)exact) /
                                                     log((double)max_distance / (double)exact) *
                                                     (double)(half - exact)));
    return bucket + (offset > 0 ? half : 0);
}

void ref_relative_bias(struct stream *stream, struct tensor *out, const struct tensor *table,
                       int max_distance)
{
    if (stream_skips(stream))
        return;
    assert(out->dim[0] == table->dim[1] && out->dim[1] == out->dim[2]);
    for (int64_t n = 0; n < out->dim[0]; n++)
        for (int64_t i = 0; i < out->dim[1]; i++)
            for (int64_t j = 0; j < out->dim[2]; j++) {
                int64_t bucket = ref_relative_bucket(j - i, table->dim[0], max_distance);

                ref_put(out, n * out->stride[0] + i * out->stride[1] + j,
                        ref_get(table, bucket * table->stride[0] + n));
            }
}
