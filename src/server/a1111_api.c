#include "server/a1111_api.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/a1111_call.h"
#include "server/a1111_fields.h"
#include "server/a1111_lists.h"
#include "server/a1111_options.h"
#include "server/a1111_pictures.h"
#include "server/a1111_progress.h"
#include "server/a1111_schemas.h"
#include "server/limits.h"

#define LISTS "/sdapi/v1/"
#define EXTRAS_AT_ONCE 2

struct a1111 {
    struct a1111_home home;
    struct a1111_options *options;
    struct job_limits limits;
    atomic_int extras; /* that are being enlarged */
};

/* --- txt2img, img2img --- */

static void draw(struct a1111 *a1111, struct http_exchange *exchange, bool is_img2img)
{
    const json_t *body = http_json(exchange);
    struct a1111_request request = {0};
    struct a1111_problem problem = {0};
    struct job_problem spec_problem = {0};
    struct job_spec spec = {0};
    struct hub_state state;
    json_t *options;

    if (!body)
        return;
    hub_state(a1111->home.hub, &state);
    if (!state.has_facts) {
        http_reply_error(exchange, 503, "model_loading", "", 5, "The model is being loaded.");
        return;
    }
    options = a1111_options_json(a1111->options, &state.facts);
    if (!a1111_request_read(&request, body, is_img2img, &state.facts, options, &problem)) {
        a1111_reply_problem(exchange, &problem);
    } else if (!job_spec_read(&spec, request.spec, &state.facts, &a1111->limits, &spec_problem)) {
        a1111_problem_of_spec(&problem, &spec_problem);
        a1111_reply_problem(exchange, &problem);
    } else {
        a1111_call(&a1111->home, exchange, &request, &spec, &state.facts);
        job_spec_finish(&spec);
    }
    a1111_request_finish(&request);
    json_decref(options);
}

static void handle_txt2img(struct http_exchange *exchange, void *context)
{
    draw(context, exchange, false);
}

static void handle_img2img(struct http_exchange *exchange, void *context)
{
    draw(context, exchange, true);
}

/* --- Progress --- */

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void handle_progress(struct http_exchange *exchange, void *context)
{
    struct a1111 *a1111 = context;
    const char *owner = http_identity_of(exchange)->name;
    const char *skips = http_query(exchange, "skip_current_image");
    struct a1111_progress progress = {.now_ms = now_ms()};
    struct hub_state state;
    struct a1111_job job;
    json_t *image = NULL;
    int number;

    hub_state(a1111->home.hub, &state);
    if (a1111_tracker_current(a1111->home.tracker, owner, &job))
        progress.job = &job;
    if (state.workers_ready == 0 && state.workers > 0)
        progress.loading = &state.loading;
    if (progress.job && (!skips || strcmp(skips, "true") != 0))
        image = a1111_tracker_preview(a1111->home.tracker, owner, job.id, &number);
    a1111_reply(exchange, a1111_progress_json(&progress, image));
}

/* "data:image/jpeg;base64,..." of a preview that the client does not have yet. Takes `image`. */
static json_t *preview_uri(json_t *image, int number, int64_t seen)
{
    json_t *uri = NULL;

    if (image && number != seen)
        uri = json_sprintf("data:image/jpeg;base64,%s", json_string_value(image));
    json_decref(image);
    return uri;
}

static void handle_task_progress(struct http_exchange *exchange, void *context)
{
    struct a1111 *a1111 = context;
    const char *owner = http_identity_of(exchange)->name;
    const json_t *body = http_json(exchange);
    struct a1111_progress progress = {.now_ms = now_ms()};
    struct a1111_problem problem = {0};
    struct a1111_job job;
    char id[JOB_ID_BYTES];
    const char *task;
    int64_t seen;
    json_t *image = NULL;
    bool is_known, wants;
    int number = -1;

    if (!body)
        return;
    if (!a1111_text(&task, body, "id_task", "", &problem) ||
        !a1111_integer(&seen, body, "id_live_preview",
                       (int64_t)a1111_field(A1111_TASK, "id_live_preview")->fallback, &problem) ||
        !a1111_flag(&wants, body, "live_preview",
                    a1111_field(A1111_TASK, "live_preview")->fallback != 0, &problem)) {
        a1111_reply_problem(exchange, &problem);
        return;
    }
    is_known = a1111_tracker_task(a1111->home.tracker, owner, task, id);
    if (is_known && a1111_tracker_find(a1111->home.tracker, owner, id, &job))
        progress.job = &job;
    if (progress.job && wants)
        image = a1111_tracker_preview(a1111->home.tracker, owner, id, &number);
    a1111_reply(exchange,
                a1111_task_json(&progress, is_known, preview_uri(image, number, seen), number));
}

static void handle_pending(struct http_exchange *exchange, void *context)
{
    struct a1111 *a1111 = context;
    json_t *tasks = a1111_tracker_waiting(a1111->home.tracker, http_identity_of(exchange)->name);

    a1111_reply(exchange,
                json_pack("{s:i, s:o}", "size", (int)json_array_size(tasks), "tasks", tasks));
}

/* --- Stopping --- */

/* Cancels the owner's current job; that there is none is no error. */
static void stop_current(struct a1111 *a1111, struct http_exchange *exchange)
{
    const char *owner = http_identity_of(exchange)->name;
    struct hub_error problem = {0};
    struct job_view view = {0};
    struct a1111_job job;

    if (a1111_tracker_current(a1111->home.tracker, owner, &job) &&
        hub_cancel(a1111->home.hub, job.id, owner, &view, &problem))
        job_view_finish(&view);
}

static void handle_interrupt(struct http_exchange *exchange, void *context)
{
    stop_current(context, exchange);
    a1111_reply(exchange, json_object());
}

static void handle_skip(struct http_exchange *exchange, void *context)
{
    struct a1111 *a1111 = context;
    const char *owner = http_identity_of(exchange)->name;
    struct a1111_job job;

    if (a1111_tracker_current(a1111->home.tracker, owner, &job))
        hub_skip(a1111->home.hub, job.id, owner);
    a1111_reply(exchange, json_null());
}

/* --- Options and lists --- */

static void handle_options(struct http_exchange *exchange, void *context)
{
    struct a1111 *a1111 = context;
    struct hub_state state;

    hub_state(a1111->home.hub, &state);
    a1111_reply(exchange,
                a1111_options_json(a1111->options, state.has_facts ? &state.facts : NULL));
}

static void handle_set_options(struct http_exchange *exchange, void *context)
{
    struct a1111 *a1111 = context;
    const json_t *body = http_json(exchange);
    struct error err = {0};

    if (!body)
        return;
    if (a1111_options_change(a1111->options, body, &err))
        a1111_reply(exchange, json_null());
    else
        http_reply_error(exchange, 503, "store", "", 5, "%s", err.message);
}

static void handle_list(struct http_exchange *exchange, void *context)
{
    const struct a1111 *a1111 = context;
    struct hub_state state;

    hub_state(a1111->home.hub, &state);
    a1111_reply(exchange, a1111_list(http_path(exchange) + strlen(LISTS), &state));
}

/* Nothing is to be read anew or moved: the model is the one of the command line. */
static void handle_nothing(struct http_exchange *exchange, void *context)
{
    (void)context;
    a1111_reply(exchange, json_null());
}

static void handle_ping(struct http_exchange *exchange, void *context)
{
    (void)context;
    a1111_reply(exchange, json_object());
}

static void handle_head(struct http_exchange *exchange, void *context)
{
    (void)context;
    http_reply_text(exchange, 200, "text/html; charset=utf-8", "");
}

static void handle_no_login(struct http_exchange *exchange, void *context)
{
    (void)context;
    http_reply_error(exchange, 404, "not_found", "", 0, "Not Found");
}

/* --- Pictures --- */

static void handle_png_info(struct http_exchange *exchange, void *context)
{
    (void)context;
    a1111_png_info(exchange);
}

/* Each keeps a handler's thread waiting. */
static void extra(struct a1111 *a1111, struct http_exchange *exchange, bool is_batch)
{
    if (atomic_fetch_add(&a1111->extras, 1) < EXTRAS_AT_ONCE)
        a1111_extra(a1111->home.hub, exchange, is_batch);
    else
        http_reply_error(exchange, 429, "QueueFull", "", 5,
                         "Pictures of others are being enlarged.");
    atomic_fetch_sub(&a1111->extras, 1);
}

static void handle_extra_single(struct http_exchange *exchange, void *context)
{
    extra(context, exchange, false);
}

static void handle_extra_batch(struct http_exchange *exchange, void *context)
{
    extra(context, exchange, true);
}

static void handle_interrogate(struct http_exchange *exchange, void *context)
{
    (void)context;
    http_reply_error(exchange, 501, "unsupported", "", 0,
                     "This server has no model that describes pictures.");
}

/* --- Bodies, for openapi.json --- */

static json_t *body_schema(struct a1111 *a1111, enum a1111_body body)
{
    struct hub_state state;

    hub_state(a1111->home.hub, &state);
    return a1111_body_schema(body, state.has_facts ? &state.facts : NULL, &a1111->limits);
}

static json_t *txt2img_schema(void *context)
{
    return body_schema(context, A1111_TXT2IMG);
}

static json_t *img2img_schema(void *context)
{
    return body_schema(context, A1111_IMG2IMG);
}

static json_t *picture_schema(void *context)
{
    return body_schema(context, A1111_PICTURE);
}

static json_t *task_schema(void *context)
{
    return body_schema(context, A1111_TASK);
}

static json_t *extra_single_schema(void *context)
{
    return body_schema(context, A1111_EXTRA_SINGLE);
}

static json_t *extra_batch_schema(void *context)
{
    return body_schema(context, A1111_EXTRA_BATCH);
}

static json_t *options_schema(void *context)
{
    (void)context;
    return a1111_options_schema();
}

/* --- The part --- */

#define ROUTE(method_, path_, scope_, is_quick_, body_max_, handle_, request_, response_,          \
              summary_)                                                                            \
    {                                                                                              \
        .method = (method_), .path = (path_), .scope = (scope_), .style = STYLE_A1111,             \
        .is_quick = (is_quick_), .body_max = (body_max_), .handle = (handle_),                     \
        .summary = (summary_), .tag = "AUTOMATIC1111", .request_schema = (request_),               \
        .response_schema = (response_)                                                             \
    }
#define LIST(name, response, summary)                                                              \
    ROUTE(HTTP_GET, LISTS name, SCOPE_READ, true, 0, handle_list, NULL, response, summary)
#define NOTHING(name, summary)                                                                     \
    ROUTE(HTTP_POST, LISTS name, SCOPE_GENERATE, true, 0, handle_nothing, NULL,                    \
          a1111_nothing_schema, summary)
#define PICTURES HTTP_PICTURE_BODY_BYTES_MAX

static const struct http_route routes[] = {
    ROUTE(HTTP_POST, "/sdapi/v1/txt2img", SCOPE_GENERATE, false, PICTURES, handle_txt2img,
          txt2img_schema, a1111_drawn_schema, "Draws pictures from a prompt"),
    ROUTE(HTTP_POST, "/sdapi/v1/img2img", SCOPE_GENERATE, false, PICTURES, handle_img2img,
          img2img_schema, a1111_drawn_schema, "Draws pictures from a picture and a prompt"),
    ROUTE(HTTP_GET, "/sdapi/v1/progress", SCOPE_READ, false, 0, handle_progress, NULL,
          a1111_progress_schema, "Says how far the current job is"),
    ROUTE(HTTP_POST, "/sdapi/v1/interrupt", SCOPE_GENERATE, false, 0, handle_interrupt, NULL,
          a1111_empty_schema, "Stops the current job"),
    ROUTE(HTTP_POST, "/sdapi/v1/skip", SCOPE_GENERATE, false, 0, handle_skip, NULL,
          a1111_nothing_schema, "Leaves out the picture that is being drawn and goes to the next"),
    ROUTE(HTTP_GET, "/sdapi/v1/options", SCOPE_READ, true, 0, handle_options, NULL, options_schema,
          "Lists settings"),
    ROUTE(HTTP_POST, "/sdapi/v1/options", SCOPE_GENERATE, false, 0, handle_set_options,
          options_schema, a1111_nothing_schema, "Changes settings"),
    LIST("cmd-flags", a1111_flags_schema, "Lists options of the command line, without secrets"),
    LIST("embeddings", a1111_embeddings_schema, "Lists embeddings"),
    LIST("extensions", a1111_list_schema, "Lists extensions"),
    LIST("face-restorers", a1111_list_schema, "Lists face restorers"),
    LIST("hypernetworks", a1111_list_schema, "Lists hypernetworks"),
    LIST("latent-upscale-modes", a1111_names_schema, "Lists ways to enlarge latents"),
    LIST("loras", a1111_list_schema, "Lists LoRAs"),
    LIST("memory", a1111_memory_schema, "Describes memory"),
    LIST("prompt-styles", a1111_list_schema, "Lists prompt styles"),
    LIST("realesrgan-models", a1111_list_schema, "Lists models that enlarge"),
    LIST("samplers", a1111_samplers_schema, "Lists samplers"),
    LIST("schedulers", a1111_schedulers_schema, "Lists schedules"),
    LIST("script-info", a1111_list_schema, "Describes scripts"),
    LIST("scripts", a1111_scripts_schema, "Lists scripts"),
    LIST("sd-models", a1111_models_schema, "Lists models"),
    LIST("sd-modules", a1111_list_schema, "Lists modules"),
    LIST("sd-vae", a1111_list_schema, "Lists VAEs"),
    LIST("upscalers", a1111_upscalers_schema, "Lists upscalers"),
    ROUTE(HTTP_POST, "/sdapi/v1/png-info", SCOPE_READ, false, PICTURES, handle_png_info,
          picture_schema, a1111_png_info_schema, "Reads the parameters in a picture"),
    ROUTE(HTTP_POST, "/sdapi/v1/extra-single-image", SCOPE_GENERATE, false, PICTURES,
          handle_extra_single, extra_single_schema, a1111_extra_single_schema,
          "Enlarges a picture, without a model"),
    ROUTE(HTTP_POST, "/sdapi/v1/extra-batch-images", SCOPE_GENERATE, false, PICTURES,
          handle_extra_batch, extra_batch_schema, a1111_extra_batch_schema,
          "Enlarges pictures, without a model"),
    ROUTE(HTTP_POST, "/sdapi/v1/interrogate", SCOPE_GENERATE, false, PICTURES, handle_interrogate,
          picture_schema, NULL, "Answers that describing pictures is not supported"),
    NOTHING("refresh-checkpoints", "Does nothing: there is one model"),
    NOTHING("refresh-vae", "Does nothing: there is one VAE"),
    NOTHING("refresh-loras", "Does nothing: there are none"),
    NOTHING("refresh-embeddings", "Does nothing: there are none"),
    NOTHING("unload-checkpoint", "Does nothing: the model stays"),
    NOTHING("reload-checkpoint", "Does nothing: the model is there"),
    ROUTE(HTTP_POST, "/internal/progress", SCOPE_READ, false, 0, handle_task_progress, task_schema,
          a1111_task_schema, "Says how far a task is"),
    ROUTE(HTTP_GET, "/internal/pending-tasks", SCOPE_READ, true, 0, handle_pending, NULL,
          a1111_pending_schema, "Lists what waits"),
    ROUTE(HTTP_GET, "/internal/ping", SCOPE_PUBLIC, true, 0, handle_ping, NULL, a1111_empty_schema,
          "Answers"),
    {.method = HTTP_HEAD,
     .path = "/",
     .scope = SCOPE_PUBLIC,
     .style = STYLE_A1111,
     .is_quick = true,
     .handle = handle_head,
     .summary = "Answers without a body",
     .tag = "AUTOMATIC1111",
     .response_type = "text/html"},
    ROUTE(HTTP_POST, "/login", SCOPE_PUBLIC, true, 0, handle_no_login, NULL, NULL,
          "Answers that there is no such login"),
};

struct http_routes a1111_routes(struct a1111 *a1111)
{
    return (struct http_routes){.routes = routes, .count = COUNT_OF(routes), .context = a1111};
}

bool a1111_create(struct a1111 **out, const struct a1111_api_options *options, struct error *err)
{
    struct a1111 *a1111 = calloc(1, sizeof *a1111);

    if (!a1111)
        return error_set(err, ERROR_NO_MEMORY, "AUTOMATIC1111's API");
    a1111->home.hub = options->hub;
    a1111->home.version = options->version;
    a1111->limits = options->limits;
    if (!a1111_options_create(&a1111->options, options->hub, err) ||
        !a1111_tracker_create(&a1111->home.tracker, options->hub, err) ||
        !job_waiter_create(&a1111->home.waiter, options->hub, err)) {
        a1111_destroy(a1111);
        return error_in(err, "AUTOMATIC1111's API");
    }
    *out = a1111;
    return true;
}

void a1111_stop(struct a1111 *a1111)
{
    job_waiter_stop(a1111->home.waiter);
}

void a1111_destroy(struct a1111 *a1111)
{
    if (!a1111)
        return;
    job_waiter_destroy(a1111->home.waiter);
    a1111_tracker_destroy(a1111->home.tracker);
    a1111_options_destroy(a1111->options);
    free(a1111);
}
