#include "convert/convert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_features.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "convert/conversion.h"
#include "convert/manifest.h"
#include "convert/network_config.h"
#include "weights/model_facts.h"
#include "weights/model_files.h"

#define SEPARATE_PATHS 5
#define HEADER_BYTES_EACH 256          /* of a tensor in a header and in the manifest */
#define OTHER_BYTES ((size_t)32 << 20) /* tokenizers, configurations, records */
#define SECONDS_BETWEEN_LOOKS 0.2

static const char zeros[SOURCE_HASH_TEXT_BYTES] =
    "0000000000000000000000000000000000000000000000000000000000000000";

static bool out_of_memory(struct error *err)
{
    return error_set(err, ERROR_NO_MEMORY, "conversion");
}

/* --- Sources --- */

static size_t find_source(const struct conversion *conversion, const char *path)
{
    for (size_t i = 0; i < conversion->source_count; i++)
        if (strcmp(conversion->source_paths[i], path) == 0)
            return i;
    return conversion->source_count;
}

static bool list_sources(struct conversion *conversion, struct error *err)
{
    const struct convert_plan *plan = conversion->plan;
    size_t capacity = 0;

    for (size_t i = 0; i < plan->tensor_count; i++)
        for (int part = 0; part < plan->tensors[i].parts; part++) {
            const char *path = safetensors_path(plan->tensors[i].part[part]->file);

            if (find_source(conversion, path) < conversion->source_count)
                continue;
            if (conversion->source_count == capacity) {
                const char **grown;

                capacity = capacity ? 2 * capacity : 16;
                grown = reallocarray(conversion->source_paths, capacity, sizeof *grown);
                if (!grown)
                    return out_of_memory(err);
                conversion->source_paths = grown;
            }
            conversion->source_paths[conversion->source_count++] = path;
        }
    return true;
}

static bool check_target(struct conversion *conversion, struct error *err)
{
    const struct convert_options *options = conversion->options;
    const char *const given[SEPARATE_PATHS] = {options->model, options->vae, options->clip_l,
                                               options->clip_g, options->t5};
    const char **sources =
        calloc(conversion->source_count + SEPARATE_PATHS, sizeof *conversion->source_paths);
    size_t count = 0;
    bool ok;

    if (!sources)
        return out_of_memory(err);
    for (size_t i = 0; i < SEPARATE_PATHS; i++)
        if (given[i])
            sources[count++] = given[i];
    for (size_t i = 0; i < conversion->source_count; i++)
        sources[count++] = conversion->source_paths[i];
    ok = staging_init(&conversion->staging, options->output, options->layout == CONVERT_DIFFUSERS,
                      options->replace, sources, count, options->made_by, err);
    free(sources);
    return ok;
}

static void tell_hashing(const struct conversion *conversion)
{
    struct convert_progress now = {.phase = "hash", .seconds = seconds_now() - conversion->started};

    source_hashes_progress(conversion->hashes, &now.done_bytes, &now.total_bytes);
    if (conversion->callbacks->progress)
        conversion->callbacks->progress(conversion->callbacks->context, &now);
}

static bool wait_for_hash(const char **out, struct conversion *conversion, size_t i,
                          struct error *err)
{
    const struct convert_callbacks *callbacks = conversion->callbacks;

    *out = NULL;
    while (!*out) {
        if (callbacks->cancel && atomic_load(callbacks->cancel))
            return error_set(err, ERROR_CANCELLED, "cancelled: nothing was left behind");
        if (!source_hashes_wait(out, conversion->hashes, i, SECONDS_BETWEEN_LOOKS, err))
            return false;
        if (!*out)
            tell_hashing(conversion);
    }
    return true;
}

/* --- Metadata --- */

static json_t *configs_json(const struct conversion *conversion)
{
    json_t *configs = json_object();

    for (int c = 0; c < COMPONENT_COUNT; c++)
        if (conversion->files->component[c])
            json_object_set_new(
                configs, model_files_place((enum component)c)->folder,
                network_config(conversion->files->component[c], &conversion->plan->list[c]));
    return configs;
}

/* Files that stand alone carry all that configuration files would say. The name tells Turbo, also
 * when the source was given another since. */
static json_t *facts_json(const struct conversion *conversion)
{
    const struct model_files *files = conversion->files;
    bool is_named = strcasestr(files->name, "turbo") != NULL;
    json_t *facts = json_object();
    char name[512];

    snprintf(name, sizeof name, "%s%s", files->name,
             files->is_turbo && !is_named ? " (turbo)" : "");
    json_object_set_new(facts, "name", json_string(name));
    if (conversion->options->layout == CONVERT_DIFFUSERS)
        return facts;
    json_object_set_new(facts, "flow_shift", json_real(files->flow_shift));
    json_object_set_new(facts, "configs", configs_json(conversion));
    return facts;
}

static bool uses_source(const struct conversion *conversion, const struct plan_file *file, size_t i)
{
    for (size_t t = file->first; t < file->first + file->count; t++) {
        const struct plan_tensor *tensor = &conversion->plan->tensors[t];

        for (int part = 0; part < tensor->parts; part++)
            if (strcmp(safetensors_path(tensor->part[part]->file), conversion->source_paths[i]) ==
                0)
                return true;
    }
    return false;
}

static bool set_source(struct safetensors_writer *out, size_t i, const char *hash,
                       struct error *err)
{
    char key[64];

    snprintf(key, sizeof key, "sd35.source.%zu.sha256", i);
    return safetensors_writer_metadata(out, key, hash, err);
}

/* The sources' hashes are zeros until they are known. */
static bool set_metadata(const struct conversion *conversion, const struct plan_file *file,
                         struct safetensors_writer *out, struct error *err)
{
    const struct convert_options *options = conversion->options;
    json_t *facts = facts_json(conversion);
    char *text = json_dumps(facts, JSON_COMPACT | JSON_REAL_PRECISION(15)), how[96], key[64];
    bool ok;

    snprintf(how, sizeof how, "%s, one factor for each %s", dtype_name(options->format),
             options->layout == CONVERT_COMFYUI ? "tensor" : "row");
    json_decref(facts);
    if (!text)
        return out_of_memory(err);
    ok = safetensors_writer_metadata(out, "format", "pt", err) &&
         safetensors_writer_metadata(out, "sd35.made_by", options->made_by, err) &&
         safetensors_writer_metadata(out, "sd35.weights", how, err) &&
         safetensors_writer_metadata(out, MODEL_FACTS_KEY, text, err);
    free(text);
    for (size_t i = 0; i < conversion->source_count && ok; i++) {
        if (!uses_source(conversion, file, i))
            continue;
        snprintf(key, sizeof key, "sd35.source.%zu.file", i);
        ok = safetensors_writer_metadata(out, key, conversion_source_name(conversion, i), err) &&
             set_source(out, i, zeros, err);
    }
    return ok;
}

static bool set_hashes(struct conversion *conversion, const struct plan_file *file,
                       struct safetensors_writer *out, struct error *err)
{
    for (size_t i = 0; i < conversion->source_count; i++) {
        const char *hash;

        if (!uses_source(conversion, file, i))
            continue;
        if (!wait_for_hash(&hash, conversion, i, err) || !set_source(out, i, hash, err))
            return false;
    }
    return true;
}

/* --- Tensors --- */

static bool declare_scales(struct safetensors_writer *out, const struct plan_tensor *tensor,
                           struct error *err)
{
    char name[SAFETENSORS_NAME_BYTES_MAX + 1];

    if (tensor->scale_count == 0)
        return true;
    plan_scale_name(name, tensor);
    return safetensors_writer_declare(out, name, SAFETENSORS_F32,
                                      tensor->scale_count == tensor->rows ? 1 : 0,
                                      &tensor->scale_count, err);
}

/* In the order of their places in the file. */
static bool declare_tensors(const struct convert_plan *plan, const struct plan_file *file,
                            struct safetensors_writer *out, struct error *err)
{
    const struct plan_tensor *tensors = &plan->tensors[file->first];

    for (size_t i = 0; i < file->count; i++)
        if (!declare_scales(out, &tensors[i], err))
            return false;
    for (size_t size = 2; size > 0; size--)
        for (size_t i = 0; i < file->count; i++)
            if (dtype_size(tensors[i].dtype) == size &&
                !safetensors_writer_declare(out, tensors[i].name,
                                            safetensors_from_dtype(tensors[i].dtype),
                                            tensors[i].rank, tensors[i].dim, err))
                return false;
    return true;
}

/* All but the hashes of its sources, which may take longer. */
static bool write_file(struct conversion *conversion, size_t i, struct error *err)
{
    const struct plan_file *file = &conversion->plan->out[i];
    struct safetensors_writer *out = NULL;
    char *path;
    bool ok;

    if (!staging_path(&path, &conversion->staging, file->name, err))
        return false;
    ok = safetensors_writer_create(&out, path, err);
    free(path);
    if (!ok)
        return false;
    conversion->outputs[i] = out;
    return set_metadata(conversion, file, out, err) &&
           declare_tensors(conversion->plan, file, out, err) &&
           tensor_writer_put(conversion->writer, file, out, conversion->staging.manifest, err);
}

static bool commit_file(struct conversion *conversion, size_t i, struct error *err)
{
    const struct plan_file *file = &conversion->plan->out[i];
    struct safetensors_writer *out = conversion->outputs[i];
    char *path;
    bool ok;

    if (!set_hashes(conversion, file, out, err) ||
        !staging_path(&path, &conversion->staging, file->name, err))
        return false;
    conversion->outputs[i] = NULL;
    ok = safetensors_writer_commit(out, err) &&
         manifest_add_header(conversion->staging.manifest, file->name, path, err);
    free(path);
    return ok;
}

static bool write_files(struct conversion *conversion, struct error *err)
{
    size_t count = conversion->plan->out_count;

    conversion->outputs = calloc(count, sizeof(struct safetensors_writer *));
    if (!conversion->outputs)
        return out_of_memory(err);
    for (size_t i = 0; i < count; i++)
        if (!write_file(conversion, i, err))
            return false;
    for (size_t i = 0; i < count; i++)
        if (!commit_file(conversion, i, err))
            return false;
    return true;
}

/* --- All of it --- */

static bool open_source(struct conversion *conversion, struct error *err)
{
    const struct convert_options *options = conversion->options;
    const struct model_paths paths = convert_source_paths(options);

    if (!model_files_open(&conversion->files, &paths, err))
        return false;
    if (options->layout == CONVERT_DIFFUSERS &&
        !conversion->files->component[COMPONENT_TRANSFORMER])
        return error_set(err, ERROR_BAD_FILE,
                         "'%s' holds no transformer, without which there is no model folder: "
                         "--layout single writes what there is to a file",
                         options->model);
    return true;
}

/* A file's own name is known when the target is. */
static bool name_single_file(struct conversion *conversion, struct error *err)
{
    struct convert_plan *plan = conversion->plan;

    if (plan->layout == CONVERT_DIFFUSERS)
        return true;
    plan->out[0].name = strdup(staging_base_name(conversion->staging.target));
    return plan->out[0].name || out_of_memory(err);
}

/* A hash is one chain of blocks a file and the slowest part of all: each chain gets a processor of
 * its own, up to half of them, and the weights get the others. */
static bool start_threads(struct conversion *conversion, struct error *err)
{
    const struct convert_options *options = conversion->options;
    int cpus = options->threads ? options->threads : thread_pool_cpu_count();
    int hashing = cpus / 2 > 0 ? cpus / 2 : 1;

    if ((size_t)hashing > conversion->source_count)
        hashing = (int)conversion->source_count;
    return source_hashes_create(&conversion->hashes, conversion->source_paths,
                                conversion->source_count, hashing, err) &&
           tensor_writer_create(&conversion->writer, conversion->plan, conversion->ops,
                                cpus > hashing ? cpus - hashing : 1, conversion->callbacks, err);
}

static bool look(struct conversion *conversion, struct error *err)
{
    const struct convert_options *options = conversion->options;

    conversion->ops = quantise_ops(cpu_features_detect());
    return open_source(conversion, err) &&
           convert_plan_create(&conversion->plan, conversion->files, options, conversion->ops,
                               err) &&
           list_sources(conversion, err) && check_target(conversion, err) &&
           name_single_file(conversion, err);
}

/* Everything that can be wrong before the work starts. */
static bool prepare(struct conversion *conversion, struct error *err)
{
    size_t bytes;

    if (!look(conversion, err))
        return false;
    bytes = conversion->plan->bytes + OTHER_BYTES +
            conversion->plan->tensor_count * 2 * HEADER_BYTES_EACH;
    return staging_open(&conversion->staging, bytes, conversion->options->spare_bytes, err) &&
           start_threads(conversion, err);
}

static bool write_all(struct conversion *conversion, struct error *err)
{
    const struct convert_plan *plan = conversion->plan;
    bool is_folder = plan->layout == CONVERT_DIFFUSERS;

    return write_files(conversion, err) && conversion_write_companions(conversion, err) &&
           staging_commit(&conversion->staging, CONVERSION_MODEL_INDEX,
                          is_folder ? conversion_model_index(conversion) : NULL, err);
}

static void summarise(const struct convert_plan *plan, struct convert_summary *summary)
{
    double errors = 0.0;

    summary->source_bytes = plan->source_bytes;
    summary->bytes = plan->bytes;
    summary->layers = plan->layer_count;
    for (size_t i = 0; i < plan->layer_count; i++)
        if (plan->layers[i].reason)
            summary->layers_kept++;
        else
            errors += plan->layers[i].error;
    summary->mean_error = errors / (double)(summary->layers - summary->layers_kept);
}

static void finish(struct conversion *conversion)
{
    for (size_t i = 0; conversion->outputs && i < conversion->plan->out_count; i++)
        safetensors_writer_abandon(conversion->outputs[i]);
    free(conversion->outputs);
    source_hashes_destroy(conversion->hashes);
    tensor_writer_destroy(conversion->writer);
    staging_finish(&conversion->staging);
    convert_plan_destroy(conversion->plan);
    free(conversion->source_paths);
    model_files_close(conversion->files);
}

bool convert_check(const struct convert_options *options, struct error *err)
{
    struct conversion conversion = {.options = options};
    bool ok = look(&conversion, err);

    finish(&conversion);
    return ok;
}

bool convert_model(const struct convert_options *options, const struct convert_callbacks *callbacks,
                   struct convert_summary *summary, struct error *err)
{
    struct conversion conversion = {
        .options = options, .callbacks = callbacks, .started = seconds_now()};
    bool ok = prepare(&conversion, err) && write_all(&conversion, err);

    *summary = (struct convert_summary){0};
    if (ok) {
        summarise(conversion.plan, summary);
        summary->seconds = seconds_now() - conversion.started;
    }
    finish(&conversion);
    return ok;
}
