#include "backend/cuda/choice_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* The file: this, the identity's size as a record's sizes are and its bytes, and records to the
 * end, each a record_head, the key's bytes and the value's. */
struct file_head {
    char magic[8];
    uint64_t size, checksum; /* of what follows */
};

static const char magic[8] = {'S', 'D', '3', '5', 'C', 'H', 'O', '1'};

struct record_head {
    uint32_t kind, key_size, value_size;
};

struct record {
    uint64_t hash; /* of kind and key */
    struct record_head head;
    bool replaces; /* another value of this key, that the file may have */
    unsigned char *bytes;
};

struct choice_file {
    char *path; /* NULL: only in memory */
    char *identity;
    struct record *records; /* oldest first */
    size_t count, capacity;
    size_t bytes; /* that the file takes */
    bool has_new;
};

/* FNV-1a (Fowler, Noll, Vo). Each step is a bijection of the state, so that no change of a single
 * byte goes unnoticed. */
static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t size)
{
    const unsigned char *at = bytes;

    for (size_t i = 0; i < size; i++)
        hash = (hash ^ at[i]) * UINT64_C(0x100000001b3);
    return hash;
}

#define HASH_START UINT64_C(0xcbf29ce484222325)

/* --- Records --- */

static size_t record_bytes(const struct record_head *head)
{
    return sizeof *head + head->key_size + head->value_size;
}

static uint64_t hash_key(uint32_t kind, const void *key, size_t key_size)
{
    return hash_bytes(hash_bytes(HASH_START, &kind, sizeof kind), key, key_size);
}

static struct record *find_record(const struct choice_file *file, uint32_t kind, const void *key,
                                  size_t key_size)
{
    uint64_t hash = hash_key(kind, key, key_size);

    for (size_t i = 0; i < file->count; i++) {
        struct record *record = &file->records[i];

        if (record->hash == hash && record->head.kind == kind &&
            record->head.key_size == key_size && memcmp(record->bytes, key, key_size) == 0)
            return record;
    }
    return NULL;
}

/* A record that lies nowhere yet; its bytes are NULL when memory is short. */
static struct record make_record(struct record_head head, const void *key, const void *value)
{
    struct record record = {.hash = hash_key(head.kind, key, head.key_size),
                            .head = head,
                            .bytes = malloc((size_t)head.key_size + head.value_size)};

    if (record.bytes) {
        memcpy(record.bytes, key, head.key_size);
        memcpy(record.bytes + head.key_size, value, head.value_size);
    }
    return record;
}

static void drop_oldest(struct choice_file *file)
{
    struct record oldest = file->records[0];

    file->count--;
    memmove(file->records, file->records + 1, file->count * sizeof *file->records);
    file->bytes -= record_bytes(&oldest.head);
    free(oldest.bytes);
}

/* Takes the record. False when memory is short. */
static bool append(struct choice_file *file, struct record record)
{
    if (!record.bytes)
        return false;
    if (file->count == file->capacity) {
        size_t capacity = file->capacity ? 2 * file->capacity : 64;
        struct record *grown = reallocarray(file->records, capacity, sizeof *grown);

        if (!grown) {
            free(record.bytes);
            return false;
        }
        file->records = grown;
        file->capacity = capacity;
    }
    file->records[file->count++] = record;
    file->bytes += record_bytes(&record.head);
    return true;
}

static void forget_records(struct choice_file *file)
{
    for (size_t i = 0; i < file->count; i++) {
        file->bytes -= record_bytes(&file->records[i].head);
        free(file->records[i].bytes);
    }
    file->count = 0;
}

static const void *value_of(const struct record *record)
{
    return record->bytes + record->head.key_size;
}

const void *choice_file_find(const struct choice_file *file, uint32_t kind, const void *key,
                             size_t key_size, size_t *value_size)
{
    const struct record *record = find_record(file, kind, key, key_size);

    if (!record)
        return NULL;
    *value_size = record->head.value_size;
    return value_of(record);
}

static bool is_size(size_t size)
{
    return size > 0 && size <= CHOICE_PART_BYTES_MAX;
}

/* True when the set has this value now. */
static bool put(struct choice_file *file, struct record_head head, const void *key,
                const void *value)
{
    struct record *old = find_record(file, head.kind, key, head.key_size);
    struct record made;

    if (old && old->head.value_size == head.value_size &&
        memcmp(value_of(old), value, head.value_size) == 0)
        return true;
    made = make_record(head, key, value);
    if (old && made.bytes) {
        file->bytes += record_bytes(&head) - record_bytes(&old->head);
        free(old->bytes);
        made.replaces = true;
        *old = made;
    } else if (!append(file, made)) {
        return false;
    }
    while (file->count > 1 &&
           (file->count > CHOICE_RECORDS_MAX || file->bytes > CHOICE_FILE_BYTES_MAX))
        drop_oldest(file);
    return true;
}

void choice_file_add(struct choice_file *file, uint32_t kind, const void *key, size_t key_size,
                     const void *value, size_t value_size)
{
    struct record_head head = {kind, (uint32_t)key_size, (uint32_t)value_size};

    if (is_size(key_size) && is_size(value_size) && put(file, head, key, value))
        file->has_new = true;
}

/* --- Reading --- */

/* What is left of the bytes that were read. */
struct reader {
    const unsigned char *at;
    size_t left;
};

/* The next bytes, or NULL when there are fewer. */
static const unsigned char *take(struct reader *reader, size_t size)
{
    const unsigned char *taken = reader->at;

    if (size > reader->left)
        return NULL;
    reader->at += size;
    reader->left -= size;
    return taken;
}

static bool take_head(struct reader *reader)
{
    struct file_head head;
    const unsigned char *bytes = take(reader, sizeof head);

    if (!bytes)
        return false;
    memcpy(&head, bytes, sizeof head);
    return memcmp(head.magic, magic, sizeof magic) == 0 && head.size == reader->left &&
           head.checksum == hash_bytes(HASH_START, reader->at, reader->left);
}

static bool take_identity(struct reader *reader, const char *identity)
{
    uint32_t size;
    const unsigned char *bytes = take(reader, sizeof size);

    if (!bytes)
        return false;
    memcpy(&size, bytes, sizeof size);
    bytes = take(reader, size);
    return bytes && size == strlen(identity) && memcmp(bytes, identity, size) == 0;
}

static bool take_record(struct reader *reader, struct choice_file *file)
{
    struct record_head head;
    const unsigned char *bytes = take(reader, sizeof head), *key, *value;

    if (!bytes)
        return false;
    memcpy(&head, bytes, sizeof head);
    if (!is_size(head.key_size) || !is_size(head.value_size) || file->count == CHOICE_RECORDS_MAX)
        return false;
    key = take(reader, head.key_size);
    value = key ? take(reader, head.value_size) : NULL;
    return value && !find_record(file, head.kind, key, head.key_size) &&
           append(file, make_record(head, key, value));
}

/* The records of the file at file->path, or none. */
static void read_records(struct choice_file *file)
{
    unsigned char *bytes;
    struct reader reader;
    bool ok;

    if (!file_read(&bytes, &reader.left, file->path, CHOICE_FILE_BYTES_MAX, NULL))
        return;
    reader.at = bytes;
    ok = take_head(&reader) && take_identity(&reader, file->identity);
    while (ok && reader.left > 0)
        ok = take_record(&reader, file);
    if (!ok)
        forget_records(file);
    free(bytes);
}

/* --- Writing --- */

static unsigned char *put_bytes(unsigned char *at, const void *bytes, size_t size)
{
    memcpy(at, bytes, size);
    return at + size;
}

/* The file's bytes, file->bytes of them; NULL when memory is short. */
static unsigned char *encode(const struct choice_file *file)
{
    struct file_head head = {.size = file->bytes - sizeof head};
    uint32_t identity_size = (uint32_t)strlen(file->identity);
    unsigned char *bytes = malloc(file->bytes), *at;

    if (!bytes)
        return NULL;
    at = put_bytes(bytes + sizeof head, &identity_size, sizeof identity_size);
    at = put_bytes(at, file->identity, identity_size);
    for (size_t i = 0; i < file->count; i++) {
        const struct record *record = &file->records[i];

        at = put_bytes(at, &record->head, sizeof record->head);
        at = put_bytes(at, record->bytes, (size_t)record->head.key_size + record->head.value_size);
    }
    memcpy(head.magic, magic, sizeof magic);
    head.checksum = hash_bytes(HASH_START, bytes + sizeof head, file->bytes - sizeof head);
    memcpy(bytes, &head, sizeof head);
    return bytes;
}

static bool write_records(const struct choice_file *file, struct error *err)
{
    unsigned char *bytes = encode(file);
    struct file_writer *writer;
    bool ok;

    if (!bytes)
        return error_set(err, ERROR_NO_MEMORY, "no memory for keeping choices");
    ok = file_writer_create(&writer, file->path, err);
    if (ok && !(file_writer_keep_private(writer, err) &&
                file_writer_append(writer, bytes, file->bytes, err))) {
        file_writer_abandon(writer);
        ok = false;
    } else if (ok) {
        ok = file_writer_commit(writer, err);
    }
    free(bytes);
    return ok;
}

/* An empty set for the same file. */
static struct choice_file empty_like(const struct choice_file *file)
{
    struct choice_file empty = {.path = file->path, .identity = file->identity};

    empty.bytes = sizeof(struct file_head) + sizeof(uint32_t) + strlen(file->identity);
    return empty;
}

bool choice_file_save(struct choice_file *file, struct error *err)
{
    struct choice_file merged = empty_like(file);
    bool ok;

    if (!file->path || !file->has_new)
        return true;
    file->has_new = false;
    read_records(&merged);
    for (size_t i = 0; i < file->count; i++) {
        const struct record *record = &file->records[i];

        if (record->replaces ||
            !find_record(&merged, record->head.kind, record->bytes, record->head.key_size))
            (void)put(&merged, record->head, record->bytes, value_of(record));
    }
    ok = write_records(&merged, err);
    for (size_t i = 0; i < file->count && ok; i++)
        file->records[i].replaces = false;
    forget_records(&merged);
    free(merged.records);
    return ok;
}

/* --- Coming and going --- */

bool choice_file_create(struct choice_file **out, const char *folder, const char *identity,
                        struct error *err)
{
    struct choice_file *file = calloc(1, sizeof *file);
    size_t size = strlen(identity);

    if (!file)
        return error_set(err, ERROR_NO_MEMORY, "no memory for choices");
    file->identity = strndup(identity, CHOICE_PART_BYTES_MAX);
    if (!file->identity)
        goto fail;
    if (folder && asprintf(&file->path, "%s/choices-%016" PRIx64, folder,
                           hash_bytes(HASH_START, identity, size)) < 0) {
        file->path = NULL;
        goto fail;
    }
    file->bytes = empty_like(file).bytes;
    if (file->path)
        read_records(file);
    *out = file;
    return true;

fail:
    choice_file_destroy(file);
    return error_set(err, ERROR_NO_MEMORY, "no memory for choices");
}

void choice_file_destroy(struct choice_file *file)
{
    if (!file)
        return;
    forget_records(file);
    free(file->records);
    free(file->identity);
    free(file->path);
    free(file);
}

const char *choice_file_path(const struct choice_file *file)
{
    return file->path;
}
