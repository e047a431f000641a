/* Reading specs from JSON, and checking them. */
#include "job/job_spec.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "image/image_text.h"
#include "job/base64.h"
#include "job/job_fields.h"

/* What a field is read with. */
struct reading {
    struct job_spec *spec;
    const struct worker_facts *facts; /* NULL: only absolute ranges */
    const struct job_limits *limits;  /* NULL: none */
    struct job_problem *problem;
};

/* A text that snprintf cut may end within a character. */
static void end_whole(char *text, size_t size, int wanted)
{
    size_t length = size - 1, at = length;
    unsigned char first;

    if (wanted < 0 || (size_t)wanted < size)
        return;
    while (at > 0 && ((unsigned char)text[at - 1] & 0xc0) == 0x80)
        at--;
    first = at > 0 ? (unsigned char)text[at - 1] : 0;
    if (first >= 0xc0 && length - at < (first >= 0xf0 ? 3u : first >= 0xe0 ? 2u : 1u))
        text[at - 1] = '\0';
}

PRINTF_LIKE(4, 5)
static bool fail(struct job_problem *problem, enum job_problem_kind kind, const char *field,
                 const char *format, ...)
{
    va_list args;

    *problem = (struct job_problem){.kind = kind};
    end_whole(problem->field, sizeof problem->field,
              snprintf(problem->field, sizeof problem->field, "%s", field));
    va_start(args, format);
    end_whole(problem->message, sizeof problem->message,
              vsnprintf(problem->message, sizeof problem->message, format, args));
    va_end(args);
    return false;
}

static bool fail_type(struct job_problem *problem, const struct job_field *field, const char *what)
{
    return fail(problem, JOB_PROBLEM_TYPE, field->name, "'%s' must be %s", field->name, what);
}

static bool fail_memory(struct job_problem *problem)
{
    return fail(problem, JOB_PROBLEM_MEMORY, "", "memory is short");
}

/* --- One field --- */

static bool read_text(const struct reading *reading, const struct job_field *field,
                      const json_t *value)
{
    char **to = job_field_of(reading->spec, field);
    size_t length = json_string_length(value);
    const char *text = json_string_value(value);

    if (!json_is_string(value))
        return fail_type(reading->problem, field, "a text");
    if (length > JOB_PROMPT_BYTES_MAX)
        return fail(reading->problem, JOB_PROBLEM_TOO_LARGE, field->name,
                    "'%s' may have at most %d bytes", field->name, JOB_PROMPT_BYTES_MAX);
    /* Ends at a NUL and repairs what is no UTF-8: a text that stays the same has neither. */
    if (!image_text_from_utf8(to, (const unsigned char *)text, length, NULL))
        return fail_memory(reading->problem);
    if (strlen(*to) == length && memcmp(*to, text, length) == 0)
        return true;
    return fail(reading->problem, JOB_PROBLEM_VALUE, field->name,
                "'%s' must be UTF-8 without NUL characters", field->name);
}

static bool read_integer(const struct reading *reading, const struct job_field *field,
                         const json_t *value)
{
    json_int_t number = json_integer_value(value), low = (json_int_t)field->low;
    json_int_t high = (json_int_t)job_field_high(field, reading->facts, reading->limits);

    if (!json_is_integer(value))
        return fail_type(reading->problem, field, "a whole number");
    if (number < low || number > high || (field->multiple_of && number % field->multiple_of != 0)) {
        if (field->multiple_of)
            return fail(reading->problem, JOB_PROBLEM_VALUE, field->name,
                        "'%s' must be a multiple of %d from %lld to %lld", field->name,
                        field->multiple_of, low, high);
        return fail(reading->problem, JOB_PROBLEM_VALUE, field->name,
                    "'%s' must be from %lld to %lld", field->name, low, high);
    }
    *(int32_t *)job_field_of(reading->spec, field) = (int32_t)number;
    return true;
}

static bool read_number(const struct reading *reading, const struct job_field *field,
                        const json_t *value)
{
    double number = json_number_value(value);

    if (!json_is_number(value))
        return fail_type(reading->problem, field, "a number");
    if (!(number >= field->low && number <= field->high)) /* false for NaN */
        return fail(reading->problem, JOB_PROBLEM_VALUE, field->name, "'%s' must be from %g to %g",
                    field->name, field->low, field->high);
    *(double *)job_field_of(reading->spec, field) = number;
    return true;
}

static bool read_flag(const struct reading *reading, const struct job_field *field,
                      const json_t *value)
{
    if (!json_is_boolean(value))
        return fail_type(reading->problem, field, "true or false");
    *(bool *)job_field_of(reading->spec, field) = json_is_true(value);
    return true;
}

/* -1 leaves the choice for later: see choose_seed. */
static bool read_seed(const struct reading *reading, const struct job_field *field,
                      const json_t *value)
{
    json_int_t seed = json_integer_value(value);

    if (!json_is_integer(value))
        return fail_type(reading->problem, field, "a whole number");
    if (seed < -1)
        return fail(reading->problem, JOB_PROBLEM_VALUE, field->name,
                    "'%s' must be -1, for a random one, or from 0 to %" PRId64, field->name,
                    JOB_SEED_MAX - JOB_COUNT_MAX);
    reading->spec->seed = (uint64_t)seed;
    return true;
}

static bool read_layers(const struct reading *reading, const struct job_field *field,
                        const json_t *value)
{
    json_int_t high = (json_int_t)job_field_high(field, reading->facts, reading->limits);
    size_t count = json_array_size(value);

    if (!json_is_array(value))
        return fail_type(reading->problem, field, "an array of whole numbers");
    if (count > JOB_SKIP_LAYERS_MAX)
        return fail(reading->problem, JOB_PROBLEM_VALUE, field->name,
                    "'%s' may have at most %d elements", field->name, JOB_SKIP_LAYERS_MAX);
    for (size_t i = 0; i < count; i++) {
        const json_t *element = json_array_get(value, i);
        json_int_t layer = json_integer_value(element);

        if (!json_is_integer(element))
            return fail_type(reading->problem, field, "an array of whole numbers");
        if (layer < 0 || layer > high)
            return fail(reading->problem, JOB_PROBLEM_VALUE, field->name,
                        "'%s': layers are from 0 to %lld", field->name, high);
        reading->spec->skip_layers[i] = (int32_t)layer;
    }
    reading->spec->skip_layer_count = (int32_t)count;
    return true;
}

static bool read_format(const struct reading *reading, const struct job_field *field,
                        const json_t *value)
{
    const char *name = json_string_value(value);

    if (!json_is_string(value))
        return fail_type(reading->problem, field, "a text");
    for (int i = 0; i < IMAGE_FORMAT_COUNT; i++)
        if (strcmp(name, image_format_name((enum image_format)i)) == 0) {
            reading->spec->format = (enum image_format)i;
            return true;
        }
    return fail(reading->problem, JOB_PROBLEM_VALUE, field->name, "'%s' must be %s", field->name,
                JOB_FORMAT_NAMES);
}

/* --- Pictures --- */

/* The text behind "data:image/png;base64,", or all of it. */
static const char *skip_data_url(const char *text, size_t *length)
{
    const char *comma;

    if (strncmp(text, "data:image/", strlen("data:image/")) != 0)
        return text;
    comma = strstr(text, ";base64,");
    if (!comma)
        return text;
    comma += strlen(";base64,");
    *length -= (size_t)(comma - text);
    return comma;
}

/* The file's first bytes; a worker decodes the rest. */
static bool check_picture(const struct job_image *image, const char *name,
                          struct job_problem *problem)
{
    const struct image_limits limits = {.bytes_max = JOB_IMAGE_BYTES_MAX,
                                        .pixels_max = JOB_IMAGE_PIXELS_MAX};
    struct image_header header;
    struct error err;

    if (!image_header_read(&header, image->bytes, image->size, &limits, name, &err))
        return fail(problem, JOB_PROBLEM_VALUE, name, "%s", err.message);
    if (header.width > JOB_IMAGE_SIDE_MAX || header.height > JOB_IMAGE_SIDE_MAX)
        return fail(problem, JOB_PROBLEM_TOO_LARGE, name, "'%s' may have at most %d pixels a side",
                    name, JOB_IMAGE_SIDE_MAX);
    return true;
}

static bool read_picture(const struct reading *reading, const struct job_field *field,
                         const json_t *value)
{
    struct job_image *image = job_field_of(reading->spec, field);
    size_t length = json_string_length(value);
    const char *text;

    if (!json_is_string(value))
        return fail_type(reading->problem, field, "a text: base64 of a picture file");
    text = skip_data_url(json_string_value(value), &length);
    switch (base64_decode(&image->bytes, &image->size, text, length, JOB_IMAGE_BYTES_MAX)) {
    case BASE64_OK:
        return check_picture(image, field->name, reading->problem);
    case BASE64_TOO_LARGE:
        return fail(reading->problem, JOB_PROBLEM_TOO_LARGE, field->name,
                    "'%s' may have at most %d bytes", field->name, JOB_IMAGE_BYTES_MAX);
    case BASE64_NO_MEMORY:
        return fail_memory(reading->problem);
    case BASE64_MALFORMED:
        break;
    }
    return fail(reading->problem, JOB_PROBLEM_VALUE, field->name, "'%s' is not valid base64",
                field->name);
}

static bool read_field(const struct reading *reading, const struct job_field *field,
                       const json_t *value)
{
    switch (field->type) {
    case FIELD_TEXT:
        return read_text(reading, field, value);
    case FIELD_INTEGER:
        return read_integer(reading, field, value);
    case FIELD_NUMBER:
        return read_number(reading, field, value);
    case FIELD_FLAG:
        return read_flag(reading, field, value);
    case FIELD_SEED:
        return read_seed(reading, field, value);
    case FIELD_LAYERS:
        return read_layers(reading, field, value);
    case FIELD_FORMAT:
        return read_format(reading, field, value);
    case FIELD_PICTURE:
        return read_picture(reading, field, value);
    }
    return false;
}

/* --- The whole --- */

static const struct job_field *find_field(const char *name)
{
    for (size_t i = 0; i < job_field_count; i++)
        if (strcmp(job_fields[i].name, name) == 0)
            return &job_fields[i];
    return NULL;
}

static void fill_defaults(const struct reading *reading)
{
    struct job_spec *spec = reading->spec;

    *spec = (struct job_spec){.seed = (uint64_t)-1, .format = IMAGE_PNG};
    for (size_t i = 0; i < job_field_count; i++) {
        const struct job_field *field = &job_fields[i];
        double value;

        if (field->type != FIELD_INTEGER && field->type != FIELD_NUMBER)
            continue;
        value = job_field_default(field, reading->facts, reading->limits);
        if (field->type == FIELD_INTEGER)
            *(int32_t *)job_field_of(spec, field) = (int32_t)value;
        else
            *(double *)job_field_of(spec, field) = value;
    }
}

/* Sides that were left to us shrink, the longer one first, until the picture may be drawn. */
static void shrink_default_sides(const struct reading *reading, const json_t *object)
{
    bool may_width = !json_object_get(object, "width");
    bool may_height = !json_object_get(object, "height");
    struct job_spec *spec = reading->spec;

    while (reading->limits && reading->limits->pixels_max > 0 &&
           job_spec_pixels(spec) > reading->limits->pixels_max) {
        bool width = may_width && spec->width > JOB_SIDE_STEP;
        bool height = may_height && spec->height > JOB_SIDE_STEP;

        if (!width && !height)
            return;
        if (width && (!height || spec->width >= spec->height))
            spec->width -= JOB_SIDE_STEP;
        else
            spec->height -= JOB_SIDE_STEP;
    }
}

/* 32 bits: what other programs draw, and what a JavaScript number holds. */
static bool choose_seed(struct job_spec *spec, struct job_problem *problem)
{
    uint32_t seed;

    if (spec->seed != (uint64_t)-1)
        return true;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        return fail(problem, JOB_PROBLEM_MEMORY, "seed", "the system has no random numbers");
    spec->seed = seed;
    return true;
}

/* What no field can say alone. */
static bool check_together(const struct reading *reading)
{
    const struct job_spec *spec = reading->spec;
    struct job_problem *problem = reading->problem;

    if (reading->limits && reading->limits->pixels_max > 0 &&
        job_spec_pixels(spec) > reading->limits->pixels_max)
        return fail(problem, JOB_PROBLEM_TOO_LARGE, "width",
                    "'width' times 'height' may be at most %" PRId64 " pixels",
                    reading->limits->pixels_max);
    if (spec->seed > (uint64_t)(JOB_SEED_MAX - spec->count))
        return fail(problem, JOB_PROBLEM_VALUE, "seed", "'seed' plus 'count' must stay below 2^63");
    if (spec->mask.bytes && !spec->init_image.bytes)
        return fail(problem, JOB_PROBLEM_VALUE, "mask", "'mask' needs an 'init_image'");
    if (spec->init_image.bytes && reading->facts && !reading->facts->has_encoder)
        return fail(problem, JOB_PROBLEM_VALUE, "init_image",
                    "'init_image': this model cannot read pictures");
    return true;
}

/* The JSON form of the store says of pictures only whether there were any. */
static bool read_fields(const struct reading *reading, const json_t *object, bool is_stored)
{
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        const struct job_field *field = find_field(name);

        if (is_stored && (strcmp(name, "has_init_image") == 0 || strcmp(name, "has_mask") == 0))
            continue;
        if (!field || (is_stored && field->type == FIELD_PICTURE))
            return fail(reading->problem, JOB_PROBLEM_UNKNOWN_FIELD, name, "there is no field '%s'",
                        name);
        if (!read_field(reading, field, value))
            return false;
    }
    for (size_t i = 0; i < job_field_count; i++)
        if (job_fields[i].is_required && !json_object_get(object, job_fields[i].name))
            return fail(reading->problem, JOB_PROBLEM_VALUE, job_fields[i].name, "'%s' is missing",
                        job_fields[i].name);
    return true;
}

bool job_spec_read(struct job_spec *spec, const json_t *object, const struct worker_facts *facts,
                   const struct job_limits *limits, struct job_problem *problem)
{
    const struct reading reading = {spec, facts, limits, problem};

    *spec = (struct job_spec){0};
    if (!json_is_object(object))
        return fail(problem, JOB_PROBLEM_TYPE, "", "the request must be a JSON object");
    fill_defaults(&reading);
    if (!read_fields(&reading, object, false))
        goto fail;
    shrink_default_sides(&reading, object);
    if (choose_seed(spec, problem) && check_together(&reading))
        return true;

fail:
    job_spec_finish(spec);
    return false;
}

/* --- From the store --- */

/* The JSON form says which pictures there were. */
static bool check_stored_picture(const json_t *object, const char *key,
                                 const struct job_image *image, const char *name,
                                 struct job_problem *problem)
{
    if (json_is_true(json_object_get(object, key)) == (image && image->bytes))
        return true;
    return fail(problem, JOB_PROBLEM_VALUE, name, "'%s' is not what the stored job had", name);
}

bool job_spec_restore(struct job_spec *spec, const json_t *object,
                      const struct job_image *init_image, const struct job_image *mask,
                      struct job_problem *problem)
{
    const struct reading reading = {.spec = spec, .problem = problem};

    *spec = (struct job_spec){0};
    if (!json_is_object(object))
        return fail(problem, JOB_PROBLEM_TYPE, "", "the stored request is no JSON object");
    fill_defaults(&reading);
    if (!read_fields(&reading, object, true) ||
        !check_stored_picture(object, "has_init_image", init_image, "init_image", problem) ||
        !check_stored_picture(object, "has_mask", mask, "mask", problem))
        goto fail;
    if (!job_image_copy(&spec->init_image, init_image) || !job_image_copy(&spec->mask, mask)) {
        fail_memory(problem);
        goto fail;
    }
    if (check_together(&reading)) /* a seed that is still -1 is too large */
        return true;

fail:
    job_spec_finish(spec);
    return false;
}
