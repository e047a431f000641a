#include "library/kept_fp8.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "convert/convert.h"
#include "convert/manifest.h"
#include "convert/staging.h"
#include "library/model_identity.h"
#include "weights/json_text.h"

#define FOLDER ".sd35"
#define PLACES_MAX 2
#define WAIT_NANOSECONDS 200000000
#define CONVERT_SHARE 0.9 /* of the progress; the rest is for the hashes of the source */
#define PERCENT_BYTES 4   /* in the lock: "042\n" */

struct keeper {
    const struct kept_fp8_options *options;
    const struct kept_fp8_callbacks *callbacks;
    struct model_paths paths;
    json_t *identity; /* of the source */
    double started;
    char *target; /* where the copy is tried */
    int lock_fd;  /* -1: not held */
};

static bool out_of_memory(struct error *err)
{
    return error_set(err, ERROR_NO_MEMORY, "FP8 copy of the model");
}

static void tell(const struct keeper *keeper, enum kept_fp8_stage stage, double fraction,
                 const char *text)
{
    const struct kept_fp8_progress now = {
        .stage = stage,
        .text = text,
        .fraction = fraction,
        .seconds = seconds_now() - keeper->started,
    };

    keeper->callbacks->tell(keeper->callbacks->context, &now);
}

static bool is_stopped(const struct keeper *keeper)
{
    return keeper->callbacks->stop && atomic_load(keeper->callbacks->stop);
}

/* --- The source --- */

static bool is_fp8(const struct weights *weights)
{
    const struct safetensors_file *file;

    for (size_t i = 0; i < weights_stored_count(weights); i++) {
        enum safetensors_dtype dtype = weights_stored_at(weights, i, &file)->dtype;

        if (dtype == SAFETENSORS_F8_E4M3 || dtype == SAFETENSORS_F8_E5M2)
            return true;
    }
    return false;
}

/* *needs_copy: its transformer has no FP8 weights yet. */
static bool look_at_source(struct keeper *keeper, bool *needs_copy, struct error *err)
{
    struct model_files *files;
    const struct weights *transformer;
    bool ok = true;

    if (!model_files_open(&files, &keeper->paths, err))
        return false;
    transformer = files->component[COMPONENT_TRANSFORMER];
    *needs_copy = !transformer || !is_fp8(transformer);
    if (*needs_copy)
        ok = model_identity(&keeper->identity, files, keeper->paths.model, err);
    model_files_close(files);
    return ok;
}

/* --- A copy that is there --- */

static bool has_origin(const struct keeper *keeper)
{
    char *path = file_join(keeper->target, CONVERT_ORIGIN_FILE);
    json_t *origin = path && file_is_regular(path) ? json_text_read(path, NULL) : NULL;
    bool has = json_equal(origin, keeper->identity);

    json_decref(origin);
    free(path);
    return has;
}

/* All files that were written have the size that they were written with. */
static bool has_files(const struct keeper *keeper)
{
    char *path = file_join(keeper->target, MANIFEST_FILE);
    json_t *manifest = NULL, *entry;
    const char *name;
    bool has = path && manifest_read(&manifest, path, NULL);

    free(path);
    json_object_foreach(json_object_get(manifest, "files"), name, entry)
    {
        struct stat st;

        path = file_join(keeper->target, name);
        has = has && path && stat(path, &st) == 0 &&
              st.st_size == json_integer_value(json_object_get(entry, "bytes"));
        free(path);
    }
    json_decref(manifest);
    return has;
}

static bool is_current(const struct keeper *keeper)
{
    return has_origin(keeper) && has_files(keeper);
}

/* --- The lock --- */

static void note_percent(const struct keeper *keeper, double fraction)
{
    char text[16];

    snprintf(text, sizeof text, "%03d\n", (int)(100 * fraction));
    (void)!pwrite(keeper->lock_fd, text, PERCENT_BYTES, 0); /* only told to those who wait */
}

static double read_percent(const struct keeper *keeper)
{
    char text[PERCENT_BYTES + 1] = "";
    int percent;

    if (pread(keeper->lock_fd, text, PERCENT_BYTES, 0) < 0)
        return 0.0;
    percent = atoi(text);
    return percent > 0 && percent <= 100 ? percent / 100.0 : 0.0;
}

static bool make_folders(const char *target, struct error *err)
{
    char *path = strdup(target), *slash, *upper;
    bool ok = path != NULL;

    if (!ok)
        return out_of_memory(err);
    slash = strrchr(path, '/');
    *slash = '\0';
    upper = strrchr(path, '/');
    if (mkdir(path, 0755) != 0 && errno == ENOENT && upper) {
        *upper = '\0';
        (void)mkdir(path, 0755);
        *upper = '/';
        (void)mkdir(path, 0755);
    }
    if (!file_is_directory(path))
        ok = error_set_errno(err, errno, "making '%s'", path);
    free(path);
    return ok;
}

static bool open_lock(struct keeper *keeper, struct error *err)
{
    char *path;

    if (!make_folders(keeper->target, err))
        return false;
    if (asprintf(&path, "%s.lock", keeper->target) < 0)
        return out_of_memory(err);
    keeper->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (keeper->lock_fd < 0)
        error_set_errno(err, errno, "writing '%s'", path);
    free(path);
    return keeper->lock_fd >= 0;
}

/* The file stays: who holds the lock of a file that was removed holds nothing. */
static bool take_lock(struct keeper *keeper, struct error *err)
{
    const struct timespec pause = {.tv_nsec = WAIT_NANOSECONDS};

    if (!open_lock(keeper, err))
        return false;
    while (flock(keeper->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return error_set_errno(err, errno, "locking '%s.lock'", keeper->target);
        if (is_stopped(keeper))
            return error_set(err, ERROR_CANCELLED, "stopped while another process converts");
        tell(keeper, KEPT_FP8_WAITING, read_percent(keeper), keeper->target);
        nanosleep(&pause, NULL);
    }
    return true;
}

static void leave_lock(struct keeper *keeper)
{
    if (keeper->lock_fd >= 0)
        close(keeper->lock_fd);
    keeper->lock_fd = -1;
}

/* --- A new one --- */

static void tell_converting(void *context, const struct convert_progress *now)
{
    const struct keeper *keeper = context;
    double part = now->total_bytes ? (double)now->done_bytes / (double)now->total_bytes : 0.0;
    double fraction = strcmp(now->phase, "hash") == 0 ? CONVERT_SHARE + (1 - CONVERT_SHARE) * part
                                                      : CONVERT_SHARE * part;

    note_percent(keeper, fraction);
    tell(keeper, KEPT_FP8_CONVERTING, fraction, keeper->target);
}

static bool convert(struct keeper *keeper, struct error *err)
{
    const struct convert_options wanted = {
        .model = keeper->paths.model,
        .vae = keeper->paths.vae,
        .clip_l = keeper->paths.clip_l,
        .clip_g = keeper->paths.clip_g,
        .t5 = keeper->paths.t5,
        .tokenizers = keeper->paths.tokenizers,
        .output = keeper->target,
        .layout = CONVERT_DIFFUSERS,
        .format = DTYPE_F8_E4M3,
        .replace = true,
        .threads = keeper->options->threads,
        .shard_bytes = CONVERT_SHARD_BYTES,
        .spare_bytes = keeper->options->spare_bytes,
        .made_by = keeper->options->made_by,
        .origin = keeper->identity,
    };
    const struct convert_callbacks callbacks = {
        .progress = tell_converting, .context = keeper, .cancel = keeper->callbacks->stop};
    struct convert_summary summary;

    keeper->started = seconds_now();
    staging_sweep(keeper->target);
    tell(keeper, KEPT_FP8_CONVERTING, 0.0, keeper->target);
    if (!convert_model(&wanted, &callbacks, &summary, err))
        return false;
    tell(keeper, KEPT_FP8_MADE, 1.0, keeper->target);
    return true;
}

static bool find_or_convert(struct keeper *keeper, struct error *err)
{
    bool ok = take_lock(keeper, err);

    if (ok && is_current(keeper)) /* the other process was done */
        tell(keeper, KEPT_FP8_FOUND, 1.0, keeper->target);
    else if (ok)
        ok = convert(keeper, err);
    leave_lock(keeper);
    return ok;
}

/* --- The places --- */

/* A name that stays in its folder, whatever the model is called. */
static bool is_safe_name(const char *name)
{
    return *name && name[0] != '.' && !strchr(name, '/');
}

/* Best first; the caller frees them. Below the folder of models only what lies in it, and not what
 * it is itself, is kept. */
static bool list_places(char *places[PLACES_MAX], const struct kept_fp8_options *options,
                        struct error *err)
{
    const char *name = options->model->name;
    bool is_in = options->models_dir && options->model->origin == MODEL_IN_MODELS_DIR &&
                 strcmp(options->model->path, options->models_dir) != 0;

    if (!is_safe_name(name))
        return error_set(err, ERROR_BAD_REQUEST, "'%s' can be no name of a copy", name);
    if (is_in && asprintf(&places[0], "%s/" FOLDER "/%s-fp8", options->models_dir, name) < 0)
        places[0] = NULL;
    if (asprintf(&places[1], "%s/" FOLDER "/models/%s-fp8", options->outputs_dir, name) < 0)
        places[1] = NULL;
    return (places[1] && (places[0] || !is_in)) || out_of_memory(err);
}

static bool find_in_places(struct keeper *keeper, char *const places[PLACES_MAX])
{
    for (int i = 0; i < PLACES_MAX; i++) {
        keeper->target = places[i];
        if (places[i] && is_current(keeper)) {
            tell(keeper, KEPT_FP8_FOUND, 1.0, places[i]);
            return true;
        }
    }
    return false;
}

/* Where one place has no room, or cannot be written, the next is tried. */
static bool make_in_places(struct keeper *keeper, char *const places[PLACES_MAX], struct error *err)
{
    *err = (struct error){0};
    for (int i = 0; i < PLACES_MAX; i++) {
        if (!places[i])
            continue;
        if (err->code != ERROR_NONE)
            tell(keeper, KEPT_FP8_NOT_THERE, 0.0, err->message);
        keeper->target = places[i];
        if (find_or_convert(keeper, err))
            return true;
        if (err->code != ERROR_IO)
            return false;
    }
    return false;
}

static bool open_copy(struct keeper *keeper, char **out, struct error *err)
{
    char *places[PLACES_MAX] = {NULL, NULL};
    bool ok = list_places(places, keeper->options, err) &&
              (find_in_places(keeper, places) || make_in_places(keeper, places, err));

    if (ok) {
        *out = strdup(keeper->target);
        ok = *out || out_of_memory(err);
    }
    for (int i = 0; i < PLACES_MAX; i++)
        free(places[i]);
    return ok;
}

bool kept_fp8_open(char **out, const struct kept_fp8_options *options,
                   const struct kept_fp8_callbacks *callbacks, struct error *err)
{
    struct keeper keeper = {
        .options = options,
        .callbacks = callbacks,
        .paths = options->separate,
        .started = seconds_now(),
        .lock_fd = -1,
    };
    bool needs_copy, ok;

    *out = NULL;
    keeper.paths.model = options->model->path;
    keeper.paths.name = options->model->name;
    ok = look_at_source(&keeper, &needs_copy, err) && (!needs_copy || open_copy(&keeper, out, err));
    json_decref(keeper.identity);
    return ok;
}
