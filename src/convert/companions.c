/* What belongs beside the tensors of a converted model. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "convert/conversion.h"
#include "convert/manifest.h"
#include "convert/network_config.h"
#include "convert/quantization_record.h"
#include "weights/json_text.h"

static bool out_of_memory(struct error *err)
{
    return error_set(err, ERROR_NO_MEMORY, "conversion");
}

const char *conversion_source_name(const struct conversion *conversion, size_t i)
{
    const char *path = conversion->source_paths[i], *model = conversion->options->model;
    size_t length = strlen(model);

    while (length > 0 && model[length - 1] == '/')
        length--;
    if (file_is_directory(model) && strncmp(path, model, length) == 0 && path[length] == '/') {
        path += length;
        return path + strspn(path, "/");
    }
    return staging_base_name(path);
}

static bool is_component(const struct plan_file *file, enum component component)
{
    return file->has[component];
}

static void map_tensors(json_t *map, const struct convert_plan *plan, const struct plan_file *file)
{
    char name[SAFETENSORS_NAME_BYTES_MAX + 1];

    for (size_t i = file->first; i < file->first + file->count; i++) {
        const char *shard = staging_base_name(file->name);

        json_object_set_new(map, plan->tensors[i].name, json_string(shard));
        if (plan->tensors[i].scale_count == 0)
            continue;
        plan_scale_name(name, &plan->tensors[i]);
        json_object_set_new(map, name, json_string(shard));
    }
}

/* The index of a component's shards, where it has several. */
static bool write_shard_index(struct conversion *conversion, enum component component,
                              struct error *err)
{
    const struct convert_plan *plan = conversion->plan;
    const struct model_place *place = model_files_place(component);
    json_t *map = json_object();
    size_t shards = 0, bytes = 0;
    char name[128];

    for (size_t i = 0; i < plan->out_count; i++)
        if (is_component(&plan->out[i], component)) {
            map_tensors(map, plan, &plan->out[i]);
            bytes += plan->out[i].bytes;
            shards++;
        }
    if (shards < 2) {
        json_decref(map);
        return true;
    }
    snprintf(name, sizeof name, "%s/%s.safetensors.index.json", place->folder, place->file);
    return staging_write_json(
        &conversion->staging, name,
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)bytes, "weight_map", map),
        err);
}

static bool write_component_files(struct conversion *conversion, enum component component,
                                  struct error *err)
{
    char name[128];

    snprintf(name, sizeof name, "%s/config.json", model_files_place(component)->folder);
    return write_shard_index(conversion, component, err) &&
           staging_write_json(&conversion->staging, name,
                              network_config(conversion->files->component[component],
                                             &conversion->plan->list[component]),
                              err);
}

static bool copy_tokenizers(struct conversion *conversion, struct error *err)
{
    for (int c = 0; c < COMPONENT_COUNT; c++)
        if (conversion->files->tokenizer_directory[c] &&
            !staging_copy_folder(&conversion->staging,
                                 model_files_place((enum component)c)->tokenizer,
                                 conversion->files->tokenizer_directory[c], err))
            return false;
    return true;
}

/* Copies `name` from the source's folder; *has says whether it is there. */
static bool copy_from_source(struct conversion *conversion, const char *name, bool *has,
                             struct error *err)
{
    char *from = file_join(conversion->options->model, name);
    bool ok = from != NULL;

    *has = ok && file_is_regular(from);
    if (!ok)
        out_of_memory(err);
    else if (*has)
        ok = staging_copy_file(&conversion->staging, name, from, err);
    free(from);
    return ok;
}

/* Whoever passes a model on passes its licence on. */
static bool copy_licences(struct conversion *conversion, struct error *err)
{
    DIR *directory = opendir(conversion->options->model);
    bool ok = true, has;

    for (struct dirent *entry = directory ? readdir(directory) : NULL; entry && ok;
         entry = readdir(directory))
        if (strncasecmp(entry->d_name, "LICENSE", strlen("LICENSE")) == 0 ||
            strncasecmp(entry->d_name, "NOTICE", strlen("NOTICE")) == 0)
            ok = copy_from_source(conversion, entry->d_name, &has, err);
    if (directory)
        closedir(directory);
    return ok;
}

static bool write_scheduler(struct conversion *conversion, struct error *err)
{
    static const char name[] = "scheduler/scheduler_config.json";
    bool has;

    if (!copy_from_source(conversion, name, &has, err))
        return false;
    return has || staging_write_json(&conversion->staging, name,
                                     network_scheduler_config(conversion->files->flow_shift), err);
}

static json_t *sources_json(const struct conversion *conversion)
{
    json_t *sources = json_array();

    for (size_t i = 0; i < conversion->source_count; i++) {
        const char *hash = NULL;

        if (!source_hashes_wait(&hash, conversion->hashes, i, 0.0, NULL))
            break; /* every hash was waited for */
        json_array_append_new(sources,
                              json_pack("{s:s, s:s?}", "file",
                                        conversion_source_name(conversion, i), "sha256", hash));
    }
    return sources;
}

/* In the target's folder, or beside its file. The caller frees it; NULL when memory is short. */
static char *companion_name(const struct conversion *conversion, const char *name)
{
    return conversion->options->layout == CONVERT_DIFFUSERS
               ? strdup(name)
               : manifest_path_beside(staging_base_name(conversion->staging.target), name);
}

static bool write_record(struct conversion *conversion, struct error *err)
{
    const struct convert_options *options = conversion->options;
    char *name = companion_name(conversion, QUANTIZATION_RECORD_FILE);
    bool ok =
        name ? staging_write_json(
                   &conversion->staging, name,
                   quantization_record(conversion->plan, options, sources_json(conversion)), err)
             : out_of_memory(err);

    free(name);
    return ok;
}

static bool write_report(struct conversion *conversion, struct error *err)
{
    const struct convert_reporter *reporter = conversion->options->reporter;
    char *name, *text = NULL;
    size_t size;
    bool ok;

    if (!reporter)
        return true;
    name = companion_name(conversion, CONVERSION_REPORT);
    ok = name ? reporter->write(reporter->context, &text, &size, conversion->plan, err) &&
                    staging_write_bytes(&conversion->staging, name, text, size, err)
              : out_of_memory(err);
    free(text);
    free(name);
    return ok;
}

static bool write_folder_files(struct conversion *conversion, struct error *err)
{
    for (int c = 0; c < COMPONENT_COUNT; c++)
        if (conversion->files->component[c] &&
            !write_component_files(conversion, (enum component)c, err))
            return false;
    return write_scheduler(conversion, err) && copy_licences(conversion, err) &&
           (!conversion->options->origin ||
            staging_write_json(&conversion->staging, CONVERT_ORIGIN_FILE,
                               json_deep_copy(conversion->options->origin), err));
}

json_t *conversion_model_index(const struct conversion *conversion)
{
    bool has[COMPONENT_COUNT], has_tokenizer[COMPONENT_COUNT];
    char *path = file_join(conversion->options->model, CONVERSION_MODEL_INDEX);
    json_t *source = path && file_is_regular(path) ? json_text_read(path, NULL) : NULL, *index;

    for (int c = 0; c < COMPONENT_COUNT; c++) {
        has[c] = conversion->files->component[c] != NULL;
        has_tokenizer[c] = conversion->files->tokenizer_directory[c] != NULL;
    }
    index = network_model_index(source, has, has_tokenizer);
    json_decref(source);
    free(path);
    return index;
}

bool conversion_write_companions(struct conversion *conversion, struct error *err)
{
    bool is_folder = conversion->options->layout == CONVERT_DIFFUSERS;

    return (!is_folder || write_folder_files(conversion, err)) &&
           copy_tokenizers(conversion, err) && write_record(conversion, err) &&
           write_report(conversion, err);
}
