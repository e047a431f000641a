#include "convert/manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "weights/json_text.h"
#include "weights/safetensors.h"

#define VERSION 1

void manifest_hash_start(struct manifest_hash *hash)
{
    /* Chooses the processor's fastest code. Where that fails, the slow one hashes as well. */
    const int status = sodium_init();

    (void)status;
    crypto_generichash_init(&hash->state, NULL, 0, MANIFEST_HASH_BYTES);
}

void manifest_hash_add(struct manifest_hash *hash, const void *bytes, size_t size)
{
    crypto_generichash_update(&hash->state, bytes, size);
}

void manifest_hash_end(struct manifest_hash *hash, char text[MANIFEST_TEXT_BYTES])
{
    unsigned char digest[MANIFEST_HASH_BYTES];

    crypto_generichash_final(&hash->state, digest, sizeof digest);
    sodium_bin2hex(text, MANIFEST_TEXT_BYTES, digest, sizeof digest);
}

void manifest_hash_of(char text[MANIFEST_TEXT_BYTES], const void *bytes, size_t size)
{
    struct manifest_hash hash;

    manifest_hash_start(&hash);
    manifest_hash_add(&hash, bytes, size);
    manifest_hash_end(&hash, text);
}

char *manifest_path_beside(const char *model, const char *name)
{
    static const char ending[] = ".safetensors";
    size_t length = strlen(model), tail = sizeof ending - 1;
    char *path;

    if (length > tail && strcmp(model + length - tail, ending) == 0)
        length -= tail;
    return asprintf(&path, "%.*s.%s", (int)length, model, name) < 0 ? NULL : path;
}

char *manifest_path(const char *model)
{
    if (file_is_directory(model))
        return file_join(model, MANIFEST_FILE);
    return manifest_path_beside(model, MANIFEST_FILE);
}

json_t *manifest_create(const char *made_by)
{
    return json_pack("{s:i, s:s, s:s, s:{}}", "version", VERSION, "made_by", made_by, "hash",
                     MANIFEST_HASH, "files");
}

static bool out_of_memory(const char *file, struct error *err)
{
    return error_set(err, ERROR_NO_MEMORY, "manifest: '%s'", file);
}

/* The entry of a file, made when it is not there. Borrowed; NULL when memory is short. */
static json_t *entry_of(json_t *manifest, const char *file)
{
    json_t *files = json_object_get(manifest, "files");

    if (!json_object_get(files, file))
        json_object_set_new(files, file, json_object());
    return json_object_get(files, file);
}

bool manifest_add_tensor(json_t *manifest, const char *file, const char *tensor, const char *hash,
                         struct error *err)
{
    json_t *entry = entry_of(manifest, file);

    if (entry && !json_object_get(entry, "tensors"))
        json_object_set_new(entry, "tensors", json_object());
    if (json_object_set_new(json_object_get(entry, "tensors"), tensor, json_string(hash)) != 0)
        return out_of_memory(file, err);
    return true;
}

bool manifest_add_header(json_t *manifest, const char *file, const char *path, struct error *err)
{
    json_t *entry = entry_of(manifest, file);
    struct safetensors_file *opened;
    char text[MANIFEST_TEXT_BYTES];
    const void *header;
    size_t size, total;
    bool ok;

    if (!safetensors_open(&opened, path, err))
        return false;
    safetensors_header(opened, &header, &size);
    manifest_hash_of(text, header, size);
    total = size;
    for (size_t i = 0; i < safetensors_count(opened); i++)
        total += safetensors_entry_at(opened, i)->bytes;
    ok = json_object_set_new(entry, "bytes", json_integer((json_int_t)total)) == 0 &&
         json_object_set_new(entry, "header", json_string(text)) == 0;
    safetensors_close(opened);
    return ok || out_of_memory(file, err);
}

bool manifest_add_file(json_t *manifest, const char *file, const void *bytes, size_t size,
                       struct error *err)
{
    json_t *entry = entry_of(manifest, file);
    char text[MANIFEST_TEXT_BYTES];

    manifest_hash_of(text, bytes, size);
    if (json_object_set_new(entry, "bytes", json_integer((json_int_t)size)) != 0 ||
        json_object_set_new(entry, "hash", json_string(text)) != 0)
        return out_of_memory(file, err);
    return true;
}

/* A name that stays below the model's folder. */
static bool is_safe_name(const char *name)
{
    if (!*name || name[0] == '/')
        return false;
    for (const char *at = name; *at; at += strcspn(at, "/"), at += *at == '/')
        if (strncmp(at, "..", 2) == 0 && (at[2] == '/' || at[2] == '\0'))
            return false;
    return true;
}

static bool check(const json_t *manifest, struct error *err)
{
    json_t *files = json_object_get(manifest, "files"), *entry;
    const char *hash = json_string_value(json_object_get(manifest, "hash")), *name;

    if (json_integer_value(json_object_get(manifest, "version")) != VERSION)
        return error_set(err, ERROR_BAD_FILE, "it is not of version %d", VERSION);
    if (!hash || strcmp(hash, MANIFEST_HASH) != 0)
        return error_set(err, ERROR_BAD_FILE, "its hashes are not " MANIFEST_HASH);
    if (!json_is_object(files))
        return error_set(err, ERROR_BAD_FILE, "there is no object \"files\"");
    json_object_foreach(files, name, entry)
    {
        if (!is_safe_name(name) || !json_is_object(entry))
            return error_set(err, ERROR_BAD_FILE, "its entry '%.128s' is not one of a file", name);
    }
    return true;
}

bool manifest_read(json_t **out, const char *path, struct error *err)
{
    json_t *manifest = json_text_read(path, err);

    if (!manifest)
        return false;
    if (!check(manifest, err)) {
        json_decref(manifest);
        return error_in(err, "'%s'", path);
    }
    *out = manifest;
    return true;
}
