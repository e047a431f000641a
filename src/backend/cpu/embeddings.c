/* Rows of tables. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_kernels.h"
#include "backend/cpu/loop.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/simd.h"
#include "backend/ref/ref_ops.h"
#include "base/size.h"

struct lookup {
    const struct tensor *table, *ids;
    struct tensor *out;
};

static inline vf zero_for_nan(vf v)
{
    return (vf)((vi)v & (v == v));
}

static void embed_row(const void *context, int64_t t)
{
    const struct lookup *job = context;
    const struct tensor *table = job->table;
    int64_t id = ((const int32_t *)job->ids->data)[t * job->ids->stride[0]];
    int64_t size = (int64_t)dtype_size(table->dtype), width = table->dim[1];
    const char *from = (const char *)table->data + id * table->stride[0] * size;
    float *out = (float *)job->out->data + t * job->out->stride[0];
    int64_t c;

    for (c = 0; c + VF_WIDTH <= width; c += VF_WIDTH)
        vf_store(out + c, zero_for_nan(vf_load_dtype(table->dtype, from + c * size)));
    if (c < width)
        vf_store_masked(vmask_first(width - c), out + c,
                        zero_for_nan(vf_load_dtype_tail(table->dtype, from + c * size, width - c)));
}

static bool is_float_type(enum dtype dtype)
{
    return dtype <= DTYPE_F8_E5M2;
}

void LEVEL(cpu_embedding_rows)(struct stream *stream, struct tensor *out,
                               const struct tensor *table, const struct tensor *ids)
{
    struct lookup job = {table, ids, out};

    if (stream_skips(stream))
        return;
    assert(ids->dtype == DTYPE_I32 && out->dim[0] == ids->dim[0] && out->dim[1] == table->dim[1]);
    if (out->dtype != DTYPE_F32 || !is_float_type(table->dtype) || out->stride[1] != 1 ||
        table->stride[1] != 1) {
        backend_ref_ops.embedding_rows(stream, out, table, ids);
        return;
    }
    for (int64_t t = 0; t < ids->dim[0]; t++) {
        int64_t id = ((const int32_t *)ids->data)[t * ids->stride[0]];

        if (id < 0 || id >= table->dim[0]) {
            stream_fail(stream, ERROR_BACKEND, "embedding_rows: id %lld is not below %lld",
                        (long long)id, (long long)table->dim[0]);
            return;
        }
    }
    cpu_for_each(stream, out->dim[0], tensor_count(out), embed_row, &job);
}

struct positions {
    struct tensor *out;
    const struct tensor *x, *table;
    int64_t side, top, left, grid_width;
};

/* One token. */
static void add_position(const void *context, int64_t index)
{
    const struct positions *job = context;
    const struct tensor *x = job->x, *table = job->table;
    int64_t tokens = x->dim[1], width = x->dim[2];
    int64_t b = index / tokens, token = index % tokens;
    int64_t row =
        (job->top + token / job->grid_width) * job->side + job->left + token % job->grid_width;
    int64_t size = (int64_t)dtype_size(table->dtype);
    const char *from = (const char *)table->data + row * table->stride[0] * size;
    const float *in = (const float *)x->data + b * x->stride[0] + token * x->stride[1];
    float *out = (float *)job->out->data + b * job->out->stride[0] + token * job->out->stride[1];
    int64_t c;

    for (c = 0; c + VF_WIDTH <= width; c += VF_WIDTH)
        vf_store(out + c, vf_load(in + c) + vf_load_dtype(table->dtype, from + c * size));
    if (c < width) {
        vmask mask = vmask_first(width - c);

        vf_store_masked(mask, out + c,
                        vf_load_masked(mask, in + c) +
                            vf_load_dtype_tail(table->dtype, from + c * size, width - c));
    }
}

void LEVEL(cpu_position_embedding)(struct stream *stream, struct tensor *out,
                                   const struct tensor *x, const struct tensor *table,
                                   int64_t grid_height, int64_t grid_width)
{
    int64_t side = (int64_t)llround(sqrt((double)table->dim[0]));
    struct positions job = {
        .out = out,
        .x = x,
        .table = table,
        .side = side,
        .top = (side - grid_height) / 2,
        .left = (side - grid_width) / 2,
        .grid_width = grid_width,
    };

    if (stream_skips(stream))
        return;
    assert(side * side == table->dim[0] && grid_height <= side && grid_width <= side);
    assert(out->dim[1] == grid_height * grid_width && tensor_same_shape(out, x));
    if (out->dtype != DTYPE_F32 || x->dtype != DTYPE_F32 || !is_float_type(table->dtype) ||
        out->stride[2] != 1 || x->stride[2] != 1 || table->stride[1] != 1) {
        backend_ref_ops.position_embedding(stream, out, x, table, grid_height, grid_width);
        return;
    }
    cpu_for_each(stream, out->dim[0] * out->dim[1], tensor_count(out), add_position, &job);
}

struct distances {
    struct tensor *out;
    const float *lines; /* [N, 2 T - 1]: each head's bias by distance, the farthest before first */
};

/* One row: keys from left to right are distances from far before to far after. */
static void copy_biases(const void *context, int64_t index)
{
    const struct distances *job = context;
    int64_t tokens = job->out->dim[1], n = index / tokens, i = index % tokens;
    const float *line = job->lines + n * (2 * tokens - 1);
    float *out = (float *)job->out->data + n * job->out->stride[0] + i * job->out->stride[1];

    memcpy(out, line + tokens - 1 - i, (size_t)tokens * sizeof(float));
}

void LEVEL(cpu_relative_bias)(struct stream *stream, struct tensor *out, const struct tensor *table,
                              int max_distance)
{
    int64_t heads = out->dim[0], tokens = out->dim[1], reach = 2 * tokens - 1;
    float *lines = cpu_shared_scratch(stream);

    if (stream_skips(stream))
        return;
    assert(heads == table->dim[1] && tokens == out->dim[2]);
    if (out->dtype != DTYPE_F32 || out->stride[2] != 1 ||
        (size_t)(heads * reach) > CPU_SHARED_SCRATCH_BYTES / sizeof(float)) {
        backend_ref_ops.relative_bias(stream, out, table, max_distance);
        return;
    }
    for (int64_t d = 0; d < reach; d++) {
        int64_t bucket = ref_relative_bucket(d - (tokens - 1), table->dim[0], max_distance);

        for (int64_t n = 0; n < heads; n++)
            lines[n * reach + d] = dtype_load(table->dtype, table->data,
                                              bucket * table->stride[0] + n * table->stride[1]);
    }
    cpu_for_each(stream, heads * tokens, tensor_count(out), copy_biases,
                 &(struct distances){out, lines});
}
