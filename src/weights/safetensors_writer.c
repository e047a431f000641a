#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"
#include "base/size.h"
#include "weights/safetensors.h"

#define DATA_ALIGN 8
#define LENGTH_BYTES 8

struct safetensors_writer {
    struct file_writer *out;
    char *path;
    json_t *header;   /* tensors in the order of declaration */
    json_t *metadata; /* NULL: none */
    size_t declared_bytes;
    size_t written_bytes;
    size_t header_bytes;  /* with the length before it and the spaces behind */
    bool has_header;      /* its size is fixed: nothing can be declared any more */
    bool is_header_stale; /* what the file holds there is not what it should be */
};

bool safetensors_writer_create(struct safetensors_writer **out, const char *path, struct error *err)
{
    struct safetensors_writer *writer = calloc(1, sizeof *writer);

    if (!writer)
        return error_set(err, ERROR_NO_MEMORY, "writing '%s'", path);
    writer->path = strdup(path);
    writer->header = json_object();
    if (!writer->path || !writer->header) {
        error_set(err, ERROR_NO_MEMORY, "writing '%s'", path);
        goto fail;
    }
    if (!file_writer_create(&writer->out, path, err))
        goto fail;
    *out = writer;
    return true;

fail:
    safetensors_writer_abandon(writer);
    return false;
}

static bool declared_size(size_t *out, enum safetensors_dtype dtype, int rank, const int64_t *dim)
{
    size_t bytes = safetensors_dtype_size(dtype);

    for (int i = 0; i < rank; i++)
        if (dim[i] < 0 || !size_mul(&bytes, bytes, (size_t)dim[i]) || bytes > INT64_MAX)
            return false;
    *out = bytes;
    return true;
}

static json_t *describe(enum safetensors_dtype dtype, int rank, const int64_t *dim, size_t begin,
                        size_t end)
{
    json_t *shape = json_array();

    for (int i = 0; i < rank; i++)
        if (json_array_append_new(shape, json_integer(dim[i])) != 0)
            return json_decref(shape), NULL;
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", safetensors_dtype_name(dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)end);
}

bool safetensors_writer_declare(struct safetensors_writer *writer, const char *name,
                                enum safetensors_dtype dtype, int rank, const int64_t *dim,
                                struct error *err)
{
    size_t bytes, end;

    if (writer->has_header)
        return error_set(err, ERROR_BAD_REQUEST, "'%s': tensor '%s' is declared after the data",
                         writer->path, name);
    if (!*name || strlen(name) > SAFETENSORS_NAME_BYTES_MAX || strcmp(name, "__metadata__") == 0 ||
        json_object_get(writer->header, name))
        return error_set(err, ERROR_BAD_REQUEST,
                         "'%s': the name '%s' is taken, too long or not allowed", writer->path,
                         name);
    if (dtype >= SAFETENSORS_DTYPE_COUNT || rank < 0 || rank > SAFETENSORS_MAX_RANK ||
        !declared_size(&bytes, dtype, rank, dim) || !size_add(&end, writer->declared_bytes, bytes))
        return error_set(err, ERROR_BAD_REQUEST, "'%s': tensor '%s' cannot have such a shape",
                         writer->path, name);
    if (json_object_set_new(writer->header, name,
                            describe(dtype, rank, dim, writer->declared_bytes, end)) != 0)
        return error_set(err, ERROR_NO_MEMORY, "'%s': tensor '%s'", writer->path, name);
    writer->declared_bytes = end;
    return true;
}

/* The same length in JSON too: what needs escaping there has no place in such values. */
static bool can_replace(const struct safetensors_writer *writer, const char *key, const char *value)
{
    const char *old = json_string_value(json_object_get(writer->metadata, key));

    return old && strlen(old) == strlen(value) && strpbrk(old, "\"\\") == NULL &&
           strpbrk(value, "\"\\") == NULL;
}

bool safetensors_writer_metadata(struct safetensors_writer *writer, const char *key,
                                 const char *value, struct error *err)
{
    if (writer->has_header && !can_replace(writer, key, value))
        return error_set(err, ERROR_BAD_REQUEST, "'%s': metadata '%s' comes after the data",
                         writer->path, key);
    if (!writer->metadata)
        writer->metadata = json_object();
    if (json_object_set_new(writer->metadata, key, json_string(value)) != 0)
        return error_set(err, ERROR_NO_MEMORY, "'%s': metadata '%s'", writer->path, key);
    writer->is_header_stale = true;
    return true;
}

/* The header's text, in the order metadata, then tensors. */
static char *header_text(const struct safetensors_writer *writer)
{
    json_t *whole = json_object();
    char *text = NULL;

    if (whole &&
        (!writer->metadata || json_object_set(whole, "__metadata__", writer->metadata) == 0) &&
        json_object_update(whole, writer->header) == 0)
        text = json_dumps(whole, JSON_COMPACT);
    json_decref(whole);
    return text;
}

/* The file's first bytes: the length, the text, and spaces so that the data is aligned. The caller
 * frees *out. */
static bool make_header(unsigned char **out, size_t *out_size,
                        const struct safetensors_writer *writer, struct error *err)
{
    char *text = header_text(writer);
    unsigned char *bytes;
    size_t size, padded;

    if (!text)
        return error_set(err, ERROR_NO_MEMORY, "'%s': header", writer->path);
    size = strlen(text);
    padded = size_round_up(size, DATA_ALIGN); /* the length itself takes 8 */
    if (padded > SAFETENSORS_HEADER_BYTES_MAX) {
        free(text);
        return error_set(err, ERROR_BAD_REQUEST, "'%s': too many tensors", writer->path);
    }
    bytes = malloc(LENGTH_BYTES + padded);
    if (!bytes) {
        free(text);
        return error_set(err, ERROR_NO_MEMORY, "'%s': header", writer->path);
    }
    for (int i = 0; i < LENGTH_BYTES; i++)
        bytes[i] = (unsigned char)((uint64_t)padded >> (8 * i));
    memcpy(bytes + LENGTH_BYTES, text, size);
    memset(bytes + LENGTH_BYTES + size, ' ', padded - size);
    free(text);
    *out = bytes;
    *out_size = LENGTH_BYTES + padded;
    return true;
}

/* Ends the declarations. */
static bool write_header(struct safetensors_writer *writer, struct error *err)
{
    unsigned char *bytes;

    if (!make_header(&bytes, &writer->header_bytes, writer, err))
        return false;
    writer->has_header = file_writer_append(writer->out, bytes, writer->header_bytes, err);
    writer->is_header_stale = false;
    free(bytes);
    return writer->has_header;
}

static bool rewrite_header(struct safetensors_writer *writer, struct error *err)
{
    unsigned char *bytes;
    size_t size;
    bool is_good;

    if (!make_header(&bytes, &size, writer, err))
        return false;
    if (size == writer->header_bytes)
        is_good = file_writer_put(writer->out, 0, bytes, size, err);
    else
        is_good =
            error_set(err, ERROR_BAD_REQUEST, "'%s': the header changed its size", writer->path);
    free(bytes);
    return is_good;
}

bool safetensors_writer_append(struct safetensors_writer *writer, const void *bytes, size_t size,
                               struct error *err)
{
    if (!writer->has_header && !write_header(writer, err))
        return false;
    if (size > writer->declared_bytes - writer->written_bytes)
        return error_set(err, ERROR_BAD_REQUEST, "'%s': more data than the %zu bytes declared",
                         writer->path, writer->declared_bytes);
    if (!file_writer_append(writer->out, bytes, size, err))
        return false;
    writer->written_bytes += size;
    return true;
}

bool safetensors_writer_put(struct safetensors_writer *writer, size_t offset, const void *bytes,
                            size_t size, struct error *err)
{
    if (!writer->has_header &&
        (!write_header(writer, err) ||
         !file_writer_reserve(writer->out, writer->header_bytes + writer->declared_bytes, err)))
        return false;
    if (offset > writer->declared_bytes || size > writer->declared_bytes - offset ||
        size > writer->declared_bytes - writer->written_bytes)
        return error_set(err, ERROR_BAD_REQUEST, "'%s': more data than the %zu bytes declared",
                         writer->path, writer->declared_bytes);
    if (!file_writer_put(writer->out, writer->header_bytes + offset, bytes, size, err))
        return false;
    writer->written_bytes += size;
    return true;
}

bool safetensors_writer_commit(struct safetensors_writer *writer, struct error *err)
{
    struct file_writer *out;

    if (!writer->has_header && !write_header(writer, err))
        goto fail;
    if (writer->written_bytes != writer->declared_bytes) {
        error_set(err, ERROR_BAD_REQUEST, "'%s': %zu bytes of data came, %zu were declared",
                  writer->path, writer->written_bytes, writer->declared_bytes);
        goto fail;
    }
    if (writer->is_header_stale && !rewrite_header(writer, err))
        goto fail;
    out = writer->out;
    writer->out = NULL;
    safetensors_writer_abandon(writer);
    return file_writer_commit(out, err);

fail:
    safetensors_writer_abandon(writer);
    return false;
}

void safetensors_writer_abandon(struct safetensors_writer *writer)
{
    if (!writer)
        return;
    file_writer_abandon(writer->out);
    json_decref(writer->header);
    json_decref(writer->metadata);
    free(writer->path);
    free(writer);
}
