#include "library/model_identity.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "weights/safetensors.h"
#include "weights/weights.h"

#define VERSION 1 /* of this, and of what conversions make of the same files */
#define NANOSECONDS 1000000000

static bool out_of_memory(struct error *err)
{
    return error_set(err, ERROR_NO_MEMORY, "identity of the model");
}

static bool add_file(json_t *files, const char *folder, const char *path, struct error *err)
{
    const char *slash = strrchr(path, '/');
    struct stat st;
    char *key;
    bool ok;

    if (stat(path, &st) != 0)
        return error_set_errno(err, errno, "looking at '%s'", path);
    if (asprintf(&key, "%s/%s", folder, slash ? slash + 1 : path) < 0)
        return out_of_memory(err);
    ok = json_object_set_new(files, key,
                             json_pack("{s:I, s:I}", "bytes", (json_int_t)st.st_size, "changed",
                                       (json_int_t)st.st_mtim.tv_sec * NANOSECONDS +
                                           (json_int_t)st.st_mtim.tv_nsec)) == 0;
    free(key);
    return ok || out_of_memory(err);
}

static bool add_weights(json_t *files, const struct weights *weights, struct error *err)
{
    const char *folder = model_files_place(weights_component(weights))->folder;
    const struct safetensors_file *file, *before = NULL;

    for (size_t i = 0; i < weights_stored_count(weights); i++) {
        weights_stored_at(weights, i, &file);
        if (file != before && !add_file(files, folder, safetensors_path(file), err))
            return false;
        before = file;
    }
    return true;
}

/* What is there of a model's small files. */
static bool add_optional(json_t *files, const char *model, const char *folder, const char *name,
                         struct error *err)
{
    char *path;
    bool ok;

    if (asprintf(&path, "%s/%s/%s", model, folder, name) < 0)
        return out_of_memory(err);
    ok = !file_is_regular(path) || add_file(files, folder, path, err);
    free(path);
    return ok;
}

static bool add_tokenizer(json_t *files, const char *folder, const char *path, struct error *err)
{
    DIR *directory = opendir(path);
    bool ok = true;

    if (!directory)
        return error_set_errno(err, errno, "opening '%s'", path);
    for (struct dirent *entry = readdir(directory); entry && ok; entry = readdir(directory)) {
        char *file;

        if (entry->d_name[0] == '.')
            continue;
        file = file_join(path, entry->d_name);
        if (!file)
            ok = out_of_memory(err);
        else if (file_is_regular(file))
            ok = add_file(files, folder, file, err);
        free(file);
    }
    closedir(directory);
    return ok;
}

static bool add_component(json_t *list, const struct model_files *files, enum component component,
                          const char *model, struct error *err)
{
    const struct model_place *place = model_files_place(component);

    if (files->component[component] &&
        (!add_weights(list, files->component[component], err) ||
         !add_optional(list, model, place->folder, "config.json", err)))
        return false;
    return !files->tokenizer_directory[component] ||
           add_tokenizer(list, place->tokenizer, files->tokenizer_directory[component], err);
}

bool model_identity(json_t **out, const struct model_files *files, const char *model,
                    struct error *err)
{
    json_t *list = json_object();
    bool ok = list != NULL || out_of_memory(err);

    for (int c = 0; c < COMPONENT_COUNT && ok; c++)
        ok = add_component(list, files, (enum component)c, model, err);
    ok = ok && add_optional(list, model, ".", "model_index.json", err) &&
         add_optional(list, model, "scheduler", "scheduler_config.json", err);
    *out = ok ? json_pack("{s:i, s:O}", "version", VERSION, "files", list) : NULL;
    json_decref(list);
    return *out || (ok && out_of_memory(err));
}
