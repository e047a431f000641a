#include <stdio.h>
#include <string.h>

#include "server/limits.h"
#include "server/openai_request.h"
#include "server/picture_text.h"

#define NUMBER_BYTES_MAX 64

static json_t *fail(struct openai_problem *problem, json_t *body, const char *param,
                    const char *message)
{
    json_decref(body);
    *problem = (struct openai_problem){.status = 400, .code = "invalid_value"};
    snprintf(problem->param, sizeof problem->param, "%s", param);
    snprintf(problem->message, sizeof problem->message, "%s", message);
    return NULL;
}

static json_t *fail_for_memory(struct openai_problem *problem, json_t *body)
{
    fail(problem, body, "", "The server is short of memory.");
    problem->status = 503;
    problem->code = "out_of_memory";
    return NULL;
}

/* Fields that are numbers or booleans in JSON. */
static bool is_literal(const char *name)
{
    static const char *const literals[] = {
        "n",     "stream",    "partial_images", "output_compression",  "seed",
        "steps", "cfg_scale", "guidance_scale", "num_inference_steps", "strength"};

    for (size_t i = 0; i < COUNT_OF(literals); i++)
        if (strcmp(literals[i], name) == 0)
            return true;
    return false;
}

/* A number or boolean from its text; what is neither stays a text, which its field then refuses.
 * NULL: no valid UTF-8, or memory is short. */
static json_t *value_of(const struct http_part *part)
{
    json_t *value = NULL;

    if (memchr(part->bytes, '\0', part->size))
        return NULL;
    if (is_literal(part->name) && part->size > 0 && part->size <= NUMBER_BYTES_MAX)
        value = json_loadb(part->bytes, part->size, JSON_DECODE_ANY, NULL);
    if (value && (json_is_number(value) || json_is_boolean(value)))
        return value;
    json_decref(value);
    return json_stringn(part->bytes, part->size);
}

/* An edit without a size keeps its picture's, where the model can draw that. */
static bool set_size(json_t *body, const struct http_part *image, const struct worker_facts *facts)
{
    const struct image_limits limits = {.bytes_max = IMAGE_FILE_BYTES_MAX,
                                        .pixels_max = IMAGE_PIXELS_MAX};
    const char *size = json_string_value(json_object_get(body, "size"));
    struct image_header header;
    int width, height;

    if ((size && strcmp(size, "auto") != 0) ||
        !image_header_read(&header, image->bytes, image->size, &limits, "image", NULL))
        return true;
    width = header.width / 16 * 16;
    height = header.height / 16 * 16;
    if (width < 64 || height < 64 || width > facts->side_max || height > facts->side_max)
        return true;
    return json_object_set_new(body, "size", json_sprintf("%dx%d", width, height)) == 0;
}

json_t *openai_form_json(const struct http_part *parts, size_t count,
                         const struct worker_facts *facts, struct openai_problem *problem)
{
    const struct http_part *image = NULL;
    json_t *body = json_object();

    if (!body)
        return fail_for_memory(problem, NULL);
    for (size_t i = 0; i < count; i++) {
        const struct http_part *part = &parts[i];
        bool is_image = strcmp(part->name, "image") == 0 || strcmp(part->name, "image[]") == 0;
        bool is_file = is_image || strcmp(part->name, "mask") == 0;
        json_t *value = is_file ? picture_text_json(part->bytes, part->size) : value_of(part);

        if (is_image && image) {
            json_decref(value);
            return fail(problem, body, "image", "image: one picture is supported.");
        }
        if (is_image)
            image = part;
        if (!value && !is_file)
            return fail(problem, body, part->name, "The field is no valid UTF-8.");
        if (json_object_set_new(body, is_image ? "image" : part->name, value) != 0)
            return fail_for_memory(problem, body);
    }
    if (image && !set_size(body, image, facts))
        return fail_for_memory(problem, body);
    return body;
}
