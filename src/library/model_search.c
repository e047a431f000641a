#include "library/model_search.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/program.h"
#include "library/hugging_face_cache.h"
#include "library/model_folder.h"
#include "weights/model_files.h"

#define DEFAULT_MODEL "demo"

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

/* Takes `path` and `name`, each NULL when memory was short. */
static bool set_found(struct found_model *out, char *path, char *name, enum model_origin origin,
                      struct error *err)
{
    if (path && name) {
        *out = (struct found_model){.path = path, .name = name, .origin = origin};
        return true;
    }
    free(path);
    free(name);
    return model_folder_no_memory(err);
}

/* --- The folder of models --- */

/* False, without an error, when there is none. */
static bool search_folder(struct found_model *out, const char *folder, struct error *err)
{
    char *path, *name;

    if (!model_folder_find(&path, folder, err) || !path)
        return false;
    if (!model_folder_check(path, false, err)) {
        free(path);
        return false;
    }
    name = strcmp(path, folder) == 0 ? model_folder_name(folder) : model_files_name(path);
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
            return model_folder_no_memory(err);
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
    return model_folder_is_model(repo->snapshot) ||
           (strcasestr(repo->id, "stable-diffusion-3") && model_folder_has_models(repo->snapshot));
}

static bool open_snapshot(struct found_model *out, const struct hugging_face_repo *repo,
                          struct error *err)
{
    char *path;

    if (!model_folder_find(&path, repo->snapshot, err))
        return false;
    if (!path)
        return error_set(err, ERROR_BAD_FILE,
                         "the Hugging Face cache holds '%s' without a Stable Diffusion 3 model: "
                         "'%s'",
                         repo->id, repo->snapshot);
    if (model_folder_check(path, repo->unfinished > 0, err))
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
    struct model_names names = {0};
    bool ok = true;

    for (size_t i = 0; i < count && ok; i++)
        if (by_name || is_candidate(&repos[i])) {
            chosen = &repos[i];
            ok = model_names_add(&names, repos[i].id, err);
        }
    if (ok && names.count > 1)
        ok = model_names_fail(cache, &names, err);
    else if (ok)
        ok = chosen && open_snapshot(out, chosen, err);
    model_names_finish(&names);
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

        if (path && model_folder_is_model(path)) {
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
