/* The JSON form of specs, and their copies. */
#include <stdlib.h>
#include <string.h>

#include "job/job_fields.h"

/* --- To JSON --- */

static json_t *layers_json(const struct job_spec *spec)
{
    json_t *layers = json_array();

    for (int32_t i = 0; layers && i < spec->skip_layer_count; i++)
        if (json_array_append_new(layers, json_integer(spec->skip_layers[i])) != 0) {
            json_decref(layers);
            return NULL;
        }
    return layers;
}

static json_t *field_json(const struct job_spec *spec, const struct job_field *field)
{
    const void *from = job_field_in(spec, field);

    switch (field->type) {
    case FIELD_TEXT:
        return json_string(*(char *const *)from);
    case FIELD_INTEGER:
        return json_integer(*(const int32_t *)from);
    case FIELD_NUMBER:
        return json_real(*(const double *)from);
    case FIELD_FLAG:
        return json_boolean(*(const bool *)from);
    case FIELD_SEED:
        return json_integer((json_int_t)spec->seed);
    case FIELD_LAYERS:
        return layers_json(spec);
    case FIELD_FORMAT:
        return json_string(image_format_name(spec->format));
    case FIELD_PICTURE:
        break;
    }
    return NULL;
}

static bool is_absent(const struct job_spec *spec, const struct job_field *field)
{
    return field->type == FIELD_PICTURE ||
           (field->type == FIELD_TEXT && !*(char *const *)job_field_in(spec, field));
}

json_t *job_spec_json(const struct job_spec *spec)
{
    json_t *object = json_object();
    bool ok = object;

    for (size_t i = 0; ok && i < job_field_count; i++)
        if (!is_absent(spec, &job_fields[i]))
            ok = json_object_set_new(object, job_fields[i].name,
                                     field_json(spec, &job_fields[i])) == 0;
    ok = ok &&
         json_object_set_new(object, "has_init_image", json_boolean(spec->init_image.bytes)) == 0 &&
         json_object_set_new(object, "has_mask", json_boolean(spec->mask.bytes)) == 0;
    if (ok)
        return object;
    json_decref(object);
    return NULL;
}

/* --- Copies, cost --- */

bool job_image_copy(struct job_image *out, const struct job_image *image)
{
    *out = (struct job_image){0};
    if (!image || !image->bytes)
        return true;
    out->bytes = malloc(image->size + 1); /* an empty file is not NULL */
    if (!out->bytes)
        return false;
    memcpy(out->bytes, image->bytes, image->size);
    out->size = image->size;
    return true;
}

bool job_spec_copy(struct job_spec *out, const struct job_spec *spec)
{
    bool ok = true;

    *out = *spec;
    for (size_t i = 0; i < job_field_count; i++) {
        if (job_fields[i].type == FIELD_TEXT)
            *(char **)job_field_of(out, &job_fields[i]) = NULL;
        else if (job_fields[i].type == FIELD_PICTURE)
            *(struct job_image *)job_field_of(out, &job_fields[i]) = (struct job_image){0};
    }
    for (size_t i = 0; ok && i < job_field_count; i++) {
        const void *from = job_field_in(spec, &job_fields[i]);
        void *to = job_field_of(out, &job_fields[i]);

        if (job_fields[i].type == FIELD_TEXT && *(char *const *)from) {
            *(char **)to = strdup(*(char *const *)from);
            ok = *(char **)to;
        } else if (job_fields[i].type == FIELD_PICTURE) {
            ok = job_image_copy(to, from);
        }
    }
    if (!ok)
        job_spec_finish(out);
    return ok;
}

void job_spec_finish(struct job_spec *spec)
{
    for (size_t i = 0; i < job_field_count; i++) {
        void *at = job_field_of(spec, &job_fields[i]);

        if (job_fields[i].type == FIELD_TEXT)
            free(*(char **)at);
        else if (job_fields[i].type == FIELD_PICTURE)
            free(((struct job_image *)at)->bytes);
    }
    *spec = (struct job_spec){0};
}

double job_spec_cost(const struct job_spec *spec)
{
    double megapixels = (double)job_spec_pixels(spec) * 1e-6;

    return spec->steps * megapixels * spec->count * (spec->guidance > 1 ? 2 : 1);
}
