/* Whatever is accepted as an index of shards names plain files only, each once, and every tensor of
 * it lies in one of them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "weights/shard_index.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check(int holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct shard_index *index;
    struct error err = {0};

    if (!shard_index_parse(&index, bytes, size, "fuzz", &err)) {
        check(err.code == ERROR_BAD_FILE && err.message[0]);
        return 0;
    }
    check(index->tensor_count > 0 && index->shard_count > 0);
    check(index->shard_count <= SHARD_INDEX_SHARDS_MAX);
    for (size_t i = 0; i < index->shard_count; i++) {
        const char *name = index->shard[i];

        check(name[0] && name[0] != '.' && !strpbrk(name, "/\\"));
        check(i == 0 || strcmp(index->shard[i - 1], name) < 0);
    }
    for (size_t i = 0; i < index->tensor_count; i++)
        check(index->tensor[i].name[0] && index->tensor[i].shard < index->shard_count);
    shard_index_destroy(index);
    return 0;
}
