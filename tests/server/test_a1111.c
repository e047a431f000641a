/* AUTOMATIC1111's API: requests to specs, jobs to answers, infotexts there and back. */
#include "support/support.h"

#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job/job_infotext.h"
#include "server/a1111_fields.h"
#include "server/a1111_infotext.h"
#include "server/a1111_lists.h"
#include "server/a1111_options.h"
#include "server/a1111_progress.h"
#include "server/a1111_request.h"
#include "server/a1111_response.h"
#include "server/a1111_samplers.h"
#include "server/a1111_schemas.h"
#include "server/a1111_upscale.h"

/* A store of one setting. */
static char *setting;

bool store_get_setting(struct store *store, const char *name, char **value, struct error *err)
{
    (void)store;
    (void)err;
    assert_string_equal(name, "options.a1111");
    *value = setting ? strdup(setting) : NULL;
    return true;
}

bool store_set_setting(struct store *store, const char *name, const char *value, struct error *err)
{
    (void)store;
    (void)err;
    assert_string_equal(name, "options.a1111");
    free(setting);
    setting = strdup(value);
    return true;
}

bool hub_with_store(struct hub *hub,
                    bool (*use)(void *context, struct store *store, struct error *err),
                    void *context, struct error *err)
{
    (void)hub;
    return use(context, NULL, err);
}

static const struct worker_facts facts = {.model = "sd3.5_medium",
                                          .model_file = "sd3.5_medium.safetensors",
                                          .model_hash = "0123456789abcdef",
                                          .weight_types = "f8_e4m3",
                                          .side_max = 2048,
                                          .has_t5 = true,
                                          .has_encoder = true,
                                          .width = 1024,
                                          .height = 1024,
                                          .steps = 28,
                                          .t5_tokens = 256,
                                          .guidance = 4.5,
                                          .flow_shift = 3};

/* False: *problem. */
static bool read_body(struct a1111_request *request, const char *text, bool is_img2img,
                      struct a1111_problem *problem)
{
    json_t *body = json_loads(text, 0, NULL);
    json_t *options = json_pack("{s:s}", "samples_format", "jpg");
    bool ok;

    assert_non_null(body);
    ok = a1111_request_read(request, body, is_img2img, &facts, options, problem);
    json_decref(options);
    json_decref(body);
    return ok;
}

static struct a1111_request read_good(const char *text, bool is_img2img)
{
    struct a1111_problem problem;
    struct a1111_request request;

    if (!read_body(&request, text, is_img2img, &problem))
        fail_msg("%s: %s", text, problem.message);
    return request;
}

static json_int_t integer_of(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);

    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text ? text : "(no text)";
}

static void numbers_come_as_texts_and_nulls_are_left_out(void **state)
{
    struct a1111_request request = read_good(
        "{\"prompt\": \"a cat\", \"steps\": \"20\", \"cfg_scale\": \"4.5\", \"width\": \"500\", "
        "\"height\": 768.0, \"seed\": null, \"batch_size\": 2, \"n_iter\": \"2.0\", "
        "\"sampler_name\": \"Euler a\", \"sampler_index\": \"Euler a\", \"hr_scale\": \"1.0\", "
        "\"scheduler\": \"automatic\", \"enable_hr\": true, \"foo\": 1}",
        false);

    (void)state;
    assert_int_equal(integer_of(request.spec, "steps"), 20);
    assert_int_equal(integer_of(request.spec, "width"), 496);
    assert_int_equal(integer_of(request.spec, "height"), 768);
    assert_int_equal(integer_of(request.spec, "seed"), -1);
    assert_int_equal(integer_of(request.spec, "count"), 4);
    assert_string_equal(text_of(request.spec, "format"), "jpeg");
    assert_string_equal(request.ignored.names, "sampler_name, enable_hr");
    assert_int_equal(integer_of(request.parameters, "foo"), 1);
    assert_int_equal(integer_of(request.parameters, "steps"), 20);
    a1111_request_finish(&request);
}

static void expect_bad(const char *text, bool is_img2img, int status, const char *field,
                       const char *message)
{
    struct a1111_problem problem;
    struct a1111_request request;

    if (read_body(&request, text, is_img2img, &problem))
        fail_msg("%s is taken", text);
    assert_int_equal(problem.status, status);
    assert_string_equal(problem.field, field);
    assert_non_null(strstr(problem.message, message));
}

static void wrong_requests_get_their_words(void **state)
{
    (void)state;
    expect_bad("{\"sampler_name\": \"Nobody's\"}", false, 404, "", "Sampler not found");
    expect_bad("{\"script_name\": \"x\"}", false, 422, "", "Script 'x' not found");
    expect_bad("{\"steps\": \"many\"}", false, 422, "steps", "integer");
    expect_bad("{\"steps\": 2.5}", false, 422, "steps", "integer");
    expect_bad("{\"cfg_scale\": \"nan\"}", false, 422, "cfg_scale", "float");
    expect_bad("{\"batch_size\": 1e15}", false, 422, "batch_size", "from 1 to");
    expect_bad("{\"n_iter\": 17}", false, 422, "n_iter", "from 1 to");
    expect_bad("{\"prompt\": 1}", false, 422, "prompt", "str");
    expect_bad("{}", true, 404, "", "Init image not found");
    expect_bad("{\"init_images\": [\"http://10.0.0.1/\"]}", true, 422, "init_images", "links");
}

static void image_to_image_passes_its_pictures_and_does_not_echo_them(void **state)
{
    struct a1111_request request =
        read_good("{\"prompt\": \"a\", \"init_images\": [\"data:image/png;base64,AAAA\"], "
                  "\"mask\": \"BBBB\", "
                  "\"inpainting_mask_invert\": 1, \"resize_mode\": 1}",
                  true);

    (void)state;
    assert_string_equal(text_of(request.spec, "init_image"), "data:image/png;base64,AAAA");
    assert_string_equal(text_of(request.spec, "mask"), "BBBB");
    assert_true(json_is_true(json_object_get(request.spec, "mask_inverted")));
    assert_true(json_real_value(json_object_get(request.spec, "strength")) == 0.75);
    assert_true(json_is_null(json_object_get(request.parameters, "init_images")));
    assert_true(json_is_null(json_object_get(request.parameters, "mask")));
    assert_string_equal(request.ignored.names, "resize_mode");
    a1111_request_finish(&request);
}

static void what_the_body_leaves_out_comes_from_its_infotext(void **state)
{
    struct a1111_request request =
        read_good("{\"prompt\": \"mine\", \"infotext\": \"theirs\\nSteps: 9, Sampler: Euler, Seed: "
                  "5, Size: 640x480\"}",
                  false);

    (void)state;
    assert_string_equal(text_of(request.spec, "prompt"), "mine");
    assert_int_equal(integer_of(request.spec, "steps"), 9);
    assert_int_equal(integer_of(request.spec, "seed"), 5);
    assert_int_equal(integer_of(request.spec, "width"), 640);
    a1111_request_finish(&request);
}

/* --- Upscaling --- */

/* "200x100, 100x100" for a picture of 50 x 25, or what is wrong. */
static void expect_plan(const char *text, const char *wanted)
{
    json_t *body = json_loads(text, 0, NULL);
    struct a1111_problem problem = {0};
    struct upscale_message message = {0};
    struct a1111_upscale upscale;
    char got[512];

    assert_non_null(body);
    if (a1111_upscale_read(&upscale, body, false, &problem) &&
        a1111_upscale_plan(&message, &upscale, 50, 25, &problem))
        snprintf(got, sizeof got, "%dx%d, %dx%d%s", (int)message.width, (int)message.height,
                 (int)message.crop_width, (int)message.crop_height,
                 message.by_nearest ? ", nearest" : "");
    else
        snprintf(got, sizeof got, "%d %s: %s", problem.status, problem.field, problem.message);
    if (strncmp(got, wanted, strlen(wanted)) != 0)
        fail_msg("%s gives '%s', not '%s'", text, got, wanted);
    json_decref(body);
}

static void extras_are_planned_as_they_say(void **state)
{
    (void)state;
    expect_plan("{}", "50x25, 50x25");
    expect_plan("{\"upscaler_1\": \"None\", \"upscaling_resize\": 4}", "50x25, 50x25");
    expect_plan("{\"upscaler_1\": \"Lanczos\"}", "100x50, 100x50");
    expect_plan("{\"upscaler_1\": \"nearest\", \"upscaling_resize\": \"1.5\"}",
                "75x38, 75x38, nearest");
    expect_plan("{\"upscaler_1\": \"Lanczos\", \"resize_mode\": 1, \"upscaling_resize_w\": 100, "
                "\"upscaling_resize_h\": 100}",
                "200x100, 100x100");
    expect_plan("{\"upscaler_1\": \"Lanczos\", \"resize_mode\": 1, \"upscaling_resize_w\": 100, "
                "\"upscaling_resize_h\": 100, \"upscaling_crop\": false}",
                "200x100, 200x100");
    expect_plan("{\"upscaler_1\": \"Lanczos\", \"resize_mode\": 1, \"upscaling_resize_w\": 3, "
                "\"upscaling_resize_h\": 1}",
                "3x2, 3x1");
    expect_plan("{\"upscaler_1\": \"R-ESRGAN 4x+\"}", "422 upscaler_1: there is no such upscaler");
    expect_plan("{\"upscaler_2\": \"Lanczos\", \"extras_upscaler_2_visibility\": 0.5}",
                "422 upscaler_2: ");
    expect_plan("{\"upscaler_2\": \"Lanczos\", \"extras_upscaler_2_visibility\": 0}",
                "50x25, 50x25");
    expect_plan("{\"gfpgan_visibility\": 1}", "422 gfpgan_visibility: ");
    expect_plan("{\"upscaling_resize\": 9}", "422 upscaling_resize: must be from 1 to 8");
    expect_plan("{\"resize_mode\": 2}", "422 resize_mode: ");
    expect_plan("{\"upscaler_1\": \"Lanczos\", \"resize_mode\": 1, \"upscaling_resize_w\": 512, "
                "\"upscaling_resize_h\": 4096}",
                "422 upscaling_resize_w: the picture would have 8192 x 4096");
}

/* --- info --- */

static json_t *info_of(const struct job_spec *spec, int count)
{
    const uint64_t seeds[] = {7, 8};
    const struct a1111_answer answer = {.spec = spec,
                                        .facts = &facts,
                                        .seeds = seeds,
                                        .picture_count = count,
                                        .batch_size = 2,
                                        .ignored = "tiling",
                                        .created_ms = 1000,
                                        .version = "sd35 0.1.0"};
    json_t *text = a1111_info(&answer);
    json_t *info = json_loads(json_string_value(text), 0, NULL);

    assert_non_null(info);
    json_decref(text);
    return info;
}

/* --- Schemas --- */

static bool has_type(const json_t *value, const char *type)
{
    return strcmp(type, "null") == 0      ? json_is_null(value)
           : strcmp(type, "string") == 0  ? json_is_string(value)
           : strcmp(type, "integer") == 0 ? json_is_integer(value)
           : strcmp(type, "number") == 0  ? json_is_number(value)
           : strcmp(type, "boolean") == 0 ? json_is_boolean(value)
           : strcmp(type, "array") == 0   ? json_is_array(value)
                                          : json_is_object(value);
}

/* What the schemas of answers consist of. Members that a schema does not know fail, too. */
static void expect_fits(const json_t *value, const json_t *schema, const char *what)
{
    json_t *types = json_object_get(schema, "type"), *member, *type;
    json_t *properties = json_object_get(schema, "properties");
    bool fits = json_is_string(types) && has_type(value, json_string_value(types));
    const char *name;
    size_t i;

    json_array_foreach(types, i, type) fits |= has_type(value, json_string_value(type));
    if (!fits)
        fail_msg("%s is of another type", what);
    json_array_foreach(json_object_get(schema, "required"), i,
                       member) if (!json_object_get(value, json_string_value(member)))
        fail_msg("%s has no %s", what, json_string_value(member));
    if (properties)
        json_object_foreach((json_t *)(uintptr_t)value, name, member)
        {
            if (!json_object_get(properties, name))
                fail_msg("%s has an unknown %s", what, name);
            expect_fits(member, json_object_get(properties, name), name);
        }
    if (json_object_get(schema, "items"))
        json_array_foreach(value, i, member)
            expect_fits(member, json_object_get(schema, "items"), what);
}

/* Takes both. */
static void expect_answer(json_t *answer, json_t *schema, const char *what)
{
    assert_non_null(answer);
    assert_non_null(schema);
    expect_fits(answer, schema, what);
    json_decref(answer);
    json_decref(schema);
}

static json_t *info_of(const struct job_spec *spec, int count);

static void answers_are_as_their_schemas_say(void **state)
{
    static const struct {
        const char *name;
        json_t *(*schema)(void *context);
    } lists[] = {
        {"cmd-flags", a1111_flags_schema},
        {"embeddings", a1111_embeddings_schema},
        {"latent-upscale-modes", a1111_names_schema},
        {"loras", a1111_list_schema},
        {"memory", a1111_memory_schema},
        {"samplers", a1111_samplers_schema},
        {"schedulers", a1111_schedulers_schema},
        {"scripts", a1111_scripts_schema},
        {"sd-models", a1111_models_schema},
        {"upscalers", a1111_upscalers_schema},
    };
    const struct hub_state hub = {.has_facts = true, .facts = facts};
    const struct a1111_progress progress = {.now_ms = 1};
    char prompt[] = "a cat";
    const struct job_spec spec = {.prompt = prompt, .width = 512, .height = 512, .steps = 20};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(lists); i++)
        expect_answer(a1111_list(lists[i].name, &hub), lists[i].schema(NULL), lists[i].name);
    expect_answer(a1111_progress_json(&progress, NULL), a1111_progress_schema(NULL), "progress");
    expect_answer(a1111_task_json(&progress, false, NULL, -1), a1111_task_schema(NULL), "task");
    expect_answer(info_of(&spec, 1), a1111_info_schema(NULL), "info");
}

static void bodies_have_the_defaults_and_ranges_that_are_read(void **state)
{
    const struct job_limits limits = {.steps_max = 60, .count_max = 4};
    json_t *schema = a1111_body_schema(A1111_TXT2IMG, &facts, &limits);
    json_t *properties = json_object_get(schema, "properties");
    struct a1111_request request = read_good("{\"prompt\": \"a\"}", false);

    (void)state;
    assert_true(json_is_true(json_object_get(schema, "additionalProperties")));
    assert_int_equal(integer_of(json_object_get(properties, "steps"), "maximum"), 60);
    assert_int_equal(integer_of(json_object_get(properties, "batch_size"), "maximum"), 4);
    assert_int_equal(integer_of(json_object_get(properties, "width"), "maximum"), 2048);
    assert_int_equal(integer_of(json_object_get(properties, "width"), "default"),
                     integer_of(request.spec, "width"));
    assert_int_equal(integer_of(json_object_get(properties, "steps"), "default"),
                     integer_of(request.spec, "steps"));
    assert_null(json_object_get(properties, "init_images"));
    json_decref(schema);
    a1111_request_finish(&request);
    schema = a1111_body_schema(A1111_IMG2IMG, NULL, NULL);
    properties = json_object_get(schema, "properties");
    assert_non_null(json_object_get(properties, "init_images"));
    assert_non_null(json_object_get(properties, "prompt"));
    assert_null(json_object_get(properties, "id_task"));
    json_decref(schema);
}

static void info_has_every_key(void **state)
{
    static const char *const keys[] = {"prompt",
                                       "all_prompts",
                                       "negative_prompt",
                                       "all_negative_prompts",
                                       "seed",
                                       "all_seeds",
                                       "subseed",
                                       "all_subseeds",
                                       "subseed_strength",
                                       "width",
                                       "height",
                                       "sampler_name",
                                       "cfg_scale",
                                       "steps",
                                       "batch_size",
                                       "restore_faces",
                                       "face_restoration_model",
                                       "sd_model_name",
                                       "sd_model_hash",
                                       "sd_vae_name",
                                       "sd_vae_hash",
                                       "seed_resize_from_w",
                                       "seed_resize_from_h",
                                       "denoising_strength",
                                       "extra_generation_params",
                                       "index_of_first_image",
                                       "infotexts",
                                       "styles",
                                       "job_timestamp",
                                       "clip_skip",
                                       "is_using_inpainting_conditioning",
                                       "version"};
    char prompt[] = "a cat";
    const struct job_spec spec = {
        .prompt = prompt, .width = 512, .height = 512, .steps = 20, .guidance = 4.5, .seed = 7};
    json_t *info = info_of(&spec, 2);

    (void)state;
    for (size_t i = 0; i < COUNT_OF(keys); i++)
        if (!json_object_get(info, keys[i]))
            fail_msg("%s is missing", keys[i]);
    assert_int_equal(json_array_size(json_object_get(info, "infotexts")), 2);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(info, "all_seeds"), 1)), 8);
    json_decref(info);
}

/* The documented expression of their reader, with POSIX's groups: the value of `key` in the last
 * line. */
static bool find_by_regex(char *out, size_t size, const char *infotext, const char *key)
{
    const char *line = strrchr(infotext, '\n');
    regmatch_t groups[4];
    regex_t regex;
    bool found = false;

    assert_int_equal(regcomp(&regex,
                             "[[:space:]]*([[:alnum:]_][[:alnum:]_ /-]+):[[:space:]]*"
                             "(\"(\\\\.|[^\\\\\"])+\"|[^,]*)(,|$)",
                             REG_EXTENDED),
                     0);
    line = line ? line + 1 : infotext;
    while (!found && *line && regexec(&regex, line, 4, groups, 0) == 0) {
        int length = (int)(groups[1].rm_eo - groups[1].rm_so);

        found = (size_t)length == strlen(key) &&
                strncmp(line + groups[1].rm_so, key, (size_t)length) == 0;
        if (found)
            snprintf(out, size, "%.*s", (int)(groups[2].rm_eo - groups[2].rm_so),
                     line + groups[2].rm_so);
        line += groups[0].rm_eo;
    }
    regfree(&regex);
    return found;
}

static void infotexts_are_read_back_by_their_expression_and_by_ours(void **state)
{
    char prompt[] = "a: 1, b: 2, cat: 3,\nSteps: 99, Seed: 1, Size: 8x8";
    char negative[] = "dog, \"quoted\"";
    const struct job_spec spec = {.prompt = prompt,
                                  .negative_prompt = negative,
                                  .width = 768,
                                  .height = 512,
                                  .steps = 28,
                                  .t5_tokens = 256,
                                  .guidance = 4.5,
                                  .flow_shift = 3,
                                  .skip_layers = {7, 8, 9},
                                  .skip_layer_count = 3,
                                  .skip_layer_scale = 2.5,
                                  .strength = 0.5};
    char *text, value[64];
    json_t *parsed;

    (void)state;
    assert_true(job_infotext(&text, &spec, true, &facts, 4294967296u, "sd35 0.1.0", NULL));
    assert_true(find_by_regex(value, sizeof value, text, "Steps"));
    assert_string_equal(value, "28");
    assert_true(find_by_regex(value, sizeof value, text, "Skip layers"));
    assert_string_equal(value, "\"7, 8, 9\"");
    assert_true(find_by_regex(value, sizeof value, text, "Denoising strength"));
    assert_string_equal(value, "0.5");
    parsed = a1111_infotext_parse(text);
    assert_string_equal(text_of(parsed, "Prompt"), prompt);
    assert_string_equal(text_of(parsed, "Negative prompt"), negative);
    assert_string_equal(text_of(parsed, "Seed"), "4294967296");
    assert_string_equal(text_of(parsed, "Size-1"), "768");
    assert_string_equal(text_of(parsed, "Size-2"), "512");
    assert_string_equal(text_of(parsed, "Skip layers"), "7, 8, 9");
    assert_string_equal(text_of(parsed, "Version"), "sd35 0.1.0");
    assert_string_equal(text_of(parsed, "Clip skip"), "1");
    json_decref(parsed);
    free(text);
}

static void a_last_line_with_two_pairs_belongs_to_the_prompt(void **state)
{
    json_t *parsed = a1111_infotext_parse("a cat\nSteps: 1, Seed: 2");

    (void)state;
    assert_string_equal(text_of(parsed, "Prompt"), "a cat\nSteps: 1, Seed: 2");
    assert_null(json_object_get(parsed, "Steps"));
    json_decref(parsed);
    parsed = a1111_infotext_parse(" a \n\n b\t\n Negative prompt:\n c \nNegative prompt: d\ne");
    assert_string_equal(text_of(parsed, "Prompt"), "a\n\nb");
    assert_string_equal(text_of(parsed, "Negative prompt"), "c\nd\ne");
    json_decref(parsed);
    parsed = a1111_infotext_parse("");
    assert_string_equal(text_of(parsed, "Prompt"), "");
    json_decref(parsed);
    parsed = a1111_infotext_parse("ab: \"\\");
    assert_non_null(parsed);
    json_decref(parsed);
}

/* --- The rest --- */

static void progress_is_nothing_only_when_idle(void **state)
{
    const struct loading_message loading = {.what = "loading weights"};
    struct a1111_job job = {.id = "x",
                            .is_running = true,
                            .step = 14,
                            .step_count = 28,
                            .started_ms = 1000,
                            .seconds_left = -1};
    struct a1111_progress progress = {.now_ms = 2020};
    json_t *body = a1111_progress_json(&progress, NULL);

    (void)state;
    assert_true(json_real_value(json_object_get(body, "progress")) == 0);
    assert_int_equal(integer_of(json_object_get(body, "state"), "job_count"), 0);
    assert_true(json_is_null(json_object_get(body, "current_image")));
    json_decref(body);
    progress.loading = &loading;
    body = a1111_progress_json(&progress, NULL);
    assert_int_equal(integer_of(json_object_get(body, "state"), "job_count"), 1);
    json_decref(body);
    progress.loading = NULL;
    progress.job = &job;
    body = a1111_progress_json(&progress, json_string("QQ=="));
    assert_true(json_real_value(json_object_get(body, "progress")) == 0.01 + 0.5);
    assert_float_equal(json_real_value(json_object_get(body, "eta_relative")), 0.98, 1e-9);
    assert_string_equal(text_of(body, "current_task"), "task(x)");
    json_decref(body);
}

static void echoed_options_keep_what_is_known_and_right(void **state)
{
    json_t *stored = json_pack("{s:s}", "samples_format", "webp");
    json_t *changes = json_pack("{s:i, s:s, s:s, s:i}", "samples_format", 1, "unknown", "x",
                                "sd_model_checkpoint", "other", "jpeg_quality", 80);
    json_t *merged = a1111_options_merged(stored, changes);

    (void)state;
    assert_int_equal(json_object_size(merged), 2);
    assert_string_equal(text_of(merged, "samples_format"), "webp");
    assert_int_equal(integer_of(merged, "jpeg_quality"), 80);
    json_decref(merged);
    json_decref(changes);
    json_decref(stored);
}

static void options_outlive_the_server(void **state)
{
    json_t *changes = json_pack("{s:s}", "samples_format", "jpg"), *all;
    struct a1111_options *options;

    (void)state;
    assert_true(a1111_options_create(&options, NULL, NULL));
    assert_true(a1111_options_change(options, changes, NULL));
    a1111_options_destroy(options);
    assert_true(a1111_options_create(&options, NULL, NULL));
    all = a1111_options_json(options, &facts);
    assert_string_equal(text_of(all, "samples_format"), "jpg");
    assert_string_equal(text_of(all, "sd_model_checkpoint"),
                        "sd3.5_medium.safetensors [0123456789]");
    json_decref(all);
    json_decref(changes);
    a1111_options_destroy(options);
    free(setting);
    setting = NULL;
}

static void a_model_without_a_known_hash_has_none_in_its_title(void **state)
{
    struct hub_state hub = {.has_facts = true, .facts = facts};
    json_t *models = a1111_list("sd-models", &hub), *model = json_array_get(models, 0);

    (void)state;
    assert_string_equal(text_of(model, "title"), "sd3.5_medium.safetensors [0123456789]");
    assert_string_equal(text_of(model, "model_name"), "sd3.5_medium");
    assert_string_equal(text_of(model, "hash"), "0123456789");
    assert_string_equal(text_of(model, "sha256"), "0123456789abcdef");
    json_decref(models);
    hub.facts.model_hash[0] = '\0';
    models = a1111_list("sd-models", &hub);
    model = json_array_get(models, 0);
    assert_string_equal(text_of(model, "title"), "sd3.5_medium.safetensors");
    assert_true(json_is_null(json_object_get(model, "hash")));
    assert_true(json_is_null(json_object_get(model, "sha256")));
    json_decref(models);
}

static void samplers_are_told_apart(void **state)
{
    (void)state;
    assert_int_equal(a1111_sampler_find("euler"), A1111_SAMPLER_EULER);
    assert_int_equal(a1111_sampler_find("Euler Simple"), A1111_SAMPLER_EULER);
    assert_int_equal(a1111_sampler_find("DPM++ 2M Karras"), A1111_SAMPLER_OTHER);
    assert_int_equal(a1111_sampler_find("Karras"), A1111_SAMPLER_UNKNOWN);
    assert_int_equal(a1111_sampler_find(""), A1111_SAMPLER_UNKNOWN);
    assert_true(a1111_scheduler_is_ours("Automatic"));
    assert_false(a1111_scheduler_is_ours("Karras"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_come_as_texts_and_nulls_are_left_out),
        cmocka_unit_test(wrong_requests_get_their_words),
        cmocka_unit_test(image_to_image_passes_its_pictures_and_does_not_echo_them),
        cmocka_unit_test(what_the_body_leaves_out_comes_from_its_infotext),
        cmocka_unit_test(extras_are_planned_as_they_say),
        cmocka_unit_test(answers_are_as_their_schemas_say),
        cmocka_unit_test(bodies_have_the_defaults_and_ranges_that_are_read),
        cmocka_unit_test(info_has_every_key),
        cmocka_unit_test(infotexts_are_read_back_by_their_expression_and_by_ours),
        cmocka_unit_test(a_last_line_with_two_pairs_belongs_to_the_prompt),
        cmocka_unit_test(progress_is_nothing_only_when_idle),
        cmocka_unit_test(echoed_options_keep_what_is_known_and_right),
        cmocka_unit_test(options_outlive_the_server),
        cmocka_unit_test(a_model_without_a_known_hash_has_none_in_its_title),
        cmocka_unit_test(samplers_are_told_apart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
