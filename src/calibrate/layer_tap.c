#include "calibrate/layer_tap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/host_stream.h"
#include "base/size.h"

#define E4M3_LARGEST 448.0f

/* --- What ops see --- */

static int compare_data(const void *a, const void *b)
{
    const struct tapped_layer *x = *(struct tapped_layer *const *)a;
    const struct tapped_layer *y = *(struct tapped_layer *const *)b;

    return x->data < y->data ? -1 : x->data > y->data;
}

static struct tapped_layer *find_data(const struct layer_tap *tap, const void *data)
{
    struct tapped_layer wanted = {.data = data}, *key = &wanted, **found;

    found = bsearch(&key, tap->by_data, tap->by_data_count, sizeof(struct tapped_layer *),
                    compare_data);
    return found ? *found : NULL;
}

static void record_channels(struct tapped_layer *seen, const struct tensor *x)
{
    int64_t rows = tensor_row_count(x), columns = x->dim[x->rank - 1];

    for (int64_t row = 0; row < rows; row++) {
        const float *values = (const float *)x->data + tensor_row_offset(x, row);

        for (int64_t k = 0; k < columns; k++)
            seen->channel_max[k] = fmaxf(seen->channel_max[k], fabsf(values[k]));
    }
    seen->rows_seen += rows;
}

/* x in FP8, as float, in memory of the tap. False when memory is short. */
static bool round_activations(struct layer_tap *tap, struct tensor *out, const struct tensor *x)
{
    int64_t rows = tensor_row_count(x), columns = x->dim[x->rank - 1];
    size_t count = (size_t)(rows * columns);

    if (count > tap->rounded_count) {
        float *grown = reallocarray(tap->rounded, count, sizeof *grown);

        if (!grown)
            return false;
        tap->rounded = grown;
        tap->rounded_count = count;
    }
    for (int64_t row = 0; row < rows; row++)
        fp8_round_row(tap->rounded + row * columns,
                      (const float *)x->data + tensor_row_offset(x, row), columns);
    *out = tensor_of(tap->rounded, DTYPE_F32, x->rank, x->dim);
    return true;
}

static void tapped_linear(struct stream *stream, struct tensor *out, const struct tensor *x,
                          const struct linear *layer)
{
    struct layer_tap *tap = stream->tap;
    struct tapped_layer *seen = find_data(tap, layer->weight.data);
    struct linear used = *layer;
    struct tensor rounded;

    if (stream_skips(stream))
        return;
    if (seen) {
        tap->last = seen;
        if (tap->is_recording)
            record_channels(seen, x);
        if (seen->copy) {
            used.weight = seen->copy->weight;
            used.scale = seen->copy->scale;
        }
        if (seen->has_fp8_activations) {
            if (!round_activations(tap, &rounded, x)) {
                stream_fail(stream, ERROR_NO_MEMORY, "activations in FP8");
                return;
            }
            x = &rounded;
        }
    }
    tap->ops.linear(stream, out, x, &used);
}

/* The keys as attention gets them, of both sides, after their norm. */
static void record_keys(struct tapped_layer *seen, const struct tensor *k)
{
    int64_t heads = k->dim[2], width = k->dim[3];

    if (heads * width > seen->layer->source->view.dim[0])
        return;
    seen->key_heads = heads;
    for (int64_t b = 0; b < k->dim[0]; b++)
        for (int64_t t = 0; t < k->dim[1]; t++, seen->keys_seen++)
            for (int64_t n = 0; n < heads; n++) {
                const float *key =
                    (const float *)k->data + b * k->stride[0] + t * k->stride[1] + n * k->stride[2];

                for (int64_t d = 0; d < width; d++)
                    seen->key_sum[n * width + d] += (double)key[d];
            }
}

static void tapped_attention(struct stream *stream, struct tensor *out, const struct tensor *q,
                             const struct tensor *k, const struct tensor *v,
                             const struct attention_options *options)
{
    struct layer_tap *tap = stream->tap;

    if (stream_skips(stream))
        return;
    /* The image's v comes last before its attention. */
    if (tap->is_recording && tap->last && tap->last->key_sum)
        record_keys(tap->last, k);
    tap->ops.attention(stream, out, q, k, v, options);
}

static void tapped_patchify(struct stream *stream, struct tensor *out, const struct tensor *x,
                            int patch)
{
    struct layer_tap *tap = stream->tap;

    if (stream_skips(stream))
        return;
    if (tap->latents && tap->latent_count < tap->latent_room) {
        memcpy(tap->latents + (size_t)tap->latent_count * tap->latent_size, x->data,
               tap->latent_size * sizeof(float));
        tap->latent_count++;
    }
    tap->ops.patchify(stream, out, x, patch);
}

/* --- Coming and going --- */

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);

    return length >= tail && strcmp(text + length - tail, end) == 0;
}

static bool add_layer(struct tapped_layer *out, const struct plan_layer *layer)
{
    const struct tensor *view = &layer->source->view;

    out->layer = layer;
    out->channel_max = calloc((size_t)view->dim[1], sizeof *out->channel_max);
    if (strncmp(layer->name, "transformer.", strlen("transformer.")) == 0 &&
        (ends_with(layer->name, ".image.v") || ends_with(layer->name, ".image.v2"))) {
        out->key_sum = calloc((size_t)view->dim[0], sizeof *out->key_sum);
        return out->channel_max && out->key_sum;
    }
    return out->channel_max != NULL;
}

bool layer_tap_create(struct layer_tap **out, const struct convert_plan *plan, struct error *err)
{
    struct layer_tap *tap = calloc(1, sizeof *tap);

    if (!tap)
        return error_set(err, ERROR_NO_MEMORY, "layers");
    tap->layers = calloc(plan->layer_count + 1, sizeof *tap->layers);
    tap->by_data = calloc(plan->layer_count + 1, sizeof(struct tapped_layer *));
    if (!tap->layers || !tap->by_data)
        goto fail;
    for (; tap->count < plan->layer_count; tap->count++)
        if (!add_layer(&tap->layers[tap->count], &plan->layers[tap->count])) {
            tap->count++;
            goto fail;
        }
    *out = tap;
    return true;

fail:
    layer_tap_destroy(tap);
    return error_set(err, ERROR_NO_MEMORY, "layers");
}

void layer_tap_destroy(struct layer_tap *tap)
{
    if (!tap)
        return;
    for (size_t i = 0; tap->layers && i < tap->count; i++) {
        free(tap->layers[i].channel_max);
        free(tap->layers[i].key_sum);
    }
    free(tap->layers);
    free(tap->by_data);
    free(tap->rounded);
    free(tap);
}

struct tapped_layer *layer_tap_find(struct layer_tap *tap, const char *name)
{
    for (size_t i = 0; i < tap->count; i++)
        if (strcmp(tap->layers[i].layer->name, name) == 0)
            return &tap->layers[i];
    return NULL;
}

bool layer_tap_attach(struct layer_tap *tap, struct backend_ops *ops, struct stream *stream,
                      struct error *err)
{
    if (ops->activation_dtype != DTYPE_F32)
        return error_set(err, ERROR_BACKEND, "'%s': layers can be measured on the CPU only",
                         ops->name);
    for (size_t i = 0; i < tap->count; i++)
        if (tap->layers[i].data)
            tap->by_data[tap->by_data_count++] = &tap->layers[i];
    qsort(tap->by_data, tap->by_data_count, sizeof(struct tapped_layer *), compare_data);
    tap->ops = *ops;
    stream->tap = tap;
    ops->linear = tapped_linear;
    ops->attention = tapped_attention;
    ops->patchify = tapped_patchify;
    return true;
}

/* --- What was seen --- */

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return x < y ? -1 : x > y;
}

bool layer_tap_summarise(struct activation_summary *out, const struct tapped_layer *layer,
                         struct error *err)
{
    int64_t columns = layer->layer->source->view.dim[1];
    float *sorted = calloc((size_t)columns, sizeof *sorted);

    *out = (struct activation_summary){0};
    if (!sorted)
        return error_set(err, ERROR_NO_MEMORY, "activations");
    memcpy(sorted, layer->channel_max, (size_t)columns * sizeof *sorted);
    qsort(sorted, (size_t)columns, sizeof *sorted, compare_floats);
    out->least = sorted[0];
    out->median = sorted[columns / 2];
    out->largest = sorted[columns - 1];
    out->static_scale = out->largest / E4M3_LARGEST;
    free(sorted);
    for (int64_t k = 0; k < columns; k++)
        if (layer->channel_max[k] > ACTIVATION_OUTLIER * out->median) {
            if (out->outliers < ACTIVATION_OUTLIERS_NAMED)
                out->outlier[out->outliers] = k;
            out->outliers++;
        }
    return true;
}
