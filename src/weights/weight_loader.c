/* weight_loader: hands out tensors by canonical name, and remembers what was wrong with them. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "weights/json_text.h"
#include "weights/keep_rule.h"
#include "weights/weights.h"
#include "weights/weights_private.h"

#define NAME_BYTES (SAFETENSORS_NAME_BYTES_MAX + 1)
#define QUANT_DEPTH_MAX 8

static const char weight_suffix[] = ".weight";

void weight_loader_init(struct weight_loader *loader, struct weights *weights)
{
    *loader = (struct weight_loader){.weights = weights};
    weights->reported_count = 0;
}

static uint64_t hash_text(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */

    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    return hash;
}

/* True when this problem was named before: the thirds of a fused tensor share theirs. */
static bool was_reported(struct weight_loader *loader, const char *problem)
{
    struct weights *weights = loader->weights;
    uint64_t hash = hash_text(problem);

    for (size_t i = 0; i < weights->reported_count; i++)
        if (weights->reported[i] == hash)
            return true;
    if (weights->reported_count == weights->reported_capacity) {
        size_t capacity = weights->reported_capacity ? 2 * weights->reported_capacity : 64;
        uint64_t *reported = reallocarray(weights->reported, capacity, sizeof *reported);

        if (!reported) {
            loader->out_of_memory = true;
            return false;
        }
        weights->reported = reported;
        weights->reported_capacity = capacity;
    }
    weights->reported[weights->reported_count++] = hash;
    return false;
}

/* Returns false, so that noting a problem and giving up is one line. */
static bool PRINTF_LIKE(2, 3) add_problem(struct weight_loader *loader, const char *format, ...)
{
    char problem[ERROR_MESSAGE_BYTES];
    size_t used = strlen(loader->problems);
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(problem, sizeof problem, format, arguments);
    va_end(arguments);
    if (was_reported(loader, problem))
        return false;
    if (loader->weights->observer && loader->weights->observer->problem)
        loader->weights->observer->problem(loader->weights->observer->context, problem);
    if (loader->problem_count++ < WEIGHT_LOADER_NAMED_MAX)
        snprintf(loader->problems + used, sizeof loader->problems - used, "%s%s", used ? "; " : "",
                 problem);
    return false;
}

static bool add_missing(struct weight_loader *loader, const struct weights_found *found)
{
    return add_problem(loader, "'%s' is missing", found->target.stored);
}

static bool add_unusable(struct weight_loader *loader, const struct weights_entry *entry,
                         const char *why)
{
    loader->has_other_problem = true;
    return add_problem(loader, "'%s' %s", entry->name, why);
}

static bool out_of_memory(struct weight_loader *loader)
{
    loader->out_of_memory = true;
    return false;
}

/* Shapes agree when they do so without their dimensions of 1, which never change where an element
 * lies. `want` gives what one part looks like; its first dimension is `parts` times that in the
 * file. */
static bool same_shape(const struct safetensors_entry *entry, int rank, const int64_t *want,
                       int parts)
{
    int i = 0, j = 0;

    while (true) {
        int64_t wanted;

        while (i < entry->rank && entry->dim[i] == 1)
            i++;
        while (j < rank && want[j] * (j == 0 ? parts : 1) == 1)
            j++;
        if (i == entry->rank || j == rank)
            return i == entry->rank && j == rank;
        wanted = want[j] * (j == 0 ? parts : 1);
        if (entry->dim[i++] != wanted)
            return false;
        j++;
    }
}

static bool add_misshapen(struct weight_loader *loader, const struct weights_entry *entry, int rank,
                          const int64_t *want, int parts)
{
    char is[TENSOR_SHAPE_TEXT_BYTES * 2], wanted[TENSOR_SHAPE_TEXT_BYTES];
    int64_t whole[TENSOR_MAX_RANK];

    memcpy(whole, want, (size_t)rank * sizeof *whole);
    whole[0] *= parts;
    return add_problem(loader, "'%s' is %s, not %s", entry->name,
                       tensor_shape_text(is, sizeof is, entry->stored->rank, entry->stored->dim),
                       tensor_shape_text(wanted, sizeof wanted, rank, whole));
}

static bool is_f8(enum dtype dtype)
{
    return dtype == DTYPE_F8_E4M3 || dtype == DTYPE_F8_E5M2;
}

static bool take_dtype(struct weight_loader *loader, enum dtype *out,
                       const struct weights_entry *entry)
{
    char why[96];

    if (safetensors_to_dtype(out, entry->stored->dtype) && *out != DTYPE_I32 && *out != DTYPE_U8)
        return true;
    snprintf(why, sizeof why, "has the type %s, which weights cannot have",
             entry->stored->dtype_name);
    return add_unusable(loader, entry, why);
}

/* A copy of a [k, n] matrix as [n, k]. */
static bool transpose(struct weight_loader *loader, struct tensor *out,
                      const struct weights_entry *entry, enum dtype dtype, const int64_t *want)
{
    size_t size = dtype_size(dtype);
    unsigned char *copy = weights_own(loader->weights, entry->stored->bytes);

    if (!copy)
        return out_of_memory(loader);
    for (int64_t n = 0; n < want[0]; n++)
        for (int64_t k = 0; k < want[1]; k++)
            memcpy(copy + (size_t)(n * want[1] + k) * size,
                   entry->stored->data + (size_t)(k * want[0] + n) * size, size);
    *out = tensor_of(copy, dtype, 2, want);
    return true;
}

/* A view of the stored tensor's part, shaped as wanted. `want` holds positive numbers that the
 * model computed, small enough for their product to fit. */
static bool take_view(struct weight_loader *loader, struct tensor *out,
                      const struct weights_found *found, int rank, const int64_t *want)
{
    const struct safetensors_entry *stored = found->entry->stored;
    const int64_t turned[2] = {rank == 2 ? want[1] : 0, want[0]};
    bool is_transposed = found->target.is_transposed && rank == 2;
    size_t part_bytes = stored->bytes / (size_t)found->target.parts;
    enum dtype dtype;

    if (!take_dtype(loader, &dtype, found->entry))
        return false;
    if (!same_shape(stored, rank, is_transposed ? turned : want, found->target.parts)) {
        add_misshapen(loader, found->entry, rank, is_transposed ? turned : want,
                      found->target.parts);
        return false;
    }
    if (is_transposed)
        return transpose(loader, out, found->entry, dtype, want);
    *out = tensor_of((void *)(stored->data + part_bytes * (size_t)found->target.part), dtype, rank,
                     want);
    return true;
}

static void tell_observer(const struct weight_loader *loader, const char *name,
                          enum weights_use use, const struct tensor *view,
                          const struct weights_found *found, bool has_scale)
{
    const struct weights_observer *observer = loader->weights->observer;
    const struct weights_tensor tensor = {
        .name = name,
        .use = use,
        .view = *view,
        .has_scale = has_scale,
        .file = loader->weights->sources[found->entry->source].file,
        .entry = found->entry->stored,
    };

    if (observer && observer->tensor)
        observer->tensor(observer->context, &tensor);
}

/* An aligned f32 copy. `name` is canonical. */
static bool take_vector(struct weight_loader *loader, struct tensor *out, const char *name,
                        const struct weights_found *found, int64_t n)
{
    struct tensor view = {0};
    float *copy;

    if (!take_view(loader, &view, found, 1, &n))
        return false;
    copy = weights_own(loader->weights, (size_t)n * sizeof *copy);
    if (!copy)
        return out_of_memory(loader);
    for (int64_t i = 0; i < tensor_count(&view); i++)
        copy[i] = dtype_load(view.dtype, view.data, i);
    *out = tensor_of(copy, DTYPE_F32, 1, &n);
    loader->weights->loaded_bytes += tensor_bytes(&view);
    tell_observer(loader, name, WEIGHTS_VECTOR, &view, found, false);
    return true;
}

/* What is stored beside "<layer>.weight" with another suffix; NULL: nothing. */
static const struct weights_entry *find_beside(const struct weights *weights, const char *stored,
                                               const char *suffix)
{
    size_t length = strlen(stored), tail = sizeof weight_suffix - 1;
    char name[NAME_BYTES + 32];

    if (length < tail || strcmp(stored + length - tail, weight_suffix) != 0)
        return NULL;
    snprintf(name, sizeof name, "%.*s%s", (int)(length - tail), stored, suffix);
    return weights_find_stored(weights, name);
}

/* What ComfyUI says about how this layer is quantised: a tensor of JSON text beside the weight, or
 * an entry of the file's metadata. *out NULL: nothing. False when it cannot be read. */
static bool read_quantization(json_t **out, struct weight_loader *loader,
                              const struct weights_entry *weight)
{
    const struct weights *weights = loader->weights;
    const struct weights_source *source = &weights->sources[weight->source];
    const struct weights_entry *text = find_beside(weights, weight->name, ".comfy_quant");
    char layer[NAME_BYTES * 2];
    size_t length = strlen(weight->name), tail = sizeof weight_suffix - 1;
    json_t *entry;

    *out = NULL;
    if (text) {
        if (text->stored->dtype != SAFETENSORS_U8)
            return add_unusable(loader, text, "is not JSON text");
        *out = json_text_parse(text->stored->data, text->stored->bytes, QUANT_DEPTH_MAX, NULL);
        return *out || add_unusable(loader, text, "is not JSON text");
    }
    if (!source->quantized_layers || length < tail)
        return true;
    snprintf(layer, sizeof layer, "%s%.*s", source->prefix, (int)(length - tail), weight->name);
    entry = json_object_get(source->quantized_layers, layer);
    if (!entry)
        entry = json_object_get(source->quantized_layers, layer + strlen(source->prefix));
    *out = json_incref(entry);
    return true;
}

/* Formats that are more than FP8 with one factor for each row or tensor are refused by name. */
static bool check_quantization(struct weight_loader *loader, const struct weights_entry *weight)
{
    enum safetensors_dtype dtype = weight->stored->dtype;
    const char *format;
    json_t *how;
    char why[160];
    bool is_good;

    if (!read_quantization(&how, loader, weight))
        return false;
    if (!how)
        return true;
    format = json_string_value(json_object_get(how, "format"));
    is_good = format && ((strcmp(format, "float8_e4m3fn") == 0 && dtype == SAFETENSORS_F8_E4M3) ||
                         (strcmp(format, "float8_e5m2") == 0 && dtype == SAFETENSORS_F8_E5M2));
    snprintf(why, sizeof why, "is quantised as '%.64s' in type %s, which is not supported",
             format ? format : "?", weight->stored->dtype_name);
    json_decref(how);
    return is_good || add_unusable(loader, weight, why);
}

static const struct weights_entry *find_scale(const struct weights *weights,
                                              const struct weights_entry *weight)
{
    const struct weights_entry *scale = find_beside(weights, weight->name, ".scale_weight");

    return scale ? scale : find_beside(weights, weight->name, ".weight_scale");
}

/* A weight's largest value times the scale must still be a number. */
static bool check_scale(struct weight_loader *loader, const struct weights_entry *entry,
                        int64_t count, enum dtype dtype)
{
    const float largest = dtype == DTYPE_F8_E5M2 ? 57344.0f : 448.0f;

    for (int64_t i = 0; i < count; i++) {
        float scale = dtype_load(DTYPE_F32, entry->stored->data, i);

        if (!(scale > 0.0f) || !isfinite(scale * largest))
            return add_unusable(loader, entry, "holds a scale that is no positive, finite number");
    }
    return true;
}

/* The factor, [1] or [n], of the rows that `found` is part of; *out stays without data when there
 * is none. */
static bool take_scale(struct weight_loader *loader, struct tensor *out,
                       const struct weights_found *found, enum dtype dtype, int64_t n)
{
    const struct weights_entry *entry = find_scale(loader->weights, found->entry);
    const int64_t rows = n * found->target.parts, one = 1;
    bool is_single;
    int64_t count;
    float *copy;

    if (!entry)
        return true;
    if (!is_f8(dtype))
        return add_unusable(loader, found->entry, "has a scale, but is not FP8");
    if (find_beside(loader->weights, found->entry->name, ".weight_scale_2"))
        return add_unusable(loader, found->entry, "has scales of two levels");
    if (entry->stored->dtype != SAFETENSORS_F32)
        return add_unusable(loader, entry, "is a scale, but not F32");
    is_single = same_shape(entry->stored, 1, &one, 1);
    if (!is_single && !same_shape(entry->stored, 1, &rows, 1))
        return add_misshapen(loader, entry, 1, &rows, 1);
    if (!check_scale(loader, entry, is_single ? 1 : rows, dtype))
        return false;
    count = is_single ? 1 : n;
    copy = weights_own(loader->weights, (size_t)count * sizeof *copy);
    if (!copy)
        return out_of_memory(loader);
    for (int64_t i = 0; i < count; i++)
        copy[i] =
            dtype_load(DTYPE_F32, entry->stored->data, is_single ? 0 : n * found->target.part + i);
    *out = tensor_of(copy, DTYPE_F32, 1, &count);
    return true;
}

static bool find(struct weight_loader *loader, struct weights_found *found, const char *name)
{
    weights_find(found, loader->weights, name);
    return found->entry != NULL;
}

static void take_layer(struct weight_loader *loader, struct linear *out, enum weights_use use,
                       int rank, const int64_t *dim, bool with_bias, const char *name)
{
    char weight[NAME_BYTES + 16], bias[NAME_BYTES + 16];
    struct linear layer = {0};
    struct weights_found found;

    *out = (struct linear){0};
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    if (!find(loader, &found, weight)) {
        add_missing(loader, &found);
    } else if (check_quantization(loader, found.entry) &&
               take_view(loader, &layer.weight, &found, rank, dim) &&
               take_scale(loader, &layer.scale, &found, layer.weight.dtype, dim[0])) {
        out->weight = layer.weight;
        out->scale = layer.scale;
        loader->weights->loaded_bytes += tensor_bytes(&layer.weight);
        tell_observer(loader, weight, use, &layer.weight, &found, tensor_exists(&layer.scale));
    }
    if (find(loader, &found, bias))
        take_vector(loader, &out->bias, bias, &found, dim[0]);
    else if (with_bias)
        add_missing(loader, &found);
}

void weight_loader_linear(struct weight_loader *loader, struct linear *out, int64_t n, int64_t k,
                          bool with_bias, const char *name_format, ...)
{
    char name[NAME_BYTES];
    va_list arguments;

    va_start(arguments, name_format);
    vsnprintf(name, sizeof name, name_format, arguments);
    va_end(arguments);
    take_layer(loader, out, WEIGHTS_LINEAR, 2, (int64_t[]){n, k}, with_bias, name);
    out->to_8_bits =
        loader->weights->is_quantised &&
        !keep_rule_reason(loader->weights->component, name, loader->weights->block_count);
}

void weight_loader_conv(struct weight_loader *loader, struct linear *out, int64_t n, int64_t c,
                        int64_t kernel, const char *name_format, ...)
{
    char name[NAME_BYTES];
    va_list arguments;

    va_start(arguments, name_format);
    vsnprintf(name, sizeof name, name_format, arguments);
    va_end(arguments);
    take_layer(loader, out, WEIGHTS_CONV, 4, (int64_t[]){n, c, kernel, kernel}, true, name);
}

void weight_loader_vector(struct weight_loader *loader, struct tensor *out, int64_t n,
                          const char *name_format, ...)
{
    struct weights_found found;
    char name[NAME_BYTES];
    va_list arguments;

    *out = (struct tensor){0};
    va_start(arguments, name_format);
    vsnprintf(name, sizeof name, name_format, arguments);
    va_end(arguments);
    if (find(loader, &found, name))
        take_vector(loader, out, name, &found, n);
    else
        add_missing(loader, &found);
}

void weight_loader_table(struct weight_loader *loader, struct tensor *out, int64_t rows,
                         int64_t columns, const char *name_format, ...)
{
    struct weights_found found;
    char name[NAME_BYTES];
    va_list arguments;

    *out = (struct tensor){0};
    va_start(arguments, name_format);
    vsnprintf(name, sizeof name, name_format, arguments);
    va_end(arguments);
    if (!find(loader, &found, name))
        add_missing(loader, &found);
    else if (find_scale(loader->weights, found.entry))
        add_unusable(loader, found.entry, "is a table with a scale, which is not supported");
    else if (take_view(loader, out, &found, 2, (int64_t[]){rows, columns}))
        tell_observer(loader, name, WEIGHTS_TABLE, out, &found, false);
}

bool weight_loader_finish(struct weight_loader *loader, struct error *err)
{
    const struct weights *weights = loader->weights;
    const char *what = component_name(weights->component);
    const char *verb = loader->has_other_problem    ? "cannot be used"
                       : loader->problem_count == 1 ? "is missing or has the wrong shape"
                                                    : "are missing or have the wrong shape";
    int unnamed = loader->problem_count - WEIGHT_LOADER_NAMED_MAX;

    if (loader->out_of_memory)
        return error_set(err, ERROR_NO_MEMORY, "%s in '%s'", what, weights->path);
    if (loader->problem_count == 0)
        return true;
    if (unnamed > 0)
        return error_set(err, ERROR_BAD_FILE, "%s in '%s': %d of its tensors %s: %s; and %d more",
                         what, weights->path, loader->problem_count, verb, loader->problems,
                         unnamed);
    return error_set(err, ERROR_BAD_FILE, "%s in '%s': %d of its tensors %s: %s", what,
                     weights->path, loader->problem_count, verb, loader->problems);
}
