#include "server/a1111_request.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "server/a1111_fields.h"
#include "server/a1111_infotext.h"
#include "server/a1111_samplers.h"

/* Sides are rounded down, as theirs are to 8. */
#define SIDE_UNIT 16

/* A body while it is read; later steps do nothing once one has failed. */
struct reading {
    struct a1111_request *out;
    json_t *body; /* with what its infotext says; owned */
    const struct worker_facts *facts;
    const json_t *options;
    struct a1111_problem *problem;
};

/* Sets a member of the spec; steals `value`. */
static bool set(const struct reading *reading, const char *name, json_t *value)
{
    return json_object_set_new(reading->out->spec, name, value) == 0 ||
           a1111_fail_for_memory(reading->problem);
}

/* Notes a member of the echo; steals `value`. */
static bool echo(const struct reading *reading, const char *name, json_t *value)
{
    return json_object_set_new(reading->out->parameters, name, value) == 0 ||
           a1111_fail_for_memory(reading->problem);
}

/* The table's default. */
static double fallback(const char *name)
{
    return a1111_field(A1111_TXT2IMG | A1111_IMG2IMG, name)->fallback;
}

static bool take_integer(const struct reading *reading, const char *name, int64_t *out)
{
    return a1111_integer(out, reading->body, name, (int64_t)fallback(name), reading->problem);
}

static bool take_flag(const struct reading *reading, const char *name, bool *out)
{
    return a1111_flag(out, reading->body, name, fallback(name) != 0, reading->problem);
}

/* --- Infotext: what the body leaves out --- */

static const struct {
    const char *infotext, *body;
} from_infotext[] = {
    {"Prompt", "prompt"},
    {"Negative prompt", "negative_prompt"},
    {"Steps", "steps"},
    {"CFG scale", "cfg_scale"},
    {"Seed", "seed"},
    {"Size-1", "width"},
    {"Size-2", "height"},
    {"Sampler", "sampler_name"},
    {"Schedule type", "scheduler"},
    {"Denoising strength", "denoising_strength"},
};

static bool add_infotext(const struct reading *reading)
{
    const char *text;
    json_t *parsed;
    bool ok = true;

    if (!a1111_text(&text, reading->body, "infotext", "", reading->problem))
        return false;
    if (!*text)
        return true;
    parsed = a1111_infotext_parse(text);
    for (size_t i = 0; parsed && i < COUNT_OF(from_infotext); i++) {
        json_t *value = json_object_get(parsed, from_infotext[i].infotext);

        if (value && !json_object_get(reading->body, from_infotext[i].body))
            ok = ok && json_object_set(reading->body, from_infotext[i].body, value) == 0;
    }
    ok = ok && parsed;
    json_decref(parsed);
    return ok || a1111_fail_for_memory(reading->problem);
}

/* --- Text, size, sampling --- */

static bool read_texts(const struct reading *reading)
{
    const char *prompt, *negative;

    return a1111_text(&prompt, reading->body, "prompt", "", reading->problem) &&
           a1111_text(&negative, reading->body, "negative_prompt", "", reading->problem) &&
           set(reading, "prompt", json_string(prompt)) &&
           set(reading, "negative_prompt", json_string(negative)) &&
           echo(reading, "prompt", json_string(prompt)) &&
           echo(reading, "negative_prompt", json_string(negative));
}

static bool read_side(const struct reading *reading, const char *name, int32_t own)
{
    int64_t side, theirs = (int64_t)fallback(name);

    if (!a1111_integer(&side, reading->body, name, own < theirs ? own : theirs, reading->problem))
        return false;
    return set(reading, name,
               json_integer(side >= SIDE_UNIT ? side / SIDE_UNIT * SIDE_UNIT : side)) &&
           echo(reading, name, json_integer(side));
}

static bool read_count(const struct reading *reading)
{
    int64_t batch_size, n_iter;

    if (!take_integer(reading, "batch_size", &batch_size) ||
        !take_integer(reading, "n_iter", &n_iter))
        return false;
    if (batch_size < 1 || batch_size > JOB_COUNT_MAX)
        return a1111_fail(reading->problem, "batch_size", "must be from 1 to %d", JOB_COUNT_MAX);
    if (n_iter < 1 || n_iter > JOB_COUNT_MAX / batch_size)
        return a1111_fail(reading->problem, "n_iter",
                          "batch_size times n_iter must be from 1 to %d", JOB_COUNT_MAX);
    reading->out->batch_size = (int)batch_size;
    return set(reading, "count", json_integer(batch_size * n_iter)) &&
           echo(reading, "batch_size", json_integer(batch_size)) &&
           echo(reading, "n_iter", json_integer(n_iter));
}

/* A model that was distilled to a few steps without guidance keeps its own defaults: theirs would
 * ruin its pictures. */
static bool read_sampling(const struct reading *reading)
{
    const struct worker_facts *facts = reading->facts;
    double steps_default = facts->is_turbo ? facts->steps : fallback("steps");
    double scale, scale_default = facts->is_turbo ? facts->guidance : fallback("cfg_scale");
    int64_t steps, seed;

    if (!a1111_integer(&steps, reading->body, "steps", (int64_t)steps_default, reading->problem) ||
        !a1111_number(&scale, reading->body, "cfg_scale", scale_default, reading->problem) ||
        !take_integer(reading, "seed", &seed))
        return false;
    return set(reading, "steps", json_integer(steps)) &&
           set(reading, "guidance_scale", json_real(scale)) &&
           set(reading, "seed", json_integer(seed < 0 ? -1 : seed)) &&
           echo(reading, "steps", json_integer(steps)) &&
           echo(reading, "cfg_scale", json_real(scale)) &&
           echo(reading, "seed", json_integer(seed));
}

static bool read_sampler(const struct reading *reading)
{
    const char *name, *index, *scheduler;
    enum a1111_sampler sampler;

    if (!a1111_text(&index, reading->body, "sampler_index", A1111_SAMPLER, reading->problem) ||
        !a1111_text(&name, reading->body, "sampler_name", index, reading->problem) ||
        !a1111_text(&scheduler, reading->body, "scheduler", "", reading->problem))
        return false;
    name = *name ? name : A1111_SAMPLER;
    sampler = a1111_sampler_find(name);
    if (sampler == A1111_SAMPLER_UNKNOWN) {
        a1111_fail(reading->problem, "", "Sampler not found");
        reading->problem->status = 404;
        reading->problem->code = "HTTPException";
        return false;
    }
    if (sampler == A1111_SAMPLER_OTHER)
        ignored_add(&reading->out->ignored, "sampler_name");
    if (!a1111_scheduler_is_ours(scheduler))
        ignored_add(&reading->out->ignored, "scheduler");
    return echo(reading, "sampler_name", json_string(name)) &&
           echo(reading, "scheduler", json_string(scheduler));
}

/* --- Settings --- */

static bool set_format(const struct reading *reading, const char *name)
{
    static const struct {
        const char *name, *format;
    } formats[] = {{"png", "png"}, {"jpg", "jpeg"}, {"jpeg", "jpeg"}, {"webp", "webp"}};

    for (size_t i = 0; i < COUNT_OF(formats); i++)
        if (strcasecmp(name, formats[i].name) == 0)
            return set(reading, "format", json_string(formats[i].format));
    return true;
}

/* The setting of this request, or the server's. */
static const json_t *setting(const struct reading *reading, const json_t *overridden,
                             const char *name)
{
    const json_t *value = json_object_get(overridden, name);

    return value && !json_is_null(value) ? value : json_object_get(reading->options, name);
}

static bool read_settings(const struct reading *reading)
{
    const json_t *overridden = json_object_get(reading->body, "override_settings");
    const char *format = json_string_value(setting(reading, overridden, "samples_format"));
    const json_t *quality = setting(reading, overridden, "jpeg_quality");
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)overridden, name,
                        value) if (strcmp(name, "samples_format") != 0 &&
                                   strcmp(name, "jpeg_quality") != 0)
        ignored_add(&reading->out->ignored, name);
    return (!format || set_format(reading, format)) &&
           (!json_is_integer(quality) ||
            set(reading, "quality", json_integer(json_integer_value(quality))));
}

static bool check_scripts(const struct reading *reading)
{
    const json_t *always = json_object_get(reading->body, "alwayson_scripts");
    const char *script, *name;
    json_t *value;

    if (!a1111_text(&script, reading->body, "script_name", "", reading->problem))
        return false;
    json_object_foreach((json_t *)always, name, value) script = *script ? script : name;
    return !*script || a1111_fail(reading->problem, "", "Script '%.100s' not found", script);
}

/* Nothing, or what means the same. */
static bool is_neutral(const json_t *value)
{
    if (json_is_number(value))
        return json_number_value(value) == 0 || json_number_value(value) == -1;
    if (json_is_string(value))
        return *json_string_value(value) == '\0' || strcmp(json_string_value(value), "None") == 0;
    return !value || json_is_null(value) || json_is_false(value) ||
           (json_is_array(value) && json_array_size(value) == 0);
}

static void note_ignored(const struct reading *reading)
{
    for (size_t i = 0; i < a1111_field_count; i++)
        if (a1111_fields[i].use == A1111_NOTED &&
            !is_neutral(json_object_get(reading->body, a1111_fields[i].name)))
            ignored_add(&reading->out->ignored, a1111_fields[i].name);
}

static bool read_delivery(const struct reading *reading)
{
    const char *task;

    if (!a1111_text(&task, reading->body, "force_task_id", "", reading->problem) ||
        !take_flag(reading, "send_images", &reading->out->sends_images))
        return false;
    snprintf(reading->out->task, sizeof reading->out->task, "%s", task);
    return true;
}

/* --- Image to image --- */

/* A picture's text; pictures are never fetched from elsewhere. */
static bool set_picture(const struct reading *reading, const char *to, const json_t *value,
                        const char *field)
{
    const char *text = json_string_value(value);

    if (!text || strncasecmp(text, "http:", 5) == 0 || strncasecmp(text, "https:", 6) == 0)
        return a1111_fail(reading->problem, field,
                          "a picture must come as base64; links are not followed");
    return json_object_set(reading->out->spec, to, (json_t *)value) == 0 ||
           a1111_fail_for_memory(reading->problem);
}

static bool read_mask(const struct reading *reading)
{
    const json_t *mask = json_object_get(reading->body, "mask");
    int64_t inverted;

    if (!take_integer(reading, "inpainting_mask_invert", &inverted))
        return false;
    if (!mask || json_is_null(mask))
        return true;
    return set_picture(reading, "mask", mask, "mask") &&
           (inverted == 0 || set(reading, "mask_inverted", json_true()));
}

static bool read_init(const struct reading *reading)
{
    const json_t *images = json_object_get(reading->body, "init_images");
    const json_t *image = json_array_get(images, 0);
    double strength;

    if (!reading->out->is_img2img)
        return true;
    if (!image || json_is_null(image)) {
        a1111_fail(reading->problem, "", "Init image not found");
        reading->problem->status = 404;
        reading->problem->code = "HTTPException";
        return false;
    }
    if (json_array_size(images) > 1)
        return a1111_fail(reading->problem, "init_images", "one picture is supported");
    return a1111_number(&strength, reading->body, "denoising_strength",
                        fallback("denoising_strength"), reading->problem) &&
           set_picture(reading, "init_image", image, "init_images") && read_mask(reading) &&
           set(reading, "strength", json_real(strength)) &&
           echo(reading, "denoising_strength", json_real(strength));
}

/* The echo begins as what was sent; pictures only when they are asked for. */
static bool begin_echo(const struct reading *reading)
{
    bool with_pictures;

    if (!take_flag(reading, "include_init_images", &with_pictures))
        return false;
    if (json_object_update(reading->out->parameters, reading->body) != 0)
        return a1111_fail_for_memory(reading->problem);
    if (!reading->out->is_img2img || with_pictures)
        return true;
    return echo(reading, "init_images", json_null()) && echo(reading, "mask", json_null());
}

/* --- The whole --- */

static bool read_all(const struct reading *reading)
{
    if (!add_infotext(reading) || !begin_echo(reading) || !check_scripts(reading) ||
        !read_texts(reading) || !read_side(reading, "width", reading->facts->width) ||
        !read_side(reading, "height", reading->facts->height) || !read_count(reading) ||
        !read_sampling(reading) || !read_sampler(reading) || !read_settings(reading) ||
        !read_delivery(reading) || !read_init(reading))
        return false;
    note_ignored(reading);
    return true;
}

bool a1111_request_read(struct a1111_request *out, const json_t *body, bool is_img2img,
                        const struct worker_facts *facts, const json_t *options,
                        struct a1111_problem *problem)
{
    struct reading reading = {.out = out,
                              .body = json_copy((json_t *)body),
                              .facts = facts,
                              .options = options,
                              .problem = problem};
    bool ok = false;

    *problem = (struct a1111_problem){0};
    *out = (struct a1111_request){
        .spec = json_object(), .parameters = json_object(), .is_img2img = is_img2img};
    if (!json_is_object(body))
        a1111_fail(problem, "body", "value is not a valid dict");
    else if (!out->spec || !out->parameters || !reading.body)
        a1111_fail_for_memory(problem);
    else
        ok = read_all(&reading);
    json_decref(reading.body);
    if (!ok)
        a1111_request_finish(out);
    return ok;
}

void a1111_request_finish(struct a1111_request *request)
{
    json_decref(request->spec);
    json_decref(request->parameters);
    *request = (struct a1111_request){0};
}

void a1111_problem_of_spec(struct a1111_problem *out, const struct job_problem *problem)
{
    const struct a1111_field *field = a1111_field_of_spec(problem->field);
    const char *name = field ? field->name : problem->field;

    if (strcmp(name, "format") == 0 || strcmp(name, "quality") == 0)
        name = "override_settings";
    *out = (struct a1111_problem){0};
    if (problem->kind == JOB_PROBLEM_MEMORY) {
        a1111_fail_for_memory(out);
        return;
    }
    if (strcmp(name, "init_images") == 0 || strcmp(name, "mask") == 0)
        a1111_fail(out, name, "Invalid encoded image: %s", problem->message);
    else
        a1111_fail(out, name, "%s", problem->message);
}
