#include "server/openai_request.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/limits.h"

static bool fail(struct openai_problem *problem, const char *param, const char *format, ...)
    PRINTF_LIKE(3, 4);

static bool fail(struct openai_problem *problem, const char *param, const char *format, ...)
{
    va_list arguments;

    problem->status = 400;
    problem->code = "invalid_value";
    snprintf(problem->param, sizeof problem->param, "%s", param);
    va_start(arguments, format);
    vsnprintf(problem->message, sizeof problem->message, format, arguments);
    va_end(arguments);
    return false;
}

static bool fail_for_memory(struct openai_problem *problem)
{
    fail(problem, "", "The server is short of memory.");
    problem->status = 503;
    problem->code = "out_of_memory";
    return false;
}

/* --- Choices --- */

/* *out: the place of the member's text in `choices`, NULL at their end; 0 where it is absent. */
static bool read_choice(int *out, const json_t *body, const char *name, const char *const *choices,
                        struct openai_problem *problem)
{
    const json_t *value = json_object_get(body, name);

    *out = 0;
    if (!value || json_is_null(value))
        return true;
    for (int i = 0; json_is_string(value) && choices[i]; i++)
        if (strcmp(json_string_value(value), choices[i]) == 0) {
            *out = i;
            return true;
        }
    return fail(problem, name, "%s: not one of the supported values.", name);
}

static bool read_flag(bool *out, const json_t *body, const char *name,
                      struct openai_problem *problem)
{
    const json_t *value = json_object_get(body, name);

    *out = json_is_true(value);
    if (value && !json_is_boolean(value) && !json_is_null(value))
        return fail(problem, name, "%s: must be true or false.", name);
    return true;
}

/* Absent: `otherwise`. */
static bool read_integer(int *out, const json_t *body, const char *name, int least, int most,
                         int otherwise, struct openai_problem *problem)
{
    const json_t *value = json_object_get(body, name);
    json_int_t number = json_integer_value(value);

    *out = otherwise;
    if (!value || json_is_null(value))
        return true;
    if (!json_is_integer(value) || number < least || number > most)
        return fail(problem, name, "%s: must be an integer from %d to %d.", name, least, most);
    *out = (int)number;
    return true;
}

/* --- The model --- */

bool openai_knows_model(const char *name, const struct worker_facts *facts)
{
    static const char *const aliases[] = {"gpt-image-", "dall-e-", "stable-diffusion-", "sd3"};

    if (strcasecmp(name, facts->model) == 0 || strcasecmp(name, facts->variant) == 0)
        return true;
    for (size_t i = 0; i < COUNT_OF(aliases); i++)
        if (strncasecmp(name, aliases[i], strlen(aliases[i])) == 0)
            return true;
    return false;
}

static bool check_model(const json_t *body, const struct worker_facts *facts,
                        struct openai_problem *problem)
{
    const json_t *model = json_object_get(body, "model");

    if (!model || json_is_null(model))
        return true;
    if (!json_is_string(model))
        return fail(problem, "model", "model: must be a text.");
    if (openai_knows_model(json_string_value(model), facts))
        return true;
    fail(problem, "model", "The model does not exist; this server has '%s'.", facts->model);
    problem->status = 404;
    problem->code = "model_not_found";
    return false;
}

/* --- Size --- */

/* "1024x1024": digits, an x, digits. */
static bool parse_size(const char *text, int32_t *width, int32_t *height)
{
    char *end;
    long w, h;

    if (*text < '0' || *text > '9')
        return false;
    w = strtol(text, &end, 10);
    if (*end != 'x' || end[1] < '0' || end[1] > '9')
        return false;
    h = strtol(end + 1, &end, 10);
    if (*end || w > INT32_MAX || h > INT32_MAX)
        return false;
    *width = (int32_t)w;
    *height = (int32_t)h;
    return true;
}

static bool read_size(json_t *spec, const json_t *body, const struct worker_facts *facts,
                      struct openai_problem *problem)
{
    const json_t *size = json_object_get(body, "size");
    int32_t width = facts->width, height = facts->height;

    if (size && !json_is_null(size)) {
        const char *text = json_string_value(size);

        if (!text || (strcmp(text, "auto") != 0 && !parse_size(text, &width, &height)))
            return fail(problem, "size", "size: must be 'auto' or as '1024x1024'.");
    }
    if (json_object_set_new(spec, "width", json_integer(width)) != 0 ||
        json_object_set_new(spec, "height", json_integer(height)) != 0)
        return fail_for_memory(problem);
    return true;
}

/* --- Quality: a preset of steps --- */

static const char *const qualities[] = {"auto", "low", "medium", "high", "standard", "hd", NULL};
enum { QUALITY_AUTO, QUALITY_LOW, QUALITY_MEDIUM, QUALITY_HIGH, QUALITY_STANDARD, QUALITY_HD };

static int steps_of_quality(int quality, const struct worker_facts *facts)
{
    switch (quality) {
    case QUALITY_LOW:
        return facts->is_turbo ? 4 : 12;
    case QUALITY_MEDIUM:
    case QUALITY_STANDARD:
        return facts->is_turbo ? 4 : 28;
    case QUALITY_HIGH:
    case QUALITY_HD:
        return facts->is_turbo ? 8 : 40;
    default:
        return facts->steps;
    }
}

static const char *quality_echo(int quality)
{
    if (quality == QUALITY_LOW)
        return "low";
    return quality == QUALITY_HIGH || quality == QUALITY_HD ? "high" : "medium";
}

static bool read_quality(struct openai_request *out, const json_t *body,
                         const struct worker_facts *facts, struct openai_problem *problem)
{
    int quality;

    if (!read_choice(&quality, body, "quality", qualities, problem))
        return false;
    out->quality = quality_echo(quality);
    if (json_object_set_new(out->spec, "steps", json_integer(steps_of_quality(quality, facts))) !=
        0)
        return fail_for_memory(problem);
    return true;
}

/* --- What is passed on, and what is not --- */

/* Fields that have one of their own in the spec; the later of two for the same wins. */
static const struct {
    const char *name, *spec;
} passed[] = {
    {"prompt", "prompt"},
    {"negative_prompt", "negative_prompt"},
    {"seed", "seed"},
    {"num_inference_steps", "steps"},
    {"steps", "steps"},
    {"cfg_scale", "guidance_scale"},
    {"guidance_scale", "guidance_scale"},
};

/* The same, of edits alone. */
static const struct {
    const char *name, *spec;
} passed_edits[] = {
    {"image", "init_image"},
    {"mask", "mask"},
    {"strength", "strength"},
};

static bool pass(json_t *spec, const char *to, const json_t *body, const char *from)
{
    json_t *value = json_object_get(body, from);

    return !value || json_is_null(value) || json_object_set(spec, to, value) == 0;
}

static bool pass_fields(struct openai_request *out, const json_t *body)
{
    for (size_t i = 0; i < COUNT_OF(passed); i++)
        if (!pass(out->spec, passed[i].spec, body, passed[i].name))
            return false;
    for (size_t i = 0; out->is_edit && i < COUNT_OF(passed_edits); i++)
        if (!pass(out->spec, passed_edits[i].spec, body, passed_edits[i].name))
            return false;
    return true;
}

static bool is_used(const char *name, bool is_edit)
{
    static const char *const used[] = {"model",
                                       "n",
                                       "size",
                                       "quality",
                                       "response_format",
                                       "output_format",
                                       "output_compression",
                                       "background",
                                       "stream",
                                       "partial_images"};

    for (size_t i = 0; i < COUNT_OF(used); i++)
        if (strcmp(used[i], name) == 0)
            return true;
    for (size_t i = 0; i < COUNT_OF(passed); i++)
        if (strcmp(passed[i].name, name) == 0)
            return true;
    for (size_t i = 0; is_edit && i < COUNT_OF(passed_edits); i++)
        if (strcmp(passed_edits[i].name, name) == 0)
            return true;
    return false;
}

static void note_ignored(struct openai_request *out, const json_t *body)
{
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)body, name,
                        value) if (!json_is_null(value) && !is_used(name, out->is_edit))
        ignored_add(&out->ignored, name);
}

/* --- Answers: how many, how, in which format --- */

static bool read_background(const json_t *body, struct openai_problem *problem)
{
    static const char *const backgrounds[] = {"auto", "opaque", "transparent", NULL};
    int background;

    if (!read_choice(&background, body, "background", backgrounds, problem))
        return false;
    if (background == 2)
        return fail(problem, "background", "background: transparent pictures are not supported.");
    return true;
}

static bool read_format(struct openai_request *out, const json_t *body,
                        struct openai_problem *problem)
{
    static const char *const formats[] = {"png", "jpeg", "webp", NULL};
    int format, compression;

    if (!read_choice(&format, body, "output_format", formats, problem) ||
        !read_integer(&compression, body, "output_compression", 0, 100, -1, problem))
        return false;
    if (json_object_set_new(out->spec, "format", json_string(formats[format])) != 0 ||
        /* 0 is their worst quality, 1 ours. */
        (compression >= 0 && json_object_set_new(out->spec, "quality",
                                                 json_integer(compression ? compression : 1)) != 0))
        return fail_for_memory(problem);
    return true;
}

static bool read_delivery(struct openai_request *out, const json_t *body,
                          struct openai_problem *problem)
{
    static const char *const deliveries[] = {"b64_json", "url", NULL};
    int delivery, count;

    if (!read_choice(&delivery, body, "response_format", deliveries, problem) ||
        !read_flag(&out->is_stream, body, "stream", problem) ||
        !read_integer(&out->partial_images, body, "partial_images", 0, OPENAI_PARTIALS_MAX, 0,
                      problem) ||
        !read_integer(&count, body, "n", 1, OPENAI_PICTURES_MAX, 1, problem))
        return false;
    if (delivery == 1 && out->is_stream)
        return fail(problem, "response_format", "response_format: a stream has no URLs.");
    out->wants_url = delivery == 1;
    if (json_object_set_new(out->spec, "count", json_integer(count)) != 0)
        return fail_for_memory(problem);
    return true;
}

/* A prompt of another type, or none, is the spec's to refuse. */
static bool is_empty(const json_t *prompt)
{
    return json_is_string(prompt) && json_string_length(prompt) == 0;
}

bool openai_request_read(struct openai_request *out, const json_t *body, bool is_edit,
                         const struct worker_facts *facts, struct openai_problem *problem)
{
    *out = (struct openai_request){.spec = json_object(), .is_edit = is_edit};
    *problem = (struct openai_problem){0};
    if (!out->spec)
        return fail_for_memory(problem);
    if (!json_is_object(body))
        fail(problem, "", "The body must be a JSON object.");
    else if (is_edit && !json_is_string(json_object_get(body, "image")))
        fail(problem, "image", "image: is required.");
    else if (is_empty(json_object_get(body, "prompt")))
        fail(problem, "prompt", "prompt: must not be empty.");
    else if (check_model(body, facts, problem) && read_size(out->spec, body, facts, problem) &&
             read_quality(out, body, facts, problem) && read_background(body, problem) &&
             read_format(out, body, problem) && read_delivery(out, body, problem)) {
        note_ignored(out, body);
        if (pass_fields(out, body) &&
            (!json_object_get(out->spec, "mask") ||
             json_object_set_new(out->spec, "mask_is_alpha", json_true()) == 0))
            return true;
        fail_for_memory(problem);
    }
    openai_request_finish(out);
    return false;
}

void openai_request_finish(struct openai_request *request)
{
    json_decref(request->spec);
    *request = (struct openai_request){0};
}

void openai_problem_of_spec(struct openai_problem *out, const struct job_problem *problem)
{
    static const struct {
        const char *spec, *name;
    } names[] = {
        {"count", "n"},
        {"width", "size"},
        {"height", "size"},
        {"format", "output_format"},
        {"quality", "output_compression"},
        {"init_image", "image"},
    };
    const char *name = problem->field;

    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (strcmp(problem->field, names[i].spec) == 0)
            name = names[i].name;
    *out = (struct openai_problem){0};
    if (problem->kind == JOB_PROBLEM_MEMORY)
        fail_for_memory(out);
    else
        fail(out, name, "%s%s%s", name, *name ? ": " : "", problem->message);
}
