#include "convert/convert_plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "weights/names.h"

#define F16_LARGEST 65504.0f
#define BLOCK_ELEMENTS 4096

bool plan_is_f8(enum dtype dtype)
{
    return dtype == DTYPE_F8_E4M3 || dtype == DTYPE_F8_E5M2;
}

void plan_scale_name(char name[SAFETENSORS_NAME_BYTES_MAX + 1], const struct plan_tensor *tensor)
{
    const char *dot = strrchr(tensor->name, '.');

    snprintf(name, SAFETENSORS_NAME_BYTES_MAX + 1, "%.*s.scale_weight",
             (int)(dot ? dot - tensor->name : 0), tensor->name);
}

struct model_paths convert_source_paths(const struct convert_options *options)
{
    return (struct model_paths){
        .model = options->model,
        .vae = options->vae,
        .clip_l = options->clip_l,
        .clip_g = options->clip_g,
        .t5 = options->t5,
        .tokenizers = options->tokenizers,
    };
}

/* --- Which tensors --- */

static bool list_component(struct convert_plan *plan, enum component component, struct error *err)
{
    struct weights *weights = plan->files->component[component];
    const struct model_tensors *list = &plan->list[component];

    if (!model_tensors_list(&plan->list[component], weights, NULL, NULL, err))
        return false;
    for (size_t i = 0; i < list->count; i++)
        if (plan_is_f8(list->tensor[i].view.dtype))
            return error_set(err, ERROR_BAD_FILE,
                             "the %s in '%s' is FP8 already ('%s' is %s): convert the 16-bit "
                             "model that it was made from",
                             component_name(component), weights_path(weights),
                             list->tensor[i].entry->name, list->tensor[i].entry->dtype_name);
    return true;
}

static struct plan_tensor *append_tensor(struct convert_plan *plan)
{
    if (plan->tensor_count == plan->tensor_capacity) {
        size_t capacity = plan->tensor_capacity ? 2 * plan->tensor_capacity : 1024;
        struct plan_tensor *grown = reallocarray(plan->tensors, capacity, sizeof *grown);

        if (!grown)
            return NULL;
        plan->tensors = grown;
        plan->tensor_capacity = capacity;
    }
    plan->tensors[plan->tensor_count] = (struct plan_tensor){0};
    return &plan->tensors[plan->tensor_count++];
}

/* Where one of ours goes. */
struct destination {
    struct names_target target;
    const struct model_tensor *source;
};

static int compare_destinations(const void *a, const void *b)
{
    const struct destination *x = a, *y = b;
    int order = strcmp(x->target.stored, y->target.stored);

    return order ? order : x->target.part - y->target.part;
}

static int up_levels(const struct model_tensors *list)
{
    int levels = 0;

    while (model_tensors_find(list, "decoder.up.%d.block.0.conv1.weight", levels))
        levels++;
    return levels;
}

static bool resolve(struct destination *out, const struct convert_plan *plan,
                    enum component component, struct error *err)
{
    const struct model_tensors *list = &plan->list[component];
    const struct names names = {
        .component = component,
        .layout = plan->layout == CONVERT_DIFFUSERS && component <= COMPONENT_VAE ? NAMES_OTHER
                                                                                  : NAMES_ORIGINAL,
        .up_levels = up_levels(list),
    };

    for (size_t i = 0; i < list->count; i++) {
        out[i].source = &list->tensor[i];
        if (!names_resolve(&out[i].target, &names, list->tensor[i].name, 0))
            return error_set(err, ERROR_BAD_FILE, "%s: this layout has no name for '%s'",
                             component_name(component), list->tensor[i].entry->name);
    }
    qsort(out, list->count, sizeof *out, compare_destinations);
    return true;
}

/* The shape in the file: parts one below the other, and the odd dimensions of 1. */
static void set_shape(struct plan_tensor *tensor, const struct names_target *target,
                      enum convert_layout layout)
{
    const struct tensor *view = &tensor->part[0]->view;
    int64_t *dim = tensor->dim;

    tensor->rank = view->rank;
    memcpy(dim, view->dim, sizeof tensor->dim);
    dim[0] *= tensor->parts;
    tensor->rows = tensor->rank == 1 ? tensor->parts : dim[0];
    tensor->columns = tensor_count(view) * tensor->parts / tensor->rows;
    if (!target->is_matrix || tensor->rank != 2)
        return;
    if (tensor->component == COMPONENT_TRANSFORMER) {
        memmove(dim + 1, dim, 2 * sizeof *dim);
        dim[0] = 1;
        tensor->rank = 3;
    } else if (layout != CONVERT_DIFFUSERS) {
        dim[2] = dim[3] = 1;
        tensor->rank = 4;
    }
}

static bool set_parts(struct plan_tensor *tensor, const struct destination *first, size_t count,
                      struct error *err)
{
    const struct tensor *view = &first->source->view;

    for (size_t i = 0; i < count; i++) {
        if (count != (size_t)first->target.parts || first[i].target.part != (int)i ||
            !tensor_same_shape(&first[i].source->view, view))
            return error_set(err, ERROR_BAD_FILE, "'%s' cannot be put together from '%s'",
                             first->target.stored, first[i].source->entry->name);
        tensor->part[i] = first[i].source;
        tensor->source_bytes += tensor_bytes(&first[i].source->view);
    }
    tensor->parts = (int)count;
    return true;
}

static bool group(struct convert_plan *plan, enum component component,
                  const struct destination *sorted, size_t count, struct error *err)
{
    const char *prefix = plan->layout == CONVERT_DIFFUSERS ? "" : names_prefix(component, 0);
    size_t same;

    for (size_t i = 0; i < count; i += same) {
        struct plan_tensor *tensor = append_tensor(plan);

        for (same = 1; i + same < count; same++)
            if (strcmp(sorted[i].target.stored, sorted[i + same].target.stored) != 0)
                break;
        if (!tensor)
            return error_set(err, ERROR_NO_MEMORY, "plan of the conversion");
        snprintf(tensor->name, sizeof tensor->name, "%s%.400s", prefix, sorted[i].target.stored);
        tensor->component = component;
        if (!set_parts(tensor, &sorted[i], same, err))
            return false;
        set_shape(tensor, &sorted[i].target, plan->layout);
    }
    return true;
}

/* What tells ComfyUI that a component is scaled FP8. */
static bool add_marker(struct convert_plan *plan, enum component component, struct error *err)
{
    struct plan_tensor *marker;

    if (plan->layout != CONVERT_COMFYUI ||
        (component != COMPONENT_TRANSFORMER && component != COMPONENT_T5))
        return true;
    marker = append_tensor(plan);
    if (!marker)
        return error_set(err, ERROR_NO_MEMORY, "plan of the conversion");
    snprintf(marker->name, sizeof marker->name, "%sscaled_fp8", names_prefix(component, 0));
    marker->component = component;
    marker->dtype = plan->format;
    marker->rank = 1;
    marker->dim[0] = marker->rows = marker->columns = 1;
    return true;
}

static bool add_component(struct convert_plan *plan, enum component component, struct error *err)
{
    struct destination *destinations;
    bool ok;

    if (!list_component(plan, component, err))
        return false;
    destinations = calloc(plan->list[component].count + 1, sizeof *destinations);
    if (!destinations)
        return error_set(err, ERROR_NO_MEMORY, "plan of the conversion");
    ok = add_marker(plan, component, err) && resolve(destinations, plan, component, err) &&
         group(plan, component, destinations, plan->list[component].count, err);
    free(destinations);
    return ok;
}

/* --- What stays in 16 bits --- */

static int block_count(const struct convert_plan *plan)
{
    int count = 0;

    while (model_tensors_find(&plan->list[COMPONENT_TRANSFORMER], "block.%d.image.q.weight", count))
        count++;
    return count;
}

static const char *reason_for(const struct convert_plan *plan, enum component component,
                              const char *canonical, const char *name,
                              const struct convert_options *options, int blocks)
{
    if (plan->layout == CONVERT_COMFYUI) {
        if (component == COMPONENT_CLIP_L || component == COMPONENT_CLIP_G)
            return "ComfyUI takes scaled FP8 for the transformer and T5 only";
        return component == COMPONENT_VAE ? "VAE" : NULL;
    }
    if (keep_rule_matches(options->keep, name))
        return "asked for by --keep";
    if (options->choice && component != COMPONENT_VAE)
        return options->choice->keeps(options->choice->context, name)
                   ? "measured: hurts the picture most for its bytes"
                   : NULL;
    return keep_rule_reason(component, canonical, blocks);
}

static void add_layers(struct convert_plan *plan, struct plan_tensor *tensor,
                       const struct convert_options *options, int blocks)
{
    bool is_kept = false;

    for (int i = 0; i < tensor->parts; i++) {
        struct plan_layer *layer = &plan->layers[plan->layer_count];
        const struct model_tensor *source = tensor->part[i];
        char canonical[sizeof source->name];

        if (source->use != WEIGHTS_LINEAR)
            return;
        snprintf(canonical, sizeof canonical, "%.*s",
                 (int)(strrchr(source->name, '.') - source->name), source->name);
        snprintf(layer->name, sizeof layer->name, "%s.%s", keep_rule_component(tensor->component),
                 canonical);
        layer->source = source;
        layer->tensor = tensor->name;
        layer->error = (double)NAN;
        layer->reason =
            reason_for(plan, tensor->component, canonical, layer->name, options, blocks);
        is_kept = is_kept || layer->reason;
        tensor->layer[i] = layer;
        plan->layer_count++;
    }
    for (int i = 0; i < tensor->parts && is_kept; i++)
        if (!tensor->layer[i]->reason)
            tensor->layer[i]->reason = "shares a tensor with a layer that is kept";
}

/* A pattern that matches nothing is a slip of the finger. */
static bool check_patterns(const struct convert_plan *plan, const char *keep, struct error *err)
{
    size_t length;

    for (; keep && *keep; keep += length + (keep[length] == ',')) {
        char pattern[LAYER_NAME_BYTES];
        bool has_match = false;

        length = strcspn(keep, ",");
        snprintf(pattern, sizeof pattern, "%.*s", (int)length, keep);
        for (size_t i = 0; i < plan->layer_count && !has_match; i++)
            has_match = keep_rule_matches(pattern, plan->layers[i].name);
        if (!has_match)
            return error_set(err, ERROR_BAD_REQUEST, "--keep: no layer is called '%s'", pattern);
    }
    return true;
}

static bool decide_layers(struct convert_plan *plan, const struct convert_options *options,
                          struct error *err)
{
    int blocks = block_count(plan);

    plan->layers = calloc(plan->tensor_count * PLAN_PARTS_MAX + 1, sizeof *plan->layers);
    if (!plan->layers)
        return error_set(err, ERROR_NO_MEMORY, "plan of the conversion");
    for (size_t i = 0; i < plan->tensor_count; i++)
        add_layers(plan, &plan->tensors[i], options, blocks);
    return check_patterns(plan, options->keep, err);
}

/* --- Types --- */

static bool is_quantised(const struct plan_tensor *tensor)
{
    return tensor->layer[0] && !tensor->layer[0]->reason;
}

/* The 16-bit type that all parts are stored in; false when there is none. */
static bool common_type(enum dtype *out, const struct plan_tensor *tensor)
{
    enum dtype first = tensor->part[0]->view.dtype;

    for (int i = 0; i < tensor->parts; i++)
        if (tensor->part[i]->view.dtype != first)
            return false;
    *out = first;
    return dtype_size(first) == 2;
}

static float largest_of(const struct tensor *view, const struct quantise_ops *ops)
{
    const unsigned char *at = view->data;
    float block[BLOCK_ELEMENTS], most = 0.0f;

    for (int64_t left = tensor_count(view); left > 0; left -= BLOCK_ELEMENTS) {
        int64_t count = min_i64(left, BLOCK_ELEMENTS);

        ops->decode(block, at, view->dtype, count);
        most = fmaxf(most, ops->largest(block, count));
        at += (size_t)count * dtype_size(view->dtype);
    }
    return most;
}

/* F32 becomes F16, which rounds eight times as finely as BF16, if all of the component that is not
 * quantised fits into its range, and BF16 otherwise. */
static void choose_narrow_types(struct convert_plan *plan, const struct quantise_ops *ops)
{
    for (int c = 0; c < COMPONENT_COUNT; c++)
        plan->narrow[c] = DTYPE_F16;
    for (size_t i = 0; i < plan->tensor_count; i++) {
        const struct plan_tensor *tensor = &plan->tensors[i];
        enum dtype unused;

        if (tensor->parts == 0 || is_quantised(tensor) || common_type(&unused, tensor) ||
            plan->narrow[tensor->component] == DTYPE_BF16)
            continue;
        for (int part = 0; part < tensor->parts; part++) {
            if (largest_of(&tensor->part[part]->view, ops) > F16_LARGEST)
                plan->narrow[tensor->component] = DTYPE_BF16;
            safetensors_release_entry(tensor->part[part]->file, tensor->part[part]->entry);
        }
    }
}

static void set_types(struct convert_plan *plan)
{
    for (size_t i = 0; i < plan->tensor_count; i++) {
        struct plan_tensor *tensor = &plan->tensors[i];

        if (is_quantised(tensor)) {
            tensor->dtype = plan->format;
            tensor->scale_count = plan->layout == CONVERT_COMFYUI ? 1 : tensor->rows;
        } else if (tensor->parts > 0 && !common_type(&tensor->dtype, tensor)) {
            tensor->dtype = plan->narrow[tensor->component];
        }
        for (int part = 0; part < PLAN_PARTS_MAX && tensor->layer[part]; part++)
            tensor->layer[part]->dtype = tensor->dtype;
        tensor->bytes = (size_t)(tensor->rows * tensor->columns) * dtype_size(tensor->dtype);
        plan->rows_max = max_i64(plan->rows_max, tensor->rows);
        plan->columns_max = max_i64(plan->columns_max, tensor->columns);
    }
}

/* --- Files --- */

static size_t bytes_with_scale(const struct plan_tensor *tensor)
{
    return tensor->bytes + (size_t)tensor->scale_count * sizeof(float);
}

/* By component, then by place in the source, so that it is read from beginning to end. */
static int compare_sources(const void *a, const void *b)
{
    const struct plan_tensor *x = a, *y = b;
    const unsigned char *p, *q;

    if (x->component != y->component)
        return x->component < y->component ? -1 : 1;
    p = x->parts ? x->part[0]->view.data : NULL;
    q = y->parts ? y->part[0]->view.data : NULL;
    if (p != q)
        return p < q ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Layers point to names: sorting moves them. */
static void sort_tensors(struct convert_plan *plan)
{
    qsort(plan->tensors, plan->tensor_count, sizeof *plan->tensors, compare_sources);
    for (size_t i = 0; i < plan->tensor_count; i++)
        for (int part = 0; part < PLAN_PARTS_MAX; part++)
            if (plan->tensors[i].layer[part])
                plan->tensors[i].layer[part]->tensor = plan->tensors[i].name;
}

static bool begins_file(const struct convert_plan *plan, size_t i, size_t shard_bytes)
{
    const struct plan_file *last = plan->out_count ? &plan->out[plan->out_count - 1] : NULL;
    const struct plan_tensor *tensor = &plan->tensors[i];

    if (!last)
        return true;
    if (plan->layout != CONVERT_DIFFUSERS)
        return false;
    return tensor->component != plan->tensors[i - 1].component ||
           last->bytes + bytes_with_scale(tensor) > shard_bytes;
}

static bool split_files(struct convert_plan *plan, size_t shard_bytes, struct error *err)
{
    plan->out = calloc(plan->tensor_count + 1, sizeof *plan->out);
    if (!plan->out)
        return error_set(err, ERROR_NO_MEMORY, "plan of the conversion");
    for (size_t i = 0; i < plan->tensor_count; i++) {
        const struct plan_tensor *tensor = &plan->tensors[i];
        struct plan_file *file;

        if (begins_file(plan, i, shard_bytes))
            plan->out[plan->out_count++].first = i;
        file = &plan->out[plan->out_count - 1];
        file->count++;
        file->bytes += bytes_with_scale(tensor);
        file->has[tensor->component] = true;
        plan->bytes += bytes_with_scale(tensor);
        plan->source_bytes += tensor->source_bytes;
        plan->component_bytes[tensor->component] += bytes_with_scale(tensor);
        plan->component_source_bytes[tensor->component] += tensor->source_bytes;
    }
    return true;
}

static enum component component_of(const struct convert_plan *plan, const struct plan_file *file)
{
    return plan->tensors[file->first].component;
}

/* The shards of a component lie next to each other. */
static bool name_file(struct convert_plan *plan, size_t i, struct error *err)
{
    const struct model_place *place = model_files_place(component_of(plan, &plan->out[i]));
    size_t first = i, end = i + 1;
    int length;

    while (first > 0 &&
           component_of(plan, &plan->out[first - 1]) == component_of(plan, &plan->out[i]))
        first--;
    while (end < plan->out_count &&
           component_of(plan, &plan->out[end]) == component_of(plan, &plan->out[i]))
        end++;
    if (end - first == 1)
        length = asprintf(&plan->out[i].name, "%s/%s.safetensors", place->folder, place->file);
    else
        length = asprintf(&plan->out[i].name, "%s/%s-%05zu-of-%05zu.safetensors", place->folder,
                          place->file, i - first + 1, end - first);
    if (length < 0) {
        plan->out[i].name = NULL;
        return error_set(err, ERROR_NO_MEMORY, "plan of the conversion");
    }
    return true;
}

/* Factors first, then 16 bits, then FP8: every element is aligned to its size. */
static void place_tensors(struct convert_plan *plan, struct plan_file *file)
{
    struct plan_tensor *tensors = &plan->tensors[file->first];
    size_t at = 0;

    for (size_t i = 0; i < file->count; i++) {
        tensors[i].scale_offset = at;
        at += (size_t)tensors[i].scale_count * sizeof(float);
    }
    for (size_t size = 2; size > 0; size--)
        for (size_t i = 0; i < file->count; i++)
            if (dtype_size(tensors[i].dtype) == size) {
                tensors[i].offset = at;
                at += tensors[i].bytes;
            }
}

static bool lay_out_files(struct convert_plan *plan, size_t shard_bytes, struct error *err)
{
    sort_tensors(plan);
    if (!split_files(plan, shard_bytes, err))
        return false;
    for (size_t i = 0; i < plan->out_count; i++) {
        place_tensors(plan, &plan->out[i]);
        if (plan->layout == CONVERT_DIFFUSERS && !name_file(plan, i, err))
            return false;
    }
    return true;
}

/* --- All of it --- */

static bool has_work(const struct convert_plan *plan, const char *model, struct error *err)
{
    for (size_t i = 0; i < plan->layer_count; i++)
        if (!plan->layers[i].reason)
            return true;
    return error_set(err, ERROR_BAD_REQUEST,
                     "'%s': no layer would become FP8: all are kept in 16 bits", model);
}

bool convert_plan_create(struct convert_plan **out, const struct model_files *files,
                         const struct convert_options *options, const struct quantise_ops *ops,
                         struct error *err)
{
    struct convert_plan *plan = calloc(1, sizeof *plan);

    if (!plan)
        return error_set(err, ERROR_NO_MEMORY, "plan of the conversion");
    plan->files = files;
    plan->layout = options->layout;
    plan->format = options->format;
    for (int c = 0; c < COMPONENT_COUNT; c++)
        if (files->component[c] && !add_component(plan, (enum component)c, err))
            goto fail;
    if (!decide_layers(plan, options, err) || !has_work(plan, options->model, err))
        goto fail;
    choose_narrow_types(plan, ops);
    set_types(plan);
    if (!lay_out_files(plan, options->shard_bytes, err))
        goto fail;
    *out = plan;
    return true;

fail:
    convert_plan_destroy(plan);
    return false;
}

void convert_plan_destroy(struct convert_plan *plan)
{
    if (!plan)
        return;
    for (int c = 0; c < COMPONENT_COUNT; c++)
        model_tensors_finish(&plan->list[c]);
    for (size_t i = 0; i < plan->out_count; i++)
        free(plan->out[i].name);
    free(plan->out);
    free(plan->layers);
    free(plan->tensors);
    free(plan);
}
