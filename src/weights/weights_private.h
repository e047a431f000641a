/* What weights.c and weight_loader.c share. */
#ifndef WEIGHTS_WEIGHTS_PRIVATE_H
#define WEIGHTS_WEIGHTS_PRIVATE_H

#include <jansson.h>

#include "weights/names.h"
#include "weights/weights_build.h"

/* A file, and what of it belongs to the component. */
struct weights_source {
    struct safetensors_file *file;
    char *prefix;
    json_t *quantized_layers; /* from the file's "_quantization_metadata"; NULL: none */
};

struct weights_entry {
    const char *name; /* without the prefix; points into the file's */
    const struct safetensors_entry *stored;
    size_t source;
};

struct weights_block; /* small copies: vectors, scales */

struct weights {
    enum component component;
    char *path;
    struct names names;
    struct weights_source *sources;
    size_t source_count;
    struct weights_entry *entries; /* sorted by name once finished */
    size_t entry_count, entry_capacity;
    struct weights_block *blocks;
    json_t *config; /* NULL: none */
    size_t stored_bytes, loaded_bytes;
    uint64_t *reported; /* hashes of the problems that the current loader has named */
    size_t reported_count, reported_capacity;
    const struct weights_observer *observer; /* NULL: none */
    bool is_quantised;                       /* weights_quantise */
    int block_count;                         /* of the transformer, then */
};

/* A tensor found by its canonical name. */
struct weights_found {
    struct names_target target;
    const struct weights_entry *entry; /* NULL: not there; target.stored says what is missing */
};

void weights_find(struct weights_found *out, const struct weights *weights, const char *canonical);
const struct weights_entry *weights_find_stored(const struct weights *weights, const char *stored);

/* Memory that lives as long as the weights, aligned to 64 bytes; NULL when there is none. */
void *weights_own(struct weights *weights, size_t bytes);

#endif
