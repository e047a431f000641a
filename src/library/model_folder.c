#include "library/model_folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "library/hugging_face_cache.h"
#include "weights/json_text.h"
#include "weights/model_files.h"

#define MODEL_INDEX "model_index.json"
#define PIPELINE "StableDiffusion3"
#define NAMED_BYTES 400      /* of the names that a message lists */
#define FILES_OPENED_MAX 256 /* of a folder, to see which are models */

/* --- Lists of names --- */

void model_names_finish(struct model_names *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->items[i]);
    free(names->items);
    *names = (struct model_names){0};
}

bool model_names_add(struct model_names *names, const char *name, struct error *err)
{
    char **grown = reallocarray(names->items, names->count + 1, sizeof *grown);

    if (!grown)
        return model_folder_no_memory(err);
    names->items = grown;
    grown[names->count] = strdup(name);
    if (!grown[names->count])
        return model_folder_no_memory(err);
    names->count++;
    return true;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "'a', 'b', 'c'", as many as there is room for. */
static void list_names(char text[NAMED_BYTES], const struct model_names *names)
{
    size_t at = 0;

    text[0] = '\0';
    for (size_t i = 0; i < names->count; i++) {
        const char *separator = i == 0 ? "" : ", ";

        if (at + strlen(names->items[i]) + 10 > NAMED_BYTES) {
            snprintf(text + at, NAMED_BYTES - at, "%s...", separator);
            return;
        }
        at += (size_t)snprintf(text + at, NAMED_BYTES - at, "%s'%s'", separator, names->items[i]);
    }
}

bool model_names_fail(const char *place, struct model_names *names, struct error *err)
{
    char text[NAMED_BYTES];

    qsort(names->items, names->count, sizeof *names->items, compare_names);
    list_names(text, names);
    return error_set(err, ERROR_BAD_REQUEST, "there are %zu models in '%s': choose with --model %s",
                     names->count, place, text);
}

/* --- What a model looks like --- */

static bool has_entry(const char *folder, const char *name, bool (*is_kind)(const char *path))
{
    char *path = file_join(folder, name);
    bool has = path && is_kind(path);

    free(path);
    return has;
}

static bool ends_with(const char *name, const char *ending)
{
    size_t length = strlen(name), tail = strlen(ending);

    return length > tail && strcmp(name + length - tail, ending) == 0;
}

/* The file model_index.json of a folder, as far as it is one; NULL: none. */
static json_t *read_index(const char *folder)
{
    char *path = file_join(folder, MODEL_INDEX);
    json_t *index = path && file_is_regular(path) ? json_text_read(path, NULL) : NULL;

    free(path);
    return index;
}

bool model_folder_is_model(const char *folder)
{
    json_t *index = read_index(folder);
    const char *name = json_string_value(json_object_get(index, "_class_name"));
    bool is_model = name ? strncmp(name, PIPELINE, strlen(PIPELINE)) == 0
                         : has_entry(folder, "transformer", file_is_directory);

    json_decref(index);
    return is_model;
}

/* "x-00002-of-00003.safetensors" */
static bool is_shard(const char *name)
{
    int end = 0;
    const char *at = strstr(name, "-of-");

    return at && at - name >= 6 && sscanf(at - 6, "-%*5d-of-%*5d.safetensors%n", &end) == 0 && end;
}

static bool is_model_file_name(const char *name)
{
    return (ends_with(name, ".safetensors") && !is_shard(name)) ||
           ends_with(name, ".safetensors.index.json");
}

/* --- Whether it is whole --- */

/* model_index.json names the part, but its weights are not there. T5 may be left out. */
static bool is_missing(const json_t *index, const struct model_files *files, int c)
{
    const json_t *entry = json_object_get(index, model_files_place((enum component)c)->folder);

    return !files->component[c] && json_is_string(json_array_get(entry, 1));
}

static bool check_parts(const struct model_files *files, const char *path, bool needs_t5,
                        struct error *err)
{
    json_t *index = file_is_directory(path) ? read_index(path) : NULL;
    bool ok = true;

    for (int c = 0; c < COMPONENT_COUNT && ok; c++)
        if (is_missing(index, files, c) && (c != COMPONENT_T5 || needs_t5))
            ok = error_set(err, ERROR_BAD_FILE, "'%s' is not whole: there are no weights in '%s'",
                           path, model_files_place((enum component)c)->folder);
    json_decref(index);
    if (ok && !files->component[COMPONENT_TRANSFORMER])
        ok = error_set(err, ERROR_BAD_FILE, "'%s' holds no transformer", path);
    return ok;
}

bool model_folder_check(const char *path, bool needs_t5, struct error *err)
{
    struct model_files *files;
    bool ok;

    if (!model_files_open(&files, &(struct model_paths){.model = path}, err))
        return false;
    ok = check_parts(files, path, needs_t5, err);
    model_files_close(files);
    return ok;
}

/* A text encoder's file, or a VAE's, is no model, and nothing is wrong with it. */
static bool holds_transformer(const char *path, bool *holds, struct error *err)
{
    struct model_files *files;

    *holds = false;
    if (!model_files_open(&files, &(struct model_paths){.model = path}, err))
        return false;
    *holds = files->component[COMPONENT_TRANSFORMER] != NULL;
    model_files_close(files);
    return true;
}

/* --- The models of a folder --- */

struct listing {
    struct model_names names; /* of the entries that are models */
    int opened;
    struct error problem; /* the first with what might be one */
};

static bool list_entry(struct listing *listing, const char *folder, const char *name,
                       struct error *err)
{
    struct error problem = {0};
    char *path;
    bool is_model = false;

    if (name[0] == '.')
        return true;
    path = file_join(folder, name);
    if (!path)
        return model_folder_no_memory(err);
    if (file_is_directory(path))
        is_model = model_folder_is_model(path);
    else if (is_model_file_name(name) && listing->opened++ < FILES_OPENED_MAX &&
             !holds_transformer(path, &is_model, &problem) && !listing->problem.code)
        listing->problem = problem;
    free(path);
    return !is_model || model_names_add(&listing->names, name, err);
}

/* A folder that is not there has none. */
static bool list_folder(struct listing *listing, const char *folder, struct error *err)
{
    DIR *directory = opendir(folder);
    bool ok = true;

    *listing = (struct listing){0};
    if (!directory)
        return errno == ENOENT || error_set_errno(err, errno, "looking for models in '%s'", folder);
    for (struct dirent *entry = readdir(directory); entry && ok; entry = readdir(directory))
        ok = list_entry(listing, folder, entry->d_name, err);
    closedir(directory);
    if (!ok)
        model_names_finish(&listing->names);
    return ok;
}

bool model_folder_find(char **out, const char *folder, struct error *err)
{
    struct listing listing;
    bool ok = true;

    *out = NULL;
    if (has_entry(folder, "transformer", file_is_directory) && model_folder_is_model(folder)) {
        *out = strdup(folder);
        return *out || model_folder_no_memory(err);
    }
    if (!list_folder(&listing, folder, err))
        return false;
    if (listing.names.count > 1) {
        ok = model_names_fail(folder, &listing.names, err);
    } else if (listing.names.count == 1 || model_folder_is_model(folder)) {
        *out = listing.names.count ? file_join(folder, listing.names.items[0]) : strdup(folder);
        ok = *out || model_folder_no_memory(err);
    } else if (listing.problem.code) {
        *err = listing.problem;
        ok = error_in(err, "no model in '%s'", folder);
    }
    model_names_finish(&listing.names);
    return ok;
}

bool model_folder_has_models(const char *folder)
{
    struct listing listing;
    bool has;

    if (!list_folder(&listing, folder, NULL))
        return false;
    has = listing.names.count > 0;
    model_names_finish(&listing.names);
    return has;
}

/* --- Its name --- */

char *model_folder_name(const char *folder)
{
    json_t *index = read_index(folder);
    const char *origin = json_string_value(json_object_get(index, "_name_or_path"));
    const char *slash = origin ? strrchr(origin, '/') : NULL, *last = slash ? slash + 1 : origin;
    char *name =
        last && hugging_face_is_name(last, strlen(last)) ? strdup(last) : model_files_name(folder);

    json_decref(index);
    return name;
}
