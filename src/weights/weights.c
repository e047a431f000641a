#include "weights/weights.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "weights/json_text.h"
#include "weights/weights_private.h"

#define METADATA_DEPTH_MAX 16

struct weights_block {
    struct weights_block *next;
    alignas(64) unsigned char bytes[];
};

const char *component_name(enum component component)
{
    static const char *const names[COMPONENT_COUNT] = {
        [COMPONENT_TRANSFORMER] = "transformer",
        [COMPONENT_VAE] = "VAE",
        [COMPONENT_CLIP_L] = "CLIP-L",
        [COMPONENT_CLIP_G] = "CLIP-G",
        [COMPONENT_T5] = "T5",
    };

    return names[component];
}

bool weights_create(struct weights **out, enum component component, const char *path,
                    struct error *err)
{
    struct weights *weights = calloc(1, sizeof *weights);

    if (!weights)
        return error_set(err, ERROR_NO_MEMORY, "'%s'", path);
    weights->component = component;
    weights->path = strdup(path);
    if (!weights->path) {
        weights_destroy(weights);
        return error_set(err, ERROR_NO_MEMORY, "'%s'", path);
    }
    *out = weights;
    return true;
}

void weights_destroy(struct weights *weights)
{
    if (!weights)
        return;
    for (size_t i = 0; i < weights->source_count; i++) {
        safetensors_close(weights->sources[i].file);
        free(weights->sources[i].prefix);
        json_decref(weights->sources[i].quantized_layers);
    }
    while (weights->blocks) {
        struct weights_block *next = weights->blocks->next;

        free(weights->blocks);
        weights->blocks = next;
    }
    json_decref(weights->config);
    free(weights->sources);
    free(weights->entries);
    free(weights->reported);
    free(weights->path);
    free(weights);
}

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool has_component_prefix(const char *name)
{
    for (int c = 0; c < COMPONENT_COUNT; c++)
        for (int i = 0; names_prefix((enum component)c, i); i++)
            if (starts_with(name, names_prefix((enum component)c, i)))
                return true;
    return false;
}

static bool add_entry(struct weights *weights, const struct safetensors_entry *stored,
                      const char *name)
{
    if (weights->entry_count == weights->entry_capacity) {
        size_t capacity = weights->entry_capacity ? 2 * weights->entry_capacity : 256;
        struct weights_entry *entries = reallocarray(weights->entries, capacity, sizeof *entries);

        if (!entries)
            return false;
        weights->entries = entries;
        weights->entry_capacity = capacity;
    }
    weights->entries[weights->entry_count++] =
        (struct weights_entry){.name = name, .stored = stored, .source = weights->source_count - 1};
    weights->stored_bytes += stored->bytes;
    return true;
}

/* ComfyUI's second way to say how layers are quantised: one JSON text in the file's metadata. */
static bool read_quantization(json_t **out, const struct safetensors_file *file, struct error *err)
{
    const char *text = safetensors_metadata(file, "_quantization_metadata");
    json_t *root;

    if (!text)
        return true;
    root = json_text_parse(text, strlen(text), METADATA_DEPTH_MAX, err);
    if (!root)
        return error_in(err, "'%s': _quantization_metadata", safetensors_path(file));
    *out = json_incref(json_object_get(root, "layers"));
    json_decref(root);
    return true;
}

bool weights_add_file(struct weights *weights, struct safetensors_file *file, const char *prefix,
                      struct error *err)
{
    struct weights_source *source =
        reallocarray(weights->sources, weights->source_count + 1, sizeof *weights->sources);

    if (!source)
        return error_set(err, ERROR_NO_MEMORY, "'%s'", weights->path);
    weights->sources = source;
    source += weights->source_count++;
    *source = (struct weights_source){.file = safetensors_retain(file), .prefix = strdup(prefix)};
    if (!source->prefix)
        return error_set(err, ERROR_NO_MEMORY, "'%s'", weights->path);
    if (!read_quantization(&source->quantized_layers, file, err))
        return false;
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct safetensors_entry *entry = safetensors_entry_at(file, i);

        if (!starts_with(entry->name, prefix) || (!*prefix && has_component_prefix(entry->name)))
            continue;
        if (!add_entry(weights, entry, entry->name + strlen(prefix)))
            return error_set(err, ERROR_NO_MEMORY, "'%s'", weights->path);
    }
    return true;
}

void weights_set_config(struct weights *weights, json_t *config)
{
    json_decref(weights->config);
    weights->config = config;
}

static int compare_names(const void *a, const void *b)
{
    const struct weights_entry *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static bool has_stored(const void *context, const char *stored)
{
    return weights_find_stored(context, stored) != NULL;
}

bool weights_finish(struct weights *weights, struct error *err)
{
    const char *what = component_name(weights->component);

    if (weights->entry_count > 0)
        qsort(weights->entries, weights->entry_count, sizeof *weights->entries, compare_names);
    for (size_t i = 0; i < weights->entry_count; i++) {
        const char *name = weights->entries[i].name;

        if (i > 0 && strcmp(name, weights->entries[i - 1].name) == 0)
            return error_set(err, ERROR_BAD_FILE, "%s in '%s': tensor '%s' is there twice", what,
                             weights->path, name);
        if (strstr(name, "lora_"))
            return error_set(err, ERROR_BAD_FILE,
                             "%s in '%s': tensor '%s' belongs to an adapter (LoRA), not to a model",
                             what, weights->path, name);
    }
    if (names_detect(&weights->names, weights->component, has_stored, weights) == 0)
        return error_set(err, ERROR_BAD_FILE, "'%s' holds no tensor of a %s; its first is '%s'",
                         weights->path, what,
                         weights->entry_count ? weights->entries[0].name : "(none)");
    return true;
}

enum component weights_component(const struct weights *weights)
{
    return weights->component;
}

const char *weights_path(const struct weights *weights)
{
    return weights->path;
}

size_t weights_stored_bytes(const struct weights *weights)
{
    return weights->stored_bytes;
}

size_t weights_loaded_bytes(const struct weights *weights)
{
    return weights->loaded_bytes;
}

void weights_release_pages(const struct weights *weights)
{
    for (size_t i = 0; i < weights->entry_count; i++)
        safetensors_release_entry(weights->sources[weights->entries[i].source].file,
                                  weights->entries[i].stored);
}

void weights_observe(struct weights *weights, const struct weights_observer *observer)
{
    weights->observer = observer;
}

static bool has_f8(const struct weights *weights)
{
    for (size_t i = 0; i < weights->entry_count; i++) {
        enum safetensors_dtype dtype = weights->entries[i].stored->dtype;

        if (dtype == SAFETENSORS_F8_E4M3 || dtype == SAFETENSORS_F8_E5M2)
            return true;
    }
    return false;
}

void weights_quantise(struct weights *weights)
{
    weights->is_quantised = !has_f8(weights);
    weights->block_count = 0;
    if (weights->component == COMPONENT_TRANSFORMER)
        while (weights_has(weights, "block.%d.image.q.weight", weights->block_count))
            weights->block_count++;
}

size_t weights_stored_count(const struct weights *weights)
{
    return weights->entry_count;
}

const struct safetensors_entry *weights_stored_at(const struct weights *weights, size_t index,
                                                  const struct safetensors_file **file)
{
    const struct weights_entry *entry = &weights->entries[index];

    *file = weights->sources[entry->source].file;
    return entry->stored;
}

const struct weights_entry *weights_find_stored(const struct weights *weights, const char *stored)
{
    struct weights_entry key = {.name = stored};

    if (weights->entry_count == 0)
        return NULL;
    return bsearch(&key, weights->entries, weights->entry_count, sizeof *weights->entries,
                   compare_names);
}

void weights_find(struct weights_found *out, const struct weights *weights, const char *canonical)
{
    struct names_target other;

    *out = (struct weights_found){.target = {.parts = 1}};
    if (!names_resolve(&out->target, &weights->names, canonical, 0)) {
        snprintf(out->target.stored, sizeof out->target.stored, "%s", canonical);
        return;
    }
    out->entry = weights_find_stored(weights, out->target.stored);
    for (int i = 1; !out->entry && names_resolve(&other, &weights->names, canonical, i); i++) {
        out->entry = weights_find_stored(weights, other.stored);
        if (out->entry)
            out->target = other;
    }
}

void *weights_own(struct weights *weights, size_t bytes)
{
    struct weights_block *block;
    size_t size;

    if (!size_add(&size, bytes, sizeof *block + 63))
        return NULL;
    block = aligned_alloc(64, size & ~(size_t)63);
    if (!block)
        return NULL;
    block->next = weights->blocks;
    weights->blocks = block;
    return block->bytes;
}

bool weights_has(const struct weights *weights, const char *format, ...)
{
    char canonical[SAFETENSORS_NAME_BYTES_MAX + 1];
    struct weights_found found;
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(canonical, sizeof canonical, format, arguments);
    va_end(arguments);
    weights_find(&found, weights, canonical);
    return found.entry != NULL;
}

/* Leaves out dimensions of 1, the outer ones first, until two are left. */
static int matrix_shape(int64_t *dim, int rank)
{
    while (rank > 2 && dim[0] == 1) {
        rank--;
        memmove(dim, dim + 1, (size_t)rank * sizeof *dim);
    }
    while (rank > 2 && dim[rank - 1] == 1)
        rank--;
    return rank;
}

/* Callers multiply dimensions before they have seen the data; a tensor with a dimension of 0 could
 * have others of any size. */
static bool is_computable(const int64_t *dim, int rank)
{
    for (int i = 0; i < rank; i++)
        if (dim[i] < 1 || dim[i] > INT32_MAX)
            return false;
    return true;
}

bool weights_shape(const struct weights *weights, int *rank, int64_t dim[TENSOR_MAX_RANK],
                   const char *format, ...)
{
    char canonical[SAFETENSORS_NAME_BYTES_MAX + 1];
    int64_t stored[SAFETENSORS_MAX_RANK];
    struct weights_found found;
    va_list arguments;
    int stored_rank;

    va_start(arguments, format);
    vsnprintf(canonical, sizeof canonical, format, arguments);
    va_end(arguments);
    *rank = 0;
    weights_find(&found, weights, canonical);
    if (!found.entry)
        return false;
    stored_rank = found.entry->stored->rank;
    memcpy(stored, found.entry->stored->dim, sizeof stored);
    if (found.target.is_matrix)
        stored_rank = matrix_shape(stored, stored_rank);
    if (stored_rank > TENSOR_MAX_RANK || !is_computable(stored, stored_rank))
        return false;
    if (stored_rank > 0)
        stored[0] /= found.target.parts;
    if (found.target.is_transposed && stored_rank == 2) {
        int64_t columns = stored[0];

        stored[0] = stored[1];
        stored[1] = columns;
    }
    *rank = stored_rank;
    memcpy(dim, stored, (size_t)stored_rank * sizeof *dim);
    return true;
}

int64_t weights_config_integer(const struct weights *weights, const char *key, int64_t fallback)
{
    json_t *value = json_object_get(weights->config, key);

    return json_is_integer(value) ? json_integer_value(value) : fallback;
}

double weights_config_number(const struct weights *weights, const char *key, double fallback)
{
    json_t *value = json_object_get(weights->config, key);

    return json_is_number(value) ? json_number_value(value) : fallback;
}

const char *weights_config_text(const struct weights *weights, const char *key,
                                const char *fallback)
{
    json_t *value = json_object_get(weights->config, key);

    return json_is_string(value) ? json_string_value(value) : fallback;
}

const json_t *weights_config(const struct weights *weights)
{
    return weights->config;
}
