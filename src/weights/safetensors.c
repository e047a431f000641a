#include "weights/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/size.h"
#include "weights/json_text.h"

#define LENGTH_BYTES 8 /* the header's length, before the header */
#define HEADER_DEPTH 3 /* header, tensor, shape */
#define DTYPE_NAME_MAX 32

struct safetensors_file {
    char *path;
    const unsigned char *bytes; /* the whole file */
    size_t size;
    bool is_mapped; /* false: the bytes are the caller's */
    int references;
    struct safetensors_entry *entries; /* sorted by name */
    size_t count;
    char *text;       /* names, and names of unknown dtypes */
    json_t *metadata; /* NULL: none */
};

static const struct {
    const char *name;
    size_t size;
} dtypes[SAFETENSORS_DTYPE_COUNT] = {
    [SAFETENSORS_F64] = {"F64", 8},         [SAFETENSORS_F32] = {"F32", 4},
    [SAFETENSORS_F16] = {"F16", 2},         [SAFETENSORS_BF16] = {"BF16", 2},
    [SAFETENSORS_F8_E4M3] = {"F8_E4M3", 1}, [SAFETENSORS_F8_E5M2] = {"F8_E5M2", 1},
    [SAFETENSORS_F8_E8M0] = {"F8_E8M0", 1}, [SAFETENSORS_I64] = {"I64", 8},
    [SAFETENSORS_I32] = {"I32", 4},         [SAFETENSORS_I16] = {"I16", 2},
    [SAFETENSORS_I8] = {"I8", 1},           [SAFETENSORS_U64] = {"U64", 8},
    [SAFETENSORS_U32] = {"U32", 4},         [SAFETENSORS_U16] = {"U16", 2},
    [SAFETENSORS_U8] = {"U8", 1},           [SAFETENSORS_BOOL] = {"BOOL", 1},
};

static enum safetensors_dtype dtype_from_name(const char *name)
{
    for (int i = 0; i < SAFETENSORS_DTYPE_COUNT; i++)
        if (strcmp(name, dtypes[i].name) == 0)
            return (enum safetensors_dtype)i;
    return SAFETENSORS_DTYPE_COUNT;
}

/* An integer of at least 0; false for everything else. */
static bool read_count(int64_t *out, const json_t *value)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = json_integer_value(value);
    return true;
}

static bool read_shape(struct safetensors_entry *entry, const json_t *shape, struct error *err)
{
    if (!json_is_array(shape))
        return error_set(err, ERROR_BAD_FILE, "the shape is not an array");
    if (json_array_size(shape) > SAFETENSORS_MAX_RANK)
        return error_set(err, ERROR_BAD_FILE, "the shape has %zu dimensions, more than %d",
                         json_array_size(shape), SAFETENSORS_MAX_RANK);
    entry->rank = (int)json_array_size(shape);
    for (int i = 0; i < entry->rank; i++)
        if (!read_count(&entry->dim[i], json_array_get(shape, (size_t)i)))
            return error_set(err, ERROR_BAD_FILE,
                             "a dimension of the shape is not a whole number of at least 0");
    return true;
}

/* The bytes that the shape asks for. Dimensions of 0 take part as 1 in the overflow check, so that
 * no partial product of a shape can overflow later on. */
static bool shape_bytes(size_t *out, const struct safetensors_entry *entry, struct error *err)
{
    size_t bytes = entry->dtype == SAFETENSORS_DTYPE_COUNT ? 1 : dtypes[entry->dtype].size;
    bool is_empty = false;

    for (int i = 0; i < entry->rank; i++) {
        is_empty = is_empty || entry->dim[i] == 0;
        if (!size_mul(&bytes, bytes, (size_t)max_i64(entry->dim[i], 1)) || bytes > INT64_MAX)
            return error_set(err, ERROR_BAD_FILE, "the product of the shape overflows");
    }
    *out = is_empty ? 0 : bytes;
    return true;
}

static bool read_offsets(struct safetensors_entry *entry, const json_t *offsets,
                         const unsigned char *data, size_t data_size, struct error *err)
{
    int64_t begin, end;

    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !read_count(&begin, json_array_get(offsets, 0)) ||
        !read_count(&end, json_array_get(offsets, 1)))
        return error_set(err, ERROR_BAD_FILE,
                         "data_offsets is not a pair of whole numbers of at least 0");
    if (begin > end)
        return error_set(err, ERROR_BAD_FILE, "the offsets end (%lld) before they begin (%lld)",
                         (long long)end, (long long)begin);
    if ((uint64_t)end > data_size)
        return error_set(err, ERROR_BAD_FILE,
                         "the offsets reach to %lld, past the end of the data at %zu",
                         (long long)end, data_size);
    entry->data = data + begin;
    entry->bytes = (size_t)(end - begin);
    return true;
}

/* Copies `text` to *at and moves *at behind it. */
static const char *keep_text(char **at, const char *text)
{
    size_t size = strlen(text) + 1;
    char *kept = memcpy(*at, text, size);

    *at += size;
    return kept;
}

/* Everything about one tensor but its place among the others. */
static bool read_entry(struct safetensors_entry *entry, char **text, const json_t *value,
                       const unsigned char *data, size_t data_size, struct error *err)
{
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    size_t bytes = 0;

    if (!json_is_object(value))
        return error_set(err, ERROR_BAD_FILE, "its description is not an object");
    if (!dtype || !*dtype || strlen(dtype) > DTYPE_NAME_MAX)
        return error_set(err, ERROR_BAD_FILE, "the dtype is not the name of a type");
    entry->dtype = dtype_from_name(dtype);
    entry->dtype_name = keep_text(text, dtype);
    if (!read_offsets(entry, json_object_get(value, "data_offsets"), data, data_size, err) ||
        !read_shape(entry, json_object_get(value, "shape"), err) ||
        !shape_bytes(&bytes, entry, err))
        return false;
    if (entry->dtype != SAFETENSORS_DTYPE_COUNT && bytes != entry->bytes)
        return error_set(err, ERROR_BAD_FILE, "the shape needs %zu bytes, but the offsets hold %zu",
                         bytes, entry->bytes);
    return true;
}

static bool check_name(const char *name, struct error *err)
{
    if (!*name)
        return error_set(err, ERROR_BAD_FILE, "a tensor's name is empty");
    if (strlen(name) > SAFETENSORS_NAME_BYTES_MAX)
        return error_set(err, ERROR_BAD_FILE, "a tensor's name has %zu bytes, more than %d",
                         strlen(name), SAFETENSORS_NAME_BYTES_MAX);
    for (const char *at = name; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            return error_set(err, ERROR_BAD_FILE, "a tensor's name holds a control character");
    return true;
}

static bool check_metadata(const json_t *metadata, struct error *err)
{
    const char *key;
    json_t *value;

    if (!json_is_object(metadata))
        return error_set(err, ERROR_BAD_FILE, "__metadata__ is not an object");
    json_object_foreach((json_t *)metadata, key, value)
    {
        if (!json_is_string(value))
            return error_set(err, ERROR_BAD_FILE, "__metadata__ holds something but strings");
    }
    return true;
}

static int compare_places(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;

    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int compare_names(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;

    return strcmp(x->name, y->name);
}

/* The tensors must cover the data without gap or overlap. Leaves them sorted by place. */
static bool check_tiling(struct safetensors_file *file, const unsigned char *data, size_t data_size,
                         struct error *err)
{
    const unsigned char *at = data;

    qsort(file->entries, file->count, sizeof *file->entries, compare_places);
    for (size_t i = 0; i < file->count; i++) {
        const struct safetensors_entry *entry = &file->entries[i];

        if (entry->data != at)
            return error_set(err, ERROR_BAD_FILE, "tensor '%s' %s", entry->name,
                             entry->data < at ? "overlaps the one before it"
                                              : "leaves a gap before it");
        at += entry->bytes;
    }
    if (at != data + data_size)
        return error_set(err, ERROR_BAD_FILE, "%zu bytes at the end belong to no tensor",
                         (size_t)(data + data_size - at));
    return true;
}

/* Room for the names of all tensors and dtypes. */
static size_t text_bytes(json_t *root)
{
    size_t bytes = 1;
    const char *key;
    json_t *value;

    json_object_foreach(root, key, value)
    {
        const char *dtype = json_string_value(json_object_get(value, "dtype"));

        bytes += strlen(key) + 1 + (dtype ? strlen(dtype) + 1 : 0);
    }
    return bytes;
}

static bool read_entries(struct safetensors_file *file, json_t *root, const unsigned char *data,
                         size_t data_size, struct error *err)
{
    const char *key;
    json_t *value;
    char *text;

    file->entries = calloc(json_object_size(root) + 1, sizeof *file->entries);
    file->text = text = malloc(text_bytes(root));
    if (!file->entries || !file->text)
        return error_set(err, ERROR_NO_MEMORY, "%zu tensors", json_object_size(root));
    json_object_foreach(root, key, value)
    {
        struct safetensors_entry *entry = &file->entries[file->count];

        if (strcmp(key, "__metadata__") == 0) {
            if (!check_metadata(value, err))
                return false;
            file->metadata = json_incref(value);
            continue;
        }
        if (!check_name(key, err))
            return false;
        entry->name = keep_text(&text, key);
        if (!read_entry(entry, &text, value, data, data_size, err))
            return error_in(err, "tensor '%s'", key);
        file->count++;
    }
    if (!check_tiling(file, data, data_size, err))
        return false;
    qsort(file->entries, file->count, sizeof *file->entries, compare_names);
    return true;
}

static uint64_t load_u64(const unsigned char *bytes)
{
    uint64_t value = 0;

    for (int i = 7; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

/* What a clone without Git LFS has in place of a large file. */
static bool is_lfs_pointer(const struct safetensors_file *file)
{
    static const char start[] = "version https://git-lfs";

    return file->size >= strlen(start) && memcmp(file->bytes, start, strlen(start)) == 0;
}

static bool read_header(struct safetensors_file *file, struct error *err)
{
    const unsigned char *header;
    size_t header_size, rest;
    uint64_t length;
    json_t *root;
    bool is_good;

    if (file->size < LENGTH_BYTES)
        return error_set(err, ERROR_BAD_FILE, "%zu bytes are too few for a safetensors file",
                         file->size);
    if (is_lfs_pointer(file))
        return error_set(err, ERROR_BAD_FILE,
                         "only a Git LFS pointer to a safetensors file: 'git lfs pull' in its "
                         "folder fetches the file itself");
    length = load_u64(file->bytes);
    rest = file->size - LENGTH_BYTES;
    if (length > SAFETENSORS_HEADER_BYTES_MAX)
        return error_set(err, ERROR_BAD_FILE,
                         "not a safetensors file: its header would have %llu bytes, more than %u",
                         (unsigned long long)length, SAFETENSORS_HEADER_BYTES_MAX);
    if (length > rest)
        return error_set(err, ERROR_BAD_FILE,
                         "the header has %llu bytes, but the file ends after %zu",
                         (unsigned long long)length, rest);
    header = file->bytes + LENGTH_BYTES;
    header_size = (size_t)length;
    if (header_size == 0 || header[0] != '{')
        return error_set(err, ERROR_BAD_FILE, "the header does not begin with '{'");
    root = json_text_parse(header, header_size, HEADER_DEPTH, err);
    if (!root)
        return error_in(err, "the header");
    is_good = read_entries(file, root, header + header_size, rest - header_size, err);
    json_decref(root);
    return is_good;
}

/* Takes over nothing but the mapping, when there is one: it is gone if this fails. */
static bool file_create(struct safetensors_file **out, const unsigned char *bytes, size_t size,
                        bool is_mapped, const char *path, struct error *err)
{
    struct safetensors_file *file = calloc(1, sizeof *file);

    if (!file) {
        if (is_mapped)
            munmap((void *)bytes, size);
        return error_set(err, ERROR_NO_MEMORY, "opening '%s'", path);
    }
    *file = (struct safetensors_file){
        .bytes = bytes, .size = size, .is_mapped = is_mapped, .references = 1};
    file->path = strdup(path);
    if (!file->path) {
        error_set(err, ERROR_NO_MEMORY, "opening '%s'", path);
        goto fail;
    }
    if (!read_header(file, err)) {
        error_in(err, "'%s'", path);
        goto fail;
    }
    *out = file;
    return true;

fail:
    safetensors_close(file);
    return false;
}

bool safetensors_open(struct safetensors_file **out, const char *path, struct error *err)
{
    void *mapping = NULL;
    struct stat st;
    int cause;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not make us wait */

    if (fd < 0)
        return error_set_errno(err, errno, "opening '%s'", path);
    if (fstat(fd, &st) != 0) {
        error_set_errno(err, errno, "opening '%s'", path);
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        error_set(err, ERROR_BAD_FILE, "'%s' is not a regular file", path);
        goto fail;
    }
    if (st.st_size < LENGTH_BYTES) {
        error_set(err, ERROR_BAD_FILE, "'%s': %jd bytes are too few for a safetensors file", path,
                  (intmax_t)st.st_size);
        goto fail;
    }
    mapping = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    cause = errno;
    close(fd);
    if (mapping == MAP_FAILED)
        return error_set_errno(err, cause, "mapping '%s'", path);
    return file_create(out, mapping, (size_t)st.st_size, true, path, err);

fail:
    close(fd);
    return false;
}

bool safetensors_open_memory(struct safetensors_file **out, const void *bytes, size_t size,
                             const char *name, struct error *err)
{
    return file_create(out, bytes, size, false, name, err);
}

struct safetensors_file *safetensors_retain(struct safetensors_file *file)
{
    file->references++;
    return file;
}

void safetensors_close(struct safetensors_file *file)
{
    if (!file || --file->references > 0)
        return;
    if (file->is_mapped)
        munmap((void *)file->bytes, file->size);
    json_decref(file->metadata);
    free(file->entries);
    free(file->text);
    free(file->path);
    free(file);
}

void safetensors_header(const struct safetensors_file *file, const void **bytes, size_t *size)
{
    *bytes = file->bytes;
    *size = LENGTH_BYTES + (size_t)load_u64(file->bytes);
}

const char *safetensors_path(const struct safetensors_file *file)
{
    return file->path;
}

size_t safetensors_count(const struct safetensors_file *file)
{
    return file->count;
}

const struct safetensors_entry *safetensors_entry_at(const struct safetensors_file *file,
                                                     size_t index)
{
    return &file->entries[index];
}

const struct safetensors_entry *safetensors_find(const struct safetensors_file *file,
                                                 const char *name)
{
    struct safetensors_entry key = {.name = name};

    return bsearch(&key, file->entries, file->count, sizeof *file->entries, compare_names);
}

const char *safetensors_metadata(const struct safetensors_file *file, const char *key)
{
    return json_string_value(json_object_get(file->metadata, key));
}

/* Advice only: what the system makes of it changes no result. */
static void release(const unsigned char *begin, const unsigned char *end)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = (uintptr_t)begin & ~(page - 1);

    (void)madvise((void *)first, (uintptr_t)end - first, MADV_DONTNEED);
}

void safetensors_release_pages(const struct safetensors_file *file)
{
    if (file->is_mapped)
        release(file->bytes, file->bytes + file->size);
}

void safetensors_release_entry(const struct safetensors_file *file,
                               const struct safetensors_entry *entry)
{
    if (file->is_mapped && entry->bytes > 0)
        release(entry->data, entry->data + entry->bytes);
}

bool safetensors_to_dtype(enum dtype *out, enum safetensors_dtype dtype)
{
    static const struct {
        enum safetensors_dtype stored;
        enum dtype ours;
    } known[] = {
        {SAFETENSORS_F32, DTYPE_F32},         {SAFETENSORS_F16, DTYPE_F16},
        {SAFETENSORS_BF16, DTYPE_BF16},       {SAFETENSORS_F8_E4M3, DTYPE_F8_E4M3},
        {SAFETENSORS_F8_E5M2, DTYPE_F8_E5M2}, {SAFETENSORS_I32, DTYPE_I32},
        {SAFETENSORS_U8, DTYPE_U8},
    };

    for (size_t i = 0; i < COUNT_OF(known); i++) {
        if (known[i].stored == dtype) {
            *out = known[i].ours;
            return true;
        }
    }
    return false;
}

enum safetensors_dtype safetensors_from_dtype(enum dtype dtype)
{
    for (int i = 0; i < SAFETENSORS_DTYPE_COUNT; i++) {
        enum dtype ours;

        if (safetensors_to_dtype(&ours, (enum safetensors_dtype)i) && ours == dtype)
            return (enum safetensors_dtype)i;
    }
    return SAFETENSORS_DTYPE_COUNT;
}

size_t safetensors_dtype_size(enum safetensors_dtype dtype)
{
    return dtypes[dtype].size;
}

const char *safetensors_dtype_name(enum safetensors_dtype dtype)
{
    return dtypes[dtype].name;
}
