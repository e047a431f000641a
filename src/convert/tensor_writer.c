#include "convert/tensor_writer.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/size.h"
#include "base/thread_pool.h"
#include "convert/manifest.h"

#define BATCH_ELEMENTS (4 << 20) /* of a batch, unless one row has more */
#define CHUNK_ELEMENTS (1 << 16) /* what a thread takes at a time */

/* Rows of one tensor, and what became of them. */
struct batch {
    struct plan_tensor *tensor; /* NULL: nothing in it */
    int64_t row, rows;
    unsigned char *bytes;
    float *scale;            /* [rows] */
    double *error, *squares; /* [rows]; of linears */
};

/* What is done to each row of a batch. */
enum row_work {
    WORK_LARGEST, /* magnitudes[row] = its largest */
    WORK_ERRORS,  /* candidates[row][i] = what each candidate for the whole tensor leaves */
    WORK_STORE,   /* bytes */
};

struct tensor_writer {
    struct convert_plan *plan;
    const struct quantise_ops *ops;
    const struct convert_callbacks *callbacks;
    struct thread_pool *pool;
    float *row_memory; /* [threads, columns] */
    size_t row_stride;
    double started;
    size_t done_bytes;

    enum row_work work; /* fixed while the pool runs, as are the next four */
    float largest;      /* WORK_ERRORS: of the whole tensor */
    float tensor_scale; /* WORK_STORE: of the whole tensor; 0: each row has its own */
    struct batch *now, *before;
    double *candidates; /* [rows_max, QUANTISE_CANDIDATES] */
    double *magnitudes; /* [rows_max] */
    _Atomic int64_t bad_row;
    struct batch batches[2];

    /* Where finished batches go; of the first thread. */
    struct safetensors_writer *out;
    json_t *manifest;
    const char *file_name;
    struct manifest_hash hash, scale_hash;
    double layer_error, layer_squares;
    bool is_good;
    struct error err;
};

/* --- One row --- */

static const unsigned char *source_row(const struct plan_tensor *tensor, int64_t row,
                                       enum dtype *dtype)
{
    int64_t part_rows = tensor->rows / tensor->parts;
    const struct tensor *view = &tensor->part[row / part_rows]->view;

    *dtype = view->dtype;
    return (const unsigned char *)view->data +
           (size_t)(row % part_rows * tensor->columns) * dtype_size(view->dtype);
}

static void note_bad_row(struct tensor_writer *writer, int64_t row)
{
    int64_t seen = atomic_load(&writer->bad_row);

    while (row < seen && !atomic_compare_exchange_weak(&writer->bad_row, &seen, row)) {
    }
}

static void store_narrow(unsigned char *out, const float *values, int64_t count, enum dtype dtype)
{
    for (int64_t i = 0; i < count; i++) {
        uint16_t half = dtype == DTYPE_F16 ? float_to_f16(values[i]) : float_to_bf16(values[i]);

        memcpy(out + 2 * i, &half, sizeof half);
    }
}

static void store_row(const struct tensor_writer *writer, int64_t row, const float *values,
                      const void *source, enum dtype source_dtype, float largest)
{
    const struct batch *batch = writer->now;
    const struct plan_tensor *tensor = batch->tensor;
    enum dtype format = writer->plan->format;
    int64_t i = row - batch->row, count = tensor->columns;
    unsigned char *out = batch->bytes + (size_t)(i * count) * dtype_size(tensor->dtype);

    if (tensor->layer[0]) {
        batch->squares[i] = writer->ops->squares(values, count);
        batch->scale[i] = writer->tensor_scale;
        if (writer->tensor_scale > 0.0f)
            batch->error[i] = writer->ops->error(values, count, format, writer->tensor_scale);
        else
            batch->scale[i] =
                quantise_row_scale(writer->ops, values, count, format, largest, &batch->error[i]);
    }
    if (plan_is_f8(tensor->dtype))
        writer->ops->encode(out, values, count, format, batch->scale[i]);
    else if (source_dtype == tensor->dtype)
        memcpy(out, source, (size_t)count * dtype_size(source_dtype));
    else
        store_narrow(out, values, count, tensor->dtype);
}

static void do_row(struct tensor_writer *writer, int64_t row, float *values)
{
    const struct plan_tensor *tensor = writer->now->tensor;
    enum dtype dtype;
    const void *source = source_row(tensor, row, &dtype);
    float largest;

    writer->ops->decode(values, source, dtype, tensor->columns);
    largest = writer->ops->largest(values, tensor->columns);
    if (isinf(largest)) {
        note_bad_row(writer, row);
        return;
    }
    switch (writer->work) {
    case WORK_LARGEST:
        writer->magnitudes[row] = (double)largest;
        break;
    case WORK_ERRORS:
        for (int i = 0; i < QUANTISE_CANDIDATES; i++)
            writer->candidates[row * QUANTISE_CANDIDATES + i] =
                writer->ops->error(values, tensor->columns, writer->plan->format,
                                   quantise_candidate(writer->plan->format, writer->largest, i));
        break;
    case WORK_STORE:
        store_row(writer, row, values, source, dtype, largest);
        break;
    }
}

/* --- A batch that is done --- */

static bool put(struct tensor_writer *writer, size_t offset, const void *bytes, size_t size)
{
    return safetensors_writer_put(writer->out, offset, bytes, size, &writer->err);
}

static bool put_scales(struct tensor_writer *writer, const struct batch *batch)
{
    const struct plan_tensor *tensor = batch->tensor;
    /* One for the tensor, or one for each row. */
    size_t count = tensor->scale_count == tensor->rows ? (size_t)batch->rows
                   : batch->row == 0                   ? (size_t)tensor->scale_count
                                                       : 0;
    size_t size = count * sizeof *batch->scale;

    if (count == 0)
        return true;
    manifest_hash_add(&writer->scale_hash, batch->scale, size);
    return put(writer, tensor->scale_offset + (size_t)batch->row * sizeof(float), batch->scale,
               size);
}

/* Rows of several layers may lie in one batch. */
static void add_errors(struct tensor_writer *writer, const struct batch *batch)
{
    const struct plan_tensor *tensor = batch->tensor;
    int64_t part_rows = tensor->rows / tensor->parts;

    for (int64_t i = 0; i < batch->rows; i++) {
        int64_t row = batch->row + i;

        if (row % part_rows == 0)
            writer->layer_error = writer->layer_squares = 0.0;
        writer->layer_error += batch->error[i];
        writer->layer_squares += batch->squares[i];
        if (row % part_rows == part_rows - 1)
            tensor->layer[row / part_rows]->error =
                writer->layer_squares > 0.0 ? sqrt(writer->layer_error / writer->layer_squares)
                                            : 0.0;
    }
}

static bool enter_hashes(struct tensor_writer *writer, const struct plan_tensor *tensor)
{
    char text[MANIFEST_TEXT_BYTES], name[SAFETENSORS_NAME_BYTES_MAX + 1];

    manifest_hash_end(&writer->hash, text);
    if (!manifest_add_tensor(writer->manifest, writer->file_name, tensor->name, text, &writer->err))
        return false;
    if (tensor->scale_count == 0)
        return true;
    manifest_hash_end(&writer->scale_hash, text);
    plan_scale_name(name, tensor);
    return manifest_add_tensor(writer->manifest, writer->file_name, name, text, &writer->err);
}

static bool finish_batch(struct tensor_writer *writer, const struct batch *batch)
{
    const struct plan_tensor *tensor = batch->tensor;
    size_t row_bytes = (size_t)tensor->columns * dtype_size(tensor->dtype);
    size_t size = (size_t)batch->rows * row_bytes;

    if (batch->row == 0) {
        manifest_hash_start(&writer->hash);
        manifest_hash_start(&writer->scale_hash);
    }
    manifest_hash_add(&writer->hash, batch->bytes, size);
    if (!put(writer, tensor->offset + (size_t)batch->row * row_bytes, batch->bytes, size) ||
        (tensor->scale_count > 0 && !put_scales(writer, batch)))
        return false;
    if (tensor->layer[0])
        add_errors(writer, batch);
    if (batch->row + batch->rows < tensor->rows)
        return true;
    for (int i = 0; i < tensor->parts; i++)
        safetensors_release_entry(tensor->part[i]->file, tensor->part[i]->entry);
    return enter_hashes(writer, tensor);
}

/* --- On the threads --- */

static void work(void *context, int thread_index, int thread_count)
{
    struct tensor_writer *writer = context;
    const struct batch *batch = writer->now;
    float *values = writer->row_memory + (size_t)thread_index * writer->row_stride;
    int64_t chunk, chunks;

    (void)thread_count;
    if (thread_index == 0 && writer->before && writer->before->tensor) {
        writer->is_good = finish_batch(writer, writer->before);
        writer->before->tensor = NULL;
    }
    if (!batch->tensor || batch->tensor->parts == 0)
        return;
    chunk = max_i64(1, CHUNK_ELEMENTS / batch->tensor->columns);
    chunks = ceil_div_i64(batch->rows, chunk);
    for (int64_t i = thread_pool_next(writer->pool); i < chunks; i = thread_pool_next(writer->pool))
        for (int64_t row = i * chunk; row < min_i64((i + 1) * chunk, batch->rows); row++)
            do_row(writer, batch->row + row, values);
}

static bool fail_not_finite(const struct plan_tensor *tensor, int64_t row, struct error *err)
{
    int64_t part_rows = tensor->rows / tensor->parts, column = 0;
    const struct model_tensor *part = tensor->part[row / part_rows];
    enum dtype dtype;
    const void *source = source_row(tensor, row, &dtype);
    float value;

    while (column + 1 < tensor->columns && isfinite(dtype_load(dtype, source, column)))
        column++;
    value = dtype_load(dtype, source, column);
    return error_set(err, ERROR_BAD_FILE, "'%s': tensor '%s' holds %s at row %lld, column %lld",
                     safetensors_path(part->file), part->entry->name,
                     isnan(value) ? "NaN" : "an infinite weight", (long long)(row % part_rows),
                     (long long)column);
}

/* Runs the pool over `batch`. The batch before, unless NULL, is finished meanwhile. */
static bool run_batch(struct tensor_writer *writer, struct batch *batch, struct batch *before,
                      struct error *err)
{
    const struct plan_tensor *tensor = batch->tensor;

    if (writer->callbacks->cancel && atomic_load(writer->callbacks->cancel))
        return error_set(err, ERROR_CANCELLED, "cancelled: nothing was left behind");
    writer->now = batch;
    writer->before = before;
    writer->is_good = true;
    atomic_store(&writer->bad_row, INT64_MAX);
    thread_pool_run(writer->pool, work, writer);
    if (!writer->is_good) {
        *err = writer->err;
        return false;
    }
    if (tensor && atomic_load(&writer->bad_row) < INT64_MAX)
        return fail_not_finite(tensor, atomic_load(&writer->bad_row), err);
    return true;
}

/* --- Tensors --- */

static int64_t batch_rows(const struct plan_tensor *tensor)
{
    return max_i64(1, BATCH_ELEMENTS / tensor->columns);
}

/* The best factor for a tensor that has only one. */
static bool choose_tensor_scale(struct tensor_writer *writer, struct plan_tensor *tensor,
                                struct error *err)
{
    struct batch all = {.tensor = tensor, .rows = tensor->rows};
    double errors[QUANTISE_CANDIDATES] = {0};
    float largest = 0.0f;

    writer->tensor_scale = 0.0f;
    if (tensor->scale_count != 1)
        return true;
    writer->work = WORK_LARGEST;
    if (!run_batch(writer, &all, NULL, err))
        return false;
    for (int64_t row = 0; row < tensor->rows; row++)
        largest = fmaxf(largest, (float)writer->magnitudes[row]);
    writer->work = WORK_ERRORS;
    writer->largest = largest;
    if (!run_batch(writer, &all, NULL, err))
        return false;
    for (int64_t row = 0; row < tensor->rows; row++)
        for (int i = 0; i < QUANTISE_CANDIDATES; i++)
            errors[i] += writer->candidates[row * QUANTISE_CANDIDATES + i];
    writer->tensor_scale = quantise_candidate(writer->plan->format, largest, quantise_best(errors));
    return true;
}

static void tell_progress(const struct tensor_writer *writer)
{
    const struct convert_progress now = {
        .phase = "convert",
        .done_bytes = writer->done_bytes,
        .total_bytes = writer->plan->source_bytes,
        .seconds = seconds_now() - writer->started,
    };

    if (writer->callbacks->progress)
        writer->callbacks->progress(writer->callbacks->context, &now);
}

/* Leaves the last batch unfinished. */
static bool put_tensor(struct tensor_writer *writer, struct plan_tensor *tensor, int *turn,
                       struct error *err)
{
    int64_t rows = batch_rows(tensor);

    if (!choose_tensor_scale(writer, tensor, err))
        return false;
    writer->work = WORK_STORE;
    for (int64_t row = 0; row < tensor->rows; row += rows) {
        struct batch *batch = &writer->batches[*turn % 2];

        batch->tensor = tensor;
        batch->row = row;
        batch->rows = min_i64(rows, tensor->rows - row);
        if (tensor->parts == 0)
            memset(batch->bytes, 0, tensor->bytes);
        if (!run_batch(writer, batch, &writer->batches[(*turn + 1) % 2], err))
            return false;
        (*turn)++;
        writer->done_bytes += tensor->source_bytes / (size_t)tensor->rows * (size_t)batch->rows;
        tell_progress(writer);
    }
    return true;
}

bool tensor_writer_put(struct tensor_writer *writer, const struct plan_file *file,
                       struct safetensors_writer *out, json_t *manifest, struct error *err)
{
    struct batch nothing = {0};
    int turn = 0;

    writer->out = out;
    writer->manifest = manifest;
    writer->file_name = file->name;
    writer->batches[0].tensor = writer->batches[1].tensor = NULL;
    for (size_t i = 0; i < file->count; i++)
        if (!put_tensor(writer, &writer->plan->tensors[file->first + i], &turn, err))
            return false;
    return run_batch(writer, &nothing, &writer->batches[(turn + 1) % 2], err);
}

/* --- Memory --- */

static bool alloc_batch(struct batch *batch, int64_t columns_max, int64_t rows_max)
{
    /* No batch has more rows than the tensor with the most. */
    size_t elements = (size_t)max_i64(BATCH_ELEMENTS, columns_max), rows = (size_t)rows_max;

    batch->bytes = malloc(2 * elements); /* 16 bits at most */
    batch->scale = calloc(rows, sizeof *batch->scale);
    batch->error = calloc(rows, sizeof *batch->error);
    batch->squares = calloc(rows, sizeof *batch->squares);
    return batch->bytes && batch->scale && batch->error && batch->squares;
}

static bool alloc_all(struct tensor_writer *writer)
{
    const struct convert_plan *plan = writer->plan;
    size_t rows = (size_t)plan->rows_max;

    writer->row_stride = size_round_up((size_t)plan->columns_max, 64);
    writer->row_memory = malloc((size_t)thread_pool_size(writer->pool) * writer->row_stride *
                                sizeof *writer->row_memory);
    writer->candidates = calloc(rows, QUANTISE_CANDIDATES * sizeof *writer->candidates);
    writer->magnitudes = calloc(rows, sizeof *writer->magnitudes);
    return writer->row_memory && writer->candidates && writer->magnitudes &&
           alloc_batch(&writer->batches[0], plan->columns_max, plan->rows_max) &&
           alloc_batch(&writer->batches[1], plan->columns_max, plan->rows_max);
}

bool tensor_writer_create(struct tensor_writer **out, struct convert_plan *plan,
                          const struct quantise_ops *ops, int threads,
                          const struct convert_callbacks *callbacks, struct error *err)
{
    struct tensor_writer *writer = calloc(1, sizeof *writer);

    if (!writer)
        return error_set(err, ERROR_NO_MEMORY, "buffers of the conversion");
    writer->plan = plan;
    writer->ops = ops;
    writer->callbacks = callbacks;
    writer->started = seconds_now();
    if (!thread_pool_create(&writer->pool, threads, err))
        goto fail;
    if (!alloc_all(writer)) {
        error_set(err, ERROR_NO_MEMORY, "buffers of the conversion");
        goto fail;
    }
    *out = writer;
    return true;

fail:
    tensor_writer_destroy(writer);
    return false;
}

void tensor_writer_destroy(struct tensor_writer *writer)
{
    if (!writer)
        return;
    thread_pool_destroy(writer->pool);
    for (int i = 0; i < 2; i++) {
        free(writer->batches[i].bytes);
        free(writer->batches[i].scale);
        free(writer->batches[i].error);
        free(writer->batches[i].squares);
    }
    free(writer->row_memory);
    free(writer->candidates);
    free(writer->magnitudes);
    free(writer);
}
