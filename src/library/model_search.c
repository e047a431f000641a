#include "library/model_search.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/file.h"
#include "base/program.h"
#include "library/hugging_face_cache.h"
#include "weights/json_text.h"
#include "weights/model_files.h"

#define MODEL_INDEX "model_index.json"
#define PIPELINE "StableDiffusion3"
#define DEFAULT_MODEL "demo"
#define NAMED_BYTES 400      /* of the names that a message lists */
#define FILES_OPENED_MAX 256 /* of a folder, to see which are models */

const char *model_origin_name(enum model_origin origin)
{
    static const char *const names[] = {
        [MODEL_AT_PATH] = "path",
        [MODEL_IN_MODELS_DIR] = "models folder",
        [MODEL_IN_CACHE] = "Hugging Face cache",
        [MODEL_BUILT_IN] = "built in",
    };

    return names[origin];
}

void found_model_finish(struct found_model *model)
{
    free(model->path);
    free(model->name);
    *model = (struct found_model){0};
}

static bool out_of_memory(struct error *err)
{
    return error_set(err, ERROR_NO_MEMORY, "looking for the model");
}

/* Takes `path` and `name`, each NULL when memory was short. */
static bool set_found(struct found_model *out, char *path, char *name, enum model_origin origin,
                      struct error *err)
{
    *out = (struct found_model){.path = path, .name = name, .origin = origin};
    if (path && name)
        return true;
    found_model_finish(out);
    return out_of_memory(err);
}

/* --- Lists of names --- */

struct names {
    char **items; /* owned */
    size_t count;
};

static void free_names(struct names *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->items[i]);
    free(names->items);
    *names = (struct names){0};
}

static bool add_name(struct names *names, const char *name, struct error *err)
{
    char **grown = reallocarray(names->items, names->count + 1, sizeof *grown);

    if (!grown)
        return out_of_memory(err);
    names->items = grown;
    grown[names->count] = strdup(name);
    if (!grown[names->count])
        return out_of_memory(err);
    names->count++;
    return true;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "'a', 'b', 'c'", as many as there is room for. */
static void list_names(char text[NAMED_BYTES], const struct names *names)
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

static bool fail_several(const char *place, struct names *names, struct error *err)
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

/* A folder in diffusers' layout that says, or does not deny, that it is for our pipeline. */
static bool is_model_folder(const char *folder)
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

/* Reads headers only. */
static bool check_model(const char *path, bool needs_t5, struct error *err)
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
    struct names names; /* of the entries that are models */
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
        return out_of_memory(err);
    if (file_is_directory(path))
        is_model = is_model_folder(path);
    else if (is_model_file_name(name) && listing->opened++ < FILES_OPENED_MAX &&
             !holds_transformer(path, &is_model, &problem) && !listing->problem.code)
        listing->problem = problem;
    free(path);
    return !is_model || add_name(&listing->names, name, err);
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
        free_names(&listing->names);
    return ok;
}

/* The one model that a folder is or holds: *out is its path, or NULL when there is none. */
static bool find_only(char **out, const char *folder, struct error *err)
{
    struct listing listing;
    bool ok = true;

    *out = NULL;
    if (has_entry(folder, "transformer", file_is_directory) && is_model_folder(folder)) {
        *out = strdup(folder);
        return *out || out_of_memory(err);
    }
    if (!list_folder(&listing, folder, err))
        return false;
    if (listing.names.count > 1) {
        ok = fail_several(folder, &listing.names, err);
    } else if (listing.names.count == 1 || is_model_folder(folder)) {
        *out = listing.names.count ? file_join(folder, listing.names.items[0]) : strdup(folder);
        ok = *out || out_of_memory(err);
    } else if (listing.problem.code) {
        *err = listing.problem;
        ok = error_in(err, "no model in '%s'", folder);
    }
    free_names(&listing.names);
    return ok;
}

/* --- The folder of models --- */

/* A folder that is mounted under a name of its own, as /app/models, is called what the repository
 * is that it was downloaded from, if it says so. */
static char *name_of_folder(const char *folder)
{
    json_t *index = read_index(folder);
    const char *origin = json_string_value(json_object_get(index, "_name_or_path"));
    const char *slash = origin ? strrchr(origin, '/') : NULL, *last = slash ? slash + 1 : origin;
    char *name =
        last && hugging_face_is_name(last, strlen(last)) ? strdup(last) : model_files_name(folder);

    json_decref(index);
    return name;
}

/* False, without an error, when there is none. */
static bool search_folder(struct found_model *out, const char *folder, struct error *err)
{
    char *path, *name;

    if (!find_only(&path, folder, err) || !path)
        return false;
    if (!check_model(path, false, err)) {
        free(path);
        return false;
    }
    name = strcmp(path, folder) == 0 ? name_of_folder(folder) : model_files_name(path);
    return set_found(out, path, name, MODEL_IN_MODELS_DIR, err);
}

/* The same for one entry: "NAME" or "NAME.safetensors". */
static bool search_entry(struct found_model *out, const char *folder, const char *name,
                         struct error *err)
{
    static const char *const endings[] = {"", ".safetensors", ".safetensors.index.json"};

    for (size_t i = 0; i < COUNT_OF(endings); i++) {
        char *path;

        if (asprintf(&path, "%s/%s%s", folder, name, endings[i]) < 0)
            return out_of_memory(err);
        if (access(path, F_OK) == 0)
            return set_found(out, path, model_files_name(path), MODEL_IN_MODELS_DIR, err);
        free(path);
    }
    return false;
}

/* --- The cache --- */

/* A repository that a server without --model would draw with. */
static bool is_candidate(const struct hugging_face_repo *repo)
{
    struct listing listing;
    bool is_model = is_model_folder(repo->snapshot);

    if (is_model || !strcasestr(repo->id, "stable-diffusion-3"))
        return is_model;
    if (!list_folder(&listing, repo->snapshot, NULL))
        return false;
    is_model = listing.names.count > 0;
    free_names(&listing.names);
    return is_model;
}

static bool open_snapshot(struct found_model *out, const struct hugging_face_repo *repo,
                          struct error *err)
{
    char *path;

    if (!find_only(&path, repo->snapshot, err))
        return false;
    if (!path)
        return error_set(err, ERROR_BAD_FILE,
                         "the Hugging Face cache holds '%s' without a Stable Diffusion 3 model: "
                         "'%s'",
                         repo->id, repo->snapshot);
    if (check_model(path, repo->unfinished > 0, err))
        return set_found(out, path, model_files_name(path), MODEL_IN_CACHE, err);
    free(path);
    if (repo->unfinished > 0)
        return error_in(err,
                        "the download of '%s' has not ended (%d unfinished files in the cache): "
                        "download it again",
                        repo->id, repo->unfinished);
    return error_in(err, "'%s' in the Hugging Face cache", repo->id);
}

/* Of those repositories that `wants` says yes to. */
static bool choose_repo(struct found_model *out, const char *cache,
                        const struct hugging_face_repo *repos, size_t count, bool by_name,
                        struct error *err)
{
    const struct hugging_face_repo *chosen = NULL;
    struct names names = {0};
    bool ok = true;

    for (size_t i = 0; i < count && ok; i++)
        if (by_name || is_candidate(&repos[i])) {
            chosen = &repos[i];
            ok = add_name(&names, repos[i].id, err);
        }
    if (ok && names.count > 1)
        ok = fail_several(cache, &names, err);
    else if (ok)
        ok = chosen && open_snapshot(out, chosen, err);
    free_names(&names);
    return ok;
}

/* `name` NULL: any. False, without an error, when there is none. */
static bool search_cache(struct found_model *out, const char *name, struct error *err)
{
    struct hugging_face_repo *repos;
    size_t count;
    char *cache;
    bool ok;

    if (!hugging_face_cache_find(&cache, err) || !cache)
        return false;
    ok = hugging_face_cache_list(&repos, &count, cache, name, err);
    if (ok) {
        ok = choose_repo(out, cache, repos, count, name != NULL, err);
        hugging_face_repos_free(repos, count);
    }
    free(cache);
    return ok;
}

/* --- What was installed with the program --- */

/* False, without an error, when there is none. */
static bool search_built_in(struct found_model *out, const char *name, struct error *err)
{
    const char *asked = getenv("SD35_DEMO_DIR");
    char program[PROGRAM_PATH_BYTES], *folders[2] = {NULL, NULL};
    bool is_found = false;

    program_folder(program);
    if (asked && *asked) { /* nothing else then: who names a folder means it */
        folders[0] = strdup(asked);
    } else if (asprintf(&folders[0], "%s/../share/sd35/models", program) < 0) {
        folders[0] = NULL;
    } else {
        folders[1] = strdup(SD35_DATA_DIR "/models");
    }
    for (size_t i = 0; i < COUNT_OF(folders) && !is_found; i++) {
        char *path = folders[i] ? file_join(folders[i], name) : NULL;

        if (path && is_model_folder(path)) {
            is_found = set_found(out, path, strdup(name), MODEL_BUILT_IN, err);
            path = NULL;
        }
        free(path);
    }
    free(folders[0]);
    free(folders[1]);
    return is_found;
}

/* --- The search --- */

/* "NAME", or "ORG/NAME". */
static bool is_name(const char *wanted)
{
    const char *slash = strchr(wanted, '/');

    if (!slash)
        return hugging_face_is_name(wanted, strlen(wanted));
    return hugging_face_is_name(wanted, (size_t)(slash - wanted)) &&
           hugging_face_is_name(slash + 1, strlen(slash + 1));
}

static bool search_path(struct found_model *out, const char *path, struct error *err)
{
    return set_found(out, strdup(path), model_files_name(path), MODEL_AT_PATH, err);
}

/* Something is there, or cannot be looked at: whoever opens it will say what is wrong with it. */
static bool is_path(const char *wanted)
{
    return access(wanted, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

static bool search_name(struct found_model *out, const char *name, const char *models_dir,
                        struct error *err)
{
    bool has_slash = strchr(name, '/') != NULL;

    if (models_dir && search_entry(out, models_dir, name, err))
        return true;
    if (!err->code && search_cache(out, name, err))
        return true;
    if (!err->code && !has_slash && search_built_in(out, name, err))
        return true;
    return err->code ? false
                     : error_set(err, ERROR_BAD_REQUEST,
                                 "no model at '%s', nor one of this name in %s%s%sthe Hugging Face "
                                 "cache",
                                 name, models_dir ? "'" : "", models_dir ? models_dir : "",
                                 models_dir ? "' or " : "");
}

static bool search_any(struct found_model *out, const char *models_dir, struct error *err)
{
    if (models_dir && search_folder(out, models_dir, err))
        return true;
    if (!err->code && search_cache(out, NULL, err))
        return true;
    if (!err->code && search_built_in(out, DEFAULT_MODEL, err))
        return true;
    return err->code ? false
                     : error_set(err, ERROR_BAD_REQUEST,
                                 "--model is missing: name the model's folder or file");
}

bool model_search(struct found_model *out, const char *wanted, const char *models_dir,
                  struct error *err)
{
    struct error found = {0};
    bool ok;

    *out = (struct found_model){0};
    if (!wanted || !*wanted)
        ok = search_any(out, models_dir, &found);
    else if (is_path(wanted))
        ok = search_path(out, wanted, &found);
    else if (is_name(wanted))
        ok = search_name(out, wanted, models_dir, &found);
    else
        ok = error_set(&found, ERROR_BAD_REQUEST, "no model at '%s'", wanted);
    if (!ok && err)
        *err = found;
    return ok;
}
