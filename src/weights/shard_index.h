/* Sharded weights: an index (".safetensors.index.json") that says which tensor lies in which file
 * beside it (model.md, section 3.3). Names of files come from outside: they must be plain names.
 */
#ifndef WEIGHTS_SHARD_INDEX_H
#define WEIGHTS_SHARD_INDEX_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"
#include "weights/safetensors.h"

#define SHARD_INDEX_SHARDS_MAX 128

struct shard_index {
    char **shard; /* file names, each once, sorted */
    size_t shard_count;
    struct shard_index_tensor {
        char *name;
        size_t shard;
    } * tensor;
    size_t tensor_count;
};

/* `name` goes into messages. Free with shard_index_destroy. */
MUST_CHECK bool shard_index_parse(struct shard_index **out, const void *bytes, size_t size,
                                  const char *name, struct error *err);
void shard_index_destroy(struct shard_index *index); /* NULL is fine */

/* Opens every shard of the index at `path`. Each tensor of the index must be in its shard, and no
 * tensor in two. The caller closes each of *count files and frees *out. */
MUST_CHECK bool shard_index_open(struct safetensors_file ***out, size_t *count, const char *path,
                                 struct error *err);

#endif
