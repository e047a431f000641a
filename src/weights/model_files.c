#include "weights/model_files.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "weights/json_text.h"
#include "weights/model_facts.h"
#include "weights/names.h"
#include "weights/safetensors.h"
#include "weights/shard_index.h"
#include "weights/weights_build.h"

#define DEFAULT_FLOW_SHIFT 3.0

static const struct model_place places[COMPONENT_COUNT] = {
    [COMPONENT_TRANSFORMER] = {"transformer", "diffusion_pytorch_model", NULL},
    [COMPONENT_VAE] = {"vae", "diffusion_pytorch_model", NULL},
    [COMPONENT_CLIP_L] = {"text_encoder", "model", "tokenizer"},
    [COMPONENT_CLIP_G] = {"text_encoder_2", "model", "tokenizer_2"},
    [COMPONENT_T5] = {"text_encoder_3", "model", "tokenizer_3"},
};

/* The file, or the shards, that one path stands for. */
struct opened {
    const char *path;
    struct safetensors_file **files;
    size_t count;
    json_t *facts; /* that they carry; NULL: none */
};

const struct model_place *model_files_place(enum component component)
{
    return &places[component];
}

static void close_files(struct opened *opened)
{
    for (size_t i = 0; i < opened->count; i++)
        safetensors_close(opened->files[i]);
    free(opened->files);
    json_decref(opened->facts);
    *opened = (struct opened){0};
}

#define START_BYTES 16

/* The first bytes of a file; fewer when it is shorter. */
static bool read_start(unsigned char start[START_BYTES], size_t *size, const char *path,
                       struct error *err)
{
    FILE *file;

    if (!file_is_regular(path))
        return error_set(err, ERROR_BAD_REQUEST, "no model at '%s'", path);
    file = fopen(path, "rbe");
    if (!file)
        return error_set_errno(err, errno, "opening '%s'", path);
    *size = fread(start, 1, START_BYTES, file);
    fclose(file);
    return true;
}

/* An index is JSON text. A safetensors file has '{' too, but after the eight bytes of a length. */
static bool is_index(const unsigned char *start, size_t size)
{
    if (size > 8 && start[8] == '{' && start[7] == 0)
        return false;
    return size > 1 && start[0] == '{' && (isspace(start[1]) || start[1] == '"' || start[1] == '}');
}

/* Formats that people have and that we do not read. */
static bool refuse_other_format(const unsigned char *start, size_t size, const char *path,
                                struct error *err)
{
    static const struct {
        const char *magic, *name;
    } others[] = {
        {"GGUF", "a GGUF file"},
        {"PK\003\004", "a PyTorch checkpoint"},
        {"\200\002", "a pickle"},
    };

    for (size_t i = 0; i < COUNT_OF(others); i++) {
        size_t length = strlen(others[i].magic);

        if (size >= length && memcmp(start, others[i].magic, length) == 0)
            return error_set(err, ERROR_BAD_FILE, "'%s' is %s; only safetensors files are read",
                             path, others[i].name);
    }
    return true;
}

static bool open_tensors(struct opened *out, const char *path, struct error *err)
{
    unsigned char start[START_BYTES];
    size_t size = 0;

    if (!read_start(start, &size, path, err) || !refuse_other_format(start, size, path, err))
        return false;
    if (is_index(start, size))
        return shard_index_open(&out->files, &out->count, path, err);
    out->files = calloc(1, sizeof(struct safetensors_file *));
    if (!out->files)
        return error_set(err, ERROR_NO_MEMORY, "'%s'", path);
    if (!safetensors_open(&out->files[0], path, err)) {
        free(out->files);
        out->files = NULL;
        return false;
    }
    out->count = 1;
    return true;
}

static bool open_files(struct opened *out, const char *path, struct error *err)
{
    *out = (struct opened){.path = path};
    if (!open_tensors(out, path, err))
        return false;
    if (model_facts_read(&out->facts, out->files, out->count, err))
        return true;
    close_files(out);
    return false;
}

/* The files under a prefix, for names_detect. */
struct view {
    const struct opened *opened;
    const char *prefix;
};

static bool view_has(const void *context, const char *stored)
{
    const struct view *view = context;
    char name[SAFETENSORS_NAME_BYTES_MAX * 2];

    snprintf(name, sizeof name, "%s%s", view->prefix, stored);
    for (size_t i = 0; i < view->opened->count; i++)
        if (safetensors_find(view->opened->files[i], name))
            return true;
    return false;
}

static int recognise(const struct opened *opened, enum component component, const char *prefix)
{
    const struct view view = {opened, prefix};
    struct names names;

    return names_detect(&names, component, view_has, &view);
}

/* The prefix of the component in these files, "" for bare names, or NULL when it is not there. */
static const char *find_prefix(const struct opened *opened, enum component component)
{
    for (int i = 0; names_prefix(component, i); i++)
        if (recognise(opened, component, names_prefix(component, i)) > 0)
            return names_prefix(component, i);
    return recognise(opened, component, "") > 0 ? "" : NULL;
}

static bool is_turbo_name(const char *name)
{
    return name && strcasestr(name, "turbo");
}

/* Puts the component into `files`, in place of what was there. Takes `config`; without one, the
 * files may carry it. */
static bool add_component(struct model_files *files, enum component component,
                          const struct opened *opened, const char *prefix, json_t *config,
                          struct error *err)
{
    struct weights *weights;

    if (!config)
        config = model_facts_config(opened->facts, places[component].folder);
    if (component == COMPONENT_TRANSFORMER)
        files->is_turbo = is_turbo_name(json_string_value(json_object_get(opened->facts, "name")));
    if (!weights_create(&weights, component, opened->path, err)) {
        json_decref(config);
        return false;
    }
    weights_set_config(weights, config);
    for (size_t i = 0; i < opened->count; i++)
        if (!weights_add_file(weights, opened->files[i], prefix, err))
            goto fail;
    if (!weights_finish(weights, err))
        goto fail;
    weights_destroy(files->component[component]);
    files->component[component] = weights;
    return true;

fail:
    weights_destroy(weights);
    return false;
}

/* A file that is said to hold this one component. */
static bool open_component(struct model_files *files, enum component component, const char *path,
                           json_t *config, struct error *err)
{
    struct opened opened;
    const char *prefix;
    bool is_good;

    if (!open_files(&opened, path, err)) {
        json_decref(config);
        return false;
    }
    prefix = find_prefix(&opened, component);
    is_good = add_component(files, component, &opened, prefix ? prefix : "", config, err);
    close_files(&opened);
    return is_good;
}

/* --- one file with several components --- */

/* CLIP-L and CLIP-G have the same names. Without a prefix to tell, CLIP-G has the layers for it. */
static bool is_clip_g(const struct opened *opened)
{
    const struct view view = {opened, ""};

    return view_has(&view, "text_model.encoder.layers.30.layer_norm1.weight") ||
           view_has(&view, "transformer.resblocks.30.ln_1.weight");
}

static bool add_file_components(struct model_files *files, const struct opened *opened,
                                struct error *err)
{
    int count = 0;

    for (int c = 0; c < COMPONENT_COUNT; c++) {
        const enum component component = (enum component)c;
        const char *prefix = find_prefix(opened, component);

        if (!prefix || (!*prefix && component == COMPONENT_CLIP_L && is_clip_g(opened)) ||
            (!*prefix && component == COMPONENT_CLIP_G && !is_clip_g(opened)))
            continue;
        if (!add_component(files, component, opened, prefix, NULL, err))
            return false;
        count++;
    }
    if (count == 0)
        return error_set(
            err, ERROR_BAD_FILE,
            "'%s' holds no part of a Stable Diffusion 3 model; its first tensor is '%s'",
            opened->path,
            safetensors_count(opened->files[0]) ? safetensors_entry_at(opened->files[0], 0)->name
                                                : "(none)");
    return true;
}

static bool open_single(struct model_files *files, const char *path, struct error *err)
{
    struct opened opened;
    bool is_good;

    if (!open_files(&opened, path, err))
        return false;
    is_good = add_file_components(files, &opened, err);
    if (json_object_get(opened.facts, "flow_shift"))
        files->flow_shift = json_number_value(json_object_get(opened.facts, "flow_shift"));
    close_files(&opened);
    return is_good;
}

/* --- a diffusers folder --- */

/* The weights file in a component's folder, or the index of its shards. Variants come last. NULL:
 * none there, or, with *out_of_memory, nobody knows. The caller frees it. */
static char *find_weights_file(const char *folder, const char *file, bool *out_of_memory)
{
    static const char *const endings[] = {
        ".safetensors",      ".safetensors.index.json",
        ".fp16.safetensors", ".safetensors.index.fp16.json",
        ".bf16.safetensors", ".safetensors.index.bf16.json",
    };

    for (size_t i = 0; i < COUNT_OF(endings); i++) {
        char *path;

        if (asprintf(&path, "%s/%s%s", folder, file, endings[i]) < 0) {
            *out_of_memory = true;
            return NULL;
        }
        if (file_is_regular(path))
            return path;
        free(path);
    }
    return NULL;
}

/* *out = the JSON object in `folder`/`name`; NULL when there is no such file. */
static bool read_optional_json(json_t **out, const char *folder, const char *name,
                               struct error *err)
{
    char *path = file_join(folder, name);
    bool is_good = true;

    *out = NULL;
    if (!path)
        return error_set(err, ERROR_NO_MEMORY, "'%s'", folder);
    if (access(path, F_OK) == 0) {
        *out = json_text_read(path, err);
        is_good = *out != NULL;
    }
    free(path);
    return is_good;
}

/* A component that is not there, or has no weights, is no failure. */
static bool open_folder_component(struct model_files *files, enum component component,
                                  const char *model, struct error *err)
{
    char *folder = file_join(model, places[component].folder);
    bool out_of_memory = folder == NULL;
    json_t *config = NULL;
    char *path = NULL;
    bool is_good = true;

    if (folder)
        path = find_weights_file(folder, places[component].file, &out_of_memory);
    if (out_of_memory)
        is_good = error_set(err, ERROR_NO_MEMORY, "'%s'", model);
    else if (path)
        is_good = read_optional_json(&config, folder, "config.json", err) &&
                  open_component(files, component, path, config, err);
    free(path);
    free(folder);
    return is_good;
}

/* model_index.json names a component that is left out as [null, null]. */
static bool is_left_out(const json_t *index, const char *component)
{
    const json_t *entry = json_object_get(index, component);

    return json_is_null(entry) || (json_is_array(entry) && json_array_size(entry) > 0 &&
                                   json_is_null(json_array_get(entry, json_array_size(entry) - 1)));
}

static bool check_pipeline(const json_t *index, const char *model, struct error *err)
{
    const char *name = json_string_value(json_object_get(index, "_class_name"));

    if (name && strncmp(name, "StableDiffusion3", strlen("StableDiffusion3")) != 0)
        return error_set(err, ERROR_BAD_FILE, "'%s' is a %.64s, not a StableDiffusion3Pipeline",
                         model, name);
    return true;
}

static bool read_flow_shift(double *out, const char *model, struct error *err)
{
    char *folder = file_join(model, "scheduler");
    json_t *config = NULL, *shift;
    bool is_good = true;

    if (!folder)
        return error_set(err, ERROR_NO_MEMORY, "'%s'", model);
    if (!read_optional_json(&config, folder, "scheduler_config.json", err)) {
        free(folder);
        return false;
    }
    shift = json_object_get(config, "shift");
    if (json_is_number(shift)) {
        *out = json_number_value(shift);
        if (!(*out > 0.0) || !isfinite(*out))
            is_good = error_set(err, ERROR_BAD_FILE,
                                "'%s/scheduler_config.json': shift is not above 0", folder);
    }
    json_decref(config);
    free(folder);
    return is_good;
}

static bool open_folder(struct model_files *files, const char *model, struct error *err)
{
    json_t *index;
    char *transformer;
    bool is_model, is_good = true;

    if (!read_optional_json(&index, model, "model_index.json", err))
        return false;
    transformer = file_join(model, places[COMPONENT_TRANSFORMER].folder);
    is_model = index || (transformer && file_is_directory(transformer));
    free(transformer);
    if (!is_model)
        return error_set(err, ERROR_BAD_FILE,
                         "'%s' is no model folder: it has neither model_index.json nor transformer",
                         model);
    is_good = check_pipeline(index, model, err) && read_flow_shift(&files->flow_shift, model, err);
    for (int c = 0; c < COMPONENT_COUNT && is_good; c++)
        if (!is_left_out(index, places[c].folder))
            is_good = open_folder_component(files, (enum component)c, model, err);
    json_decref(index);
    return is_good;
}

/* --- the whole --- */

static char *trimmed_path(const char *path)
{
    size_t length = strlen(path);

    while (length > 1 && path[length - 1] == '/')
        length--;
    return strndup(path, length);
}

/* What a folder of Hugging Face's cache holds, ".../models--ORG--NAME/snapshots/COMMIT": NAME,
 * which ends at *end. NULL: it is no such folder. */
static const char *snapshot_name(const char *real, const char **end)
{
    const char *last = strrchr(real, '/'), *start, *separator;

    *end = last ? memrchr(real, '/', (size_t)(last - real)) : NULL;
    if (!*end || strncmp(*end, "/snapshots/", strlen("/snapshots/")) != 0)
        return NULL;
    start = memrchr(real, '/', (size_t)(*end - real));
    if (!start || strncmp(start, "/models--", strlen("/models--")) != 0)
        return NULL;
    start += strlen("/models--");
    separator = memmem(start, (size_t)(*end - start), "--", 2);
    return separator ? separator + 2 : start;
}

char *model_files_name(const char *path)
{
    static const char *const endings[] = {".safetensors.index.json", ".safetensors"};
    char *trimmed = trimmed_path(path), *name;
    char *real = realpath(path, NULL); /* "." and ".." have a name too */
    const char *last = trimmed ? trimmed : "", *end = NULL, *snapshot;

    if (strrchr(last, '/'))
        last = strrchr(last, '/') + 1;
    snapshot = real ? snapshot_name(real, &end) : NULL;
    if (real && (strcmp(last, ".") == 0 || strcmp(last, "..") == 0))
        last = strrchr(real, '/') + 1;
    name = snapshot ? strndup(snapshot, (size_t)(end - snapshot)) : strdup(last);
    free(real);
    free(trimmed);
    for (size_t i = 0; name && i < COUNT_OF(endings); i++) {
        size_t length = strlen(name), tail = strlen(endings[i]);

        if (length > tail && strcmp(name + length - tail, endings[i]) == 0)
            name[length - tail] = '\0';
    }
    return name;
}

static bool open_model(struct model_files *files, const char *path, struct error *err)
{
    struct stat st;

    if (stat(path, &st) != 0) {
        if (errno == ENOENT || errno == ENOTDIR)
            return error_set(err, ERROR_BAD_REQUEST, "no model at '%s'", path);
        return error_set_errno(err, errno, "opening '%s'", path);
    }
    if (S_ISDIR(st.st_mode))
        return open_folder(files, path, err);
    if (S_ISREG(st.st_mode))
        return open_single(files, path, err);
    return error_set(err, ERROR_BAD_FILE, "'%s' is neither a file nor a folder", path);
}

static bool open_separate_files(struct model_files *files, const struct model_paths *paths,
                                struct error *err)
{
    const struct {
        enum component component;
        const char *path;
    } separate[] = {
        {COMPONENT_VAE, paths->vae},
        {COMPONENT_CLIP_L, paths->clip_l},
        {COMPONENT_CLIP_G, paths->clip_g},
        {COMPONENT_T5, paths->t5},
    };

    for (size_t i = 0; i < COUNT_OF(separate); i++)
        if (separate[i].path &&
            !open_component(files, separate[i].component, separate[i].path, NULL, err))
            return false;
    return true;
}

/* The folder that a file lies in. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

static bool find_tokenizers(struct model_files *files, const char *model, const char *given,
                            struct error *err)
{
    char *folder = given                      ? strdup(given)
                   : file_is_directory(model) ? strdup(model)
                                              : folder_of(model);
    bool is_good = folder != NULL;

    if (given && !file_is_directory(given)) {
        free(folder);
        return error_set(err, ERROR_BAD_REQUEST, "no tokenizers at '%s'", given);
    }
    for (int c = 0; c < COMPONENT_COUNT && is_good; c++) {
        char *path;

        if (!places[c].tokenizer)
            continue;
        path = file_join(folder, places[c].tokenizer);
        is_good = path != NULL;
        if (path && file_is_directory(path))
            files->tokenizer_directory[c] = path;
        else
            free(path);
    }
    free(folder);
    return is_good || error_set(err, ERROR_NO_MEMORY, "'%s'", model);
}

bool model_files_open(struct model_files **out, const struct model_paths *paths, struct error *err)
{
    struct model_files *files;
    char *model;

    if (!paths->model || !*paths->model)
        return error_set(err, ERROR_BAD_REQUEST, "no model was named");
    files = calloc(1, sizeof *files);
    model = trimmed_path(paths->model);
    if (!files || !model) {
        error_set(err, ERROR_NO_MEMORY, "'%s'", paths->model);
        goto fail;
    }
    files->flow_shift = DEFAULT_FLOW_SHIFT;
    if (!open_model(files, model, err) || !open_separate_files(files, paths, err) ||
        !find_tokenizers(files, model, paths->tokenizers, err))
        goto fail;
    files->name = paths->name ? strdup(paths->name) : model_files_name(model);
    if (!files->name) {
        error_set(err, ERROR_NO_MEMORY, "'%s'", model);
        goto fail;
    }
    files->is_turbo = files->is_turbo || is_turbo_name(files->name);
    free(model);
    *out = files;
    return true;

fail:
    free(model);
    model_files_close(files);
    return false;
}

void model_files_close(struct model_files *files)
{
    if (!files)
        return;
    for (int c = 0; c < COMPONENT_COUNT; c++) {
        weights_destroy(files->component[c]);
        free(files->tokenizer_directory[c]);
    }
    free(files->name);
    free(files);
}
