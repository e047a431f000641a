#include "convert/verify.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_features.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/size.h"
#include "base/thread_pool.h"
#include "convert/manifest.h"
#include "convert/model_tensors.h"
#include "convert/quantise.h"
#include "convert/staging.h"
#include "weights/model_files.h"

#define BLOCK_ELEMENTS 4096
#define BATCH_BYTES ((size_t)256 << 20) /* checked between two looks at the cancel flag */
#define SMALL_FILE_BYTES_MAX ((size_t)256 << 20)
#define SENTENCE_BYTES 1024

/* One tensor to look at, and what was found. */
struct item {
    const struct safetensors_file *file;
    const struct safetensors_entry *entry;
    const char *hash; /* what it should be; NULL: values are looked at instead */
    bool is_bad;
    int64_t index; /* of the first value that is not finite */
};

struct verification {
    const char *model;
    const struct verify_callbacks *callbacks;
    struct verify_summary *summary;
    const struct quantise_ops *ops;
    struct thread_pool *pool;
    struct item *items;
    size_t count, capacity;
    size_t begin, end;   /* of the batch on the threads */
    const char *opening; /* what was wrong when the model was opened; NULL: nothing */
};

static void PRINTF_LIKE(2, 3)
    tell_defect(struct verification *verification, const char *format, ...)
{
    char sentence[SENTENCE_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    verification->summary->defects++;
    verification->callbacks->defect(verification->callbacks->context, sentence);
}

static bool add_item(struct verification *verification, struct item item, struct error *err)
{
    if (verification->count == verification->capacity) {
        size_t capacity = verification->capacity ? 2 * verification->capacity : 1024;
        struct item *grown = reallocarray(verification->items, capacity, sizeof *grown);

        if (!grown)
            return error_set(err, ERROR_NO_MEMORY, "checking '%s'", verification->model);
        verification->items = grown;
        verification->capacity = capacity;
    }
    verification->items[verification->count++] = item;
    return true;
}

/* --- One tensor --- */

static void find_not_finite(struct item *item, enum dtype dtype, int64_t from, int64_t count)
{
    for (int64_t i = from; i < from + count; i++)
        if (!isfinite(dtype_load(dtype, item->entry->data, i))) {
            item->is_bad = true;
            item->index = i;
            return;
        }
}

/* FP8's codes: what is above the largest finite one stands for no number. */
static void look_at_codes(struct item *item, enum dtype dtype)
{
    const unsigned char largest = dtype == DTYPE_F8_E4M3 ? 0x7e : 0x7b;
    const unsigned char *codes = item->entry->data;
    unsigned char most = 0;

    for (size_t i = 0; i < item->entry->bytes; i++) {
        unsigned char magnitude = codes[i] & 0x7f;

        most = magnitude > most ? magnitude : most;
    }
    if (most > largest)
        find_not_finite(item, dtype, 0, (int64_t)item->entry->bytes);
}

static void look_at_values(struct item *item, const struct quantise_ops *ops)
{
    const struct safetensors_entry *entry = item->entry;
    float block[BLOCK_ELEMENTS];
    enum dtype dtype;
    int64_t count;

    if (!safetensors_to_dtype(&dtype, entry->dtype) || dtype == DTYPE_I32 || dtype == DTYPE_U8)
        return;
    if (dtype_size(dtype) == 1) {
        look_at_codes(item, dtype);
        return;
    }
    count = (int64_t)(entry->bytes / dtype_size(dtype));
    for (int64_t at = 0; at < count && !item->is_bad; at += BLOCK_ELEMENTS) {
        int64_t part = min_i64(count - at, BLOCK_ELEMENTS);

        ops->decode(block, entry->data + (size_t)at * dtype_size(dtype), dtype, part);
        if (isinf(ops->largest(block, part)))
            find_not_finite(item, dtype, at, part);
    }
}

static void look_at_hash(struct item *item)
{
    char text[MANIFEST_TEXT_BYTES];

    manifest_hash_of(text, item->entry->data, item->entry->bytes);
    item->is_bad = strcmp(text, item->hash) != 0;
}

static void work(void *context, int thread_index, int thread_count)
{
    struct verification *verification = context;

    (void)thread_index;
    (void)thread_count;
    for (size_t i = verification->begin + (size_t)thread_pool_next(verification->pool);
         i < verification->end;
         i = verification->begin + (size_t)thread_pool_next(verification->pool)) {
        struct item *item = &verification->items[i];

        if (item->hash)
            look_at_hash(item);
        else
            look_at_values(item, verification->ops);
        safetensors_release_entry(item->file, item->entry);
    }
}

static void tell_item(struct verification *verification, const struct item *item)
{
    const char *path = safetensors_path(item->file);

    if (!item->is_bad)
        return;
    if (item->hash)
        tell_defect(verification, "'%s': tensor '%s' is not what the manifest says", path,
                    item->entry->name);
    else
        tell_defect(verification, "'%s': tensor '%s' holds NaN or infinity, first at element %lld",
                    path, item->entry->name, (long long)item->index);
}

/* Looks at all items on all threads, and forgets them. */
static bool look(struct verification *verification, const char *phase, struct error *err)
{
    const struct verify_callbacks *callbacks = verification->callbacks;
    struct convert_progress now = {.phase = phase};
    double started = seconds_now();

    for (size_t i = 0; i < verification->count; i++)
        now.total_bytes += verification->items[i].entry->bytes;
    for (verification->begin = 0; verification->begin < verification->count;
         verification->begin = verification->end) {
        size_t bytes = 0;

        if (callbacks->cancel && atomic_load(callbacks->cancel))
            return error_set(err, ERROR_CANCELLED, "cancelled");
        for (verification->end = verification->begin;
             verification->end < verification->count && bytes < BATCH_BYTES; verification->end++)
            bytes += verification->items[verification->end].entry->bytes;
        thread_pool_run(verification->pool, work, verification);
        for (size_t i = verification->begin; i < verification->end; i++)
            tell_item(verification, &verification->items[i]);
        now.done_bytes += bytes;
        now.seconds = seconds_now() - started;
        callbacks->progress(callbacks->context, &now);
    }
    verification->count = 0;
    return true;
}

/* --- The networks --- */

struct component_check {
    struct verification *verification;
    const struct weights *weights;
    size_t problems;
};

static void tell_problem(void *context, const char *problem)
{
    struct component_check *check = context;

    check->problems++;
    tell_defect(check->verification, "%s in '%s': %s",
                component_name(weights_component(check->weights)), weights_path(check->weights),
                problem);
}

/* A network that cannot be loaded is a defect; one that memory is too short for is not. */
static bool check_network(struct verification *verification, struct weights *weights,
                          struct error *err)
{
    struct component_check check = {.verification = verification, .weights = weights};
    struct model_tensors tensors;
    struct error cause = {0};

    if (model_tensors_list(&tensors, weights, tell_problem, &check, &cause)) {
        model_tensors_finish(&tensors);
        return true;
    }
    if (cause.code == ERROR_NO_MEMORY) {
        *err = cause;
        return false;
    }
    if (check.problems == 0) /* else the sentence repeats them */
        tell_defect(verification, "%s", cause.message);
    return true;
}

/* Factors are looked at by the loader. */
static bool is_scale(const char *name)
{
    static const char *const endings[] = {".scale_weight", ".weight_scale"};
    size_t length = strlen(name);

    for (size_t i = 0; i < COUNT_OF(endings); i++) {
        size_t tail = strlen(endings[i]);

        if (length > tail && strcmp(name + length - tail, endings[i]) == 0)
            return true;
    }
    return false;
}

static bool check_components(struct verification *verification, const struct model_files *files,
                             struct error *err)
{
    for (int c = 0; c < COMPONENT_COUNT; c++) {
        struct weights *weights = files->component[c];
        size_t count = weights ? weights_stored_count(weights) : 0;

        if (weights && !check_network(verification, weights, err))
            return false;
        for (size_t i = 0; i < count; i++) {
            struct item item = {0};

            item.entry = weights_stored_at(weights, i, &item.file);
            if (!is_scale(item.entry->name) && !add_item(verification, item, err))
                return false;
        }
        verification->summary->tensors += count;
    }
    return look(verification, "check", err);
}

/* --- The manifest --- */

static bool same_hash(const void *bytes, size_t size, const json_t *hash)
{
    char text[MANIFEST_TEXT_BYTES];
    const char *want = json_string_value(hash);

    manifest_hash_of(text, bytes, size);
    return want && strcmp(text, want) == 0;
}

/* The tensors of one file. A header that is as it was names the same tensors as then. */
static bool check_tensors(struct verification *verification, const char *path, const json_t *entry,
                          struct error *err)
{
    json_t *tensors = json_object_get(entry, "tensors"), *hash;
    struct safetensors_file *file;
    struct error cause = {0};
    const void *header;
    const char *name;
    size_t size;
    bool ok = true;

    if (!safetensors_open(&file, path, &cause)) {
        if (!verification->opening || strcmp(verification->opening, cause.message) != 0)
            tell_defect(verification, "%s", cause.message);
        return true;
    }
    safetensors_header(file, &header, &size);
    if (!same_hash(header, size, json_object_get(entry, "header")))
        tell_defect(verification, "'%s': its header is not what the manifest says", path);
    json_object_foreach(tensors, name, hash)
    {
        const struct item item = {.file = file,
                                  .entry = safetensors_find(file, name),
                                  .hash = json_string_value(hash) ? json_string_value(hash) : ""};

        if (!item.entry)
            tell_defect(verification, "'%s': tensor '%s' of the manifest is missing", path, name);
        else if (!add_item(verification, item, err))
            ok = false;
    }
    ok = ok && look(verification, "hash", err);
    verification->count = 0;
    safetensors_close(file);
    return ok;
}

static void check_small(struct verification *verification, const char *path, const json_t *entry)
{
    struct error cause = {0};
    unsigned char *bytes;
    size_t size;

    if (!file_read(&bytes, &size, path, SMALL_FILE_BYTES_MAX, &cause)) {
        tell_defect(verification, "%s", cause.message);
        return;
    }
    if (!same_hash(bytes, size, json_object_get(entry, "hash")))
        tell_defect(verification, "'%s' is not what the manifest says", path);
    free(bytes);
}

/* The folder that the manifest's names start at. The caller frees it. */
static char *root_of(const char *model)
{
    const char *name = staging_base_name(model);

    if (file_is_directory(model))
        return strdup(model);
    return name == model ? strdup(".") : strndup(model, (size_t)(name - model));
}

static bool check_entry(struct verification *verification, const char *root, const char *name,
                        const json_t *entry, struct error *err)
{
    char *path = file_join(root, name);
    bool ok = true;

    if (!path)
        return error_set(err, ERROR_NO_MEMORY, "checking '%s'", verification->model);
    verification->summary->files++;
    if (!file_is_regular(path))
        tell_defect(verification, "'%s' is missing", path);
    else if (json_object_get(entry, "header"))
        ok = check_tensors(verification, path, entry, err);
    else
        check_small(verification, path, entry);
    free(path);
    return ok;
}

static bool check_files(struct verification *verification, const json_t *manifest,
                        struct error *err)
{
    json_t *files = json_object_get(manifest, "files"), *entry;
    char *root = root_of(verification->model);
    const char *name;
    bool ok = root || error_set(err, ERROR_NO_MEMORY, "checking '%s'", verification->model);

    json_object_foreach(files, name, entry)
    {
        ok = ok && check_entry(verification, root, name, entry, err);
    }
    free(root);
    return ok;
}

static bool check_manifest(struct verification *verification, struct error *err)
{
    char *path = manifest_path(verification->model);
    json_t *manifest = NULL;
    struct error cause = {0};
    bool ok = true;

    if (!path)
        return error_set(err, ERROR_NO_MEMORY, "checking '%s'", verification->model);
    verification->summary->has_manifest = file_is_regular(path);
    if (verification->summary->has_manifest && !manifest_read(&manifest, path, &cause))
        tell_defect(verification, "manifest: %s", cause.message);
    free(path);
    if (manifest)
        ok = check_files(verification, manifest, err);
    json_decref(manifest);
    return ok;
}

/* --- All of it --- */

bool verify_model(const char *model, int threads, const struct verify_callbacks *callbacks,
                  struct verify_summary *summary, struct error *err)
{
    const struct model_paths paths = {.model = model};
    struct verification verification = {.model = model,
                                        .callbacks = callbacks,
                                        .summary = summary,
                                        .ops = quantise_ops(cpu_features_detect())};
    struct model_files *files = NULL;
    struct error cause = {0};
    bool ok;

    *summary = (struct verify_summary){0};
    if (!thread_pool_create(&verification.pool, threads, err))
        return false;
    ok = model_files_open(&files, &paths, &cause);
    if (ok) {
        ok = check_components(&verification, files, err) && check_manifest(&verification, err);
    } else if (cause.code == ERROR_BAD_FILE) {
        verification.opening = cause.message;
        tell_defect(&verification, "%s", cause.message);
        ok = check_manifest(&verification, err);
    } else {
        *err = cause;
    }
    model_files_close(files);
    thread_pool_destroy(verification.pool);
    free(verification.items);
    return ok;
}
