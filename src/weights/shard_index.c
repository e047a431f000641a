#include "weights/shard_index.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "weights/json_text.h"

static int compare_text(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;

    return strcmp(*x, *y);
}

static bool is_plain_name(const char *name)
{
    static const char extension[] = ".safetensors";
    size_t length = strlen(name);

    if (length < sizeof extension || length > 255 || name[0] == '.')
        return false;
    if (strcmp(name + length - (sizeof extension - 1), extension) != 0)
        return false;
    for (const char *at = name; *at; at++)
        if (*at == '/' || *at == '\\' || (unsigned char)*at < 0x20)
            return false;
    return true;
}

/* The value of every tensor in the map must be the name of a file beside the index. */
static bool check_map(const json_t *map, struct error *err)
{
    const char *key;
    json_t *value;

    if (!json_is_object(map))
        return error_set(err, ERROR_BAD_FILE, "there is no object \"weight_map\"");
    if (json_object_size(map) == 0)
        return error_set(err, ERROR_BAD_FILE, "\"weight_map\" is empty");
    json_object_foreach((json_t *)map, key, value)
    {
        if (!*key || strlen(key) > SAFETENSORS_NAME_BYTES_MAX)
            return error_set(err, ERROR_BAD_FILE, "a tensor's name is empty or too long");
        if (!json_is_string(value))
            return error_set(err, ERROR_BAD_FILE, "the shard of '%s' is not a string", key);
        if (!is_plain_name(json_string_value(value)))
            return error_set(err, ERROR_BAD_FILE,
                             "the shard of '%s' is '%s', not a plain name ending in .safetensors",
                             key, json_string_value(value));
    }
    return true;
}

/* Fills in index->shard from the values of the map, each once. */
static bool collect_shards(struct shard_index *index, json_t *map)
{
    const char **names = calloc(json_object_size(map) + 1, sizeof *names);
    size_t count = 0;
    const char *key;
    json_t *value;

    if (!names)
        return false;
    json_object_foreach(map, key, value)
    {
        names[count++] = json_string_value(value);
    }
    qsort(names, count, sizeof *names, compare_text);
    index->shard = calloc(count + 1, sizeof *index->shard);
    for (size_t i = 0; index->shard && i < count; i++) {
        if (i > 0 && strcmp(names[i], names[i - 1]) == 0)
            continue;
        index->shard[index->shard_count] = strdup(names[i]);
        if (!index->shard[index->shard_count])
            break;
        index->shard_count++;
    }
    /* Complete when the last name made it. */
    count = index->shard_count &&
            strcmp(index->shard[index->shard_count - 1], names[json_object_size(map) - 1]) == 0;
    free(names);
    return count != 0;
}

static bool collect_tensors(struct shard_index *index, json_t *map)
{
    const char *key;
    json_t *value;

    index->tensor = calloc(json_object_size(map) + 1, sizeof *index->tensor);
    if (!index->tensor)
        return false;
    json_object_foreach(map, key, value)
    {
        struct shard_index_tensor *tensor = &index->tensor[index->tensor_count];
        const char *name = json_string_value(value);
        char **shard =
            bsearch(&name, index->shard, index->shard_count, sizeof *index->shard, compare_text);

        tensor->name = strdup(key);
        if (!tensor->name)
            return false;
        tensor->shard = (size_t)(shard - index->shard);
        index->tensor_count++;
    }
    return true;
}

bool shard_index_parse(struct shard_index **out, const void *bytes, size_t size, const char *name,
                       struct error *err)
{
    struct shard_index *index = calloc(1, sizeof *index);
    json_t *root = json_text_parse(bytes, size, JSON_TEXT_DEPTH_MAX, err);
    json_t *map = json_object_get(root, "weight_map");

    if (!root || !check_map(map, err))
        goto fail;
    if (!index || !collect_shards(index, map) || !collect_tensors(index, map)) {
        error_set(err, ERROR_NO_MEMORY, "%zu tensors", json_object_size(map));
        goto fail;
    }
    if (index->shard_count > SHARD_INDEX_SHARDS_MAX) {
        error_set(err, ERROR_BAD_FILE, "it names %zu shards, more than %d", index->shard_count,
                  SHARD_INDEX_SHARDS_MAX);
        goto fail;
    }
    json_decref(root);
    *out = index;
    return true;

fail:
    json_decref(root);
    shard_index_destroy(index);
    return error_in(err, "'%s'", name);
}

void shard_index_destroy(struct shard_index *index)
{
    if (!index)
        return;
    for (size_t i = 0; i < index->shard_count; i++)
        free(index->shard[i]);
    for (size_t i = 0; i < index->tensor_count; i++)
        free(index->tensor[i].name);
    free(index->shard);
    free(index->tensor);
    free(index);
}

/* "<folder of path>/<name>"; NULL when memory is short. */
static char *beside(const char *path, const char *name)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup("");
    char *joined = folder && *folder ? file_join(folder, name) : strdup(name);

    free(folder);
    return joined;
}

static bool check_shards(const struct shard_index *index, struct safetensors_file *const *files,
                         const char *path, struct error *err)
{
    for (size_t i = 0; i < index->tensor_count; i++) {
        const struct shard_index_tensor *tensor = &index->tensor[i];

        if (!safetensors_find(files[tensor->shard], tensor->name))
            return error_set(err, ERROR_BAD_FILE, "'%s': tensor '%s' is not in '%s'", path,
                             tensor->name, index->shard[tensor->shard]);
        for (size_t j = 0; j < index->shard_count; j++)
            if (j != tensor->shard && safetensors_find(files[j], tensor->name))
                return error_set(err, ERROR_BAD_FILE, "'%s': tensor '%s' is in both '%s' and '%s'",
                                 path, tensor->name, index->shard[tensor->shard], index->shard[j]);
    }
    return true;
}

bool shard_index_open(struct safetensors_file ***out, size_t *count, const char *path,
                      struct error *err)
{
    struct safetensors_file **files = NULL;
    struct shard_index *index = NULL;
    unsigned char *bytes = NULL;
    size_t size, opened = 0;

    if (!file_read(&bytes, &size, path, JSON_TEXT_BYTES_MAX, err) ||
        !shard_index_parse(&index, bytes, size, path, err))
        goto fail;
    files = calloc(index->shard_count, sizeof(struct safetensors_file *));
    if (!files) {
        error_set(err, ERROR_NO_MEMORY, "'%s'", path);
        goto fail;
    }
    for (; opened < index->shard_count; opened++) {
        char *shard = beside(path, index->shard[opened]);
        bool is_open = shard && safetensors_open(&files[opened], shard, err);

        if (!shard)
            error_set(err, ERROR_NO_MEMORY, "'%s'", path);
        free(shard);
        if (!is_open)
            goto fail;
    }
    if (!check_shards(index, files, path, err))
        goto fail;
    *out = files;
    *count = opened;
    shard_index_destroy(index);
    free(bytes);
    return true;

fail:
    for (size_t i = 0; i < opened; i++)
        safetensors_close(files[i]);
    free(files);
    shard_index_destroy(index);
    free(bytes);
    return false;
}
