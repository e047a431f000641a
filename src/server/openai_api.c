#include "server/openai_api.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/limits.h"
#include "server/openai_call.h"
#include "server/openai_request.h"

struct openai {
    struct openai_home home;
    struct job_limits limits;
    int64_t started_s; /* "created" of models */
};

/* --- Generations and edits --- */

static void reply_problem(struct http_exchange *exchange, const struct openai_problem *problem)
{
    http_reply_error(exchange, problem->status, problem->code, problem->param,
                     problem->status == 503 ? 5 : 0, "%s", problem->message);
}

/* Facts of the model; false: answered, as no worker has been ready yet. */
static bool facts_of(const struct openai *openai, struct http_exchange *exchange,
                     struct worker_facts *facts)
{
    struct hub_state state;

    hub_state(openai->home.hub, &state);
    *facts = state.facts;
    if (!state.has_facts)
        http_reply_error(exchange, 503, "model_loading", "", 5, "The model is being loaded.");
    return state.has_facts;
}

/* `body` as openai_request_read takes it. */
static void draw(const struct openai *openai, struct http_exchange *exchange, const json_t *body,
                 bool is_edit, const struct worker_facts *facts)
{
    struct openai_problem problem = {0};
    struct openai_request request;
    struct job_problem spec_problem = {0};
    struct job_spec spec = {0};

    if (!openai_request_read(&request, body, is_edit, facts, &problem)) {
        reply_problem(exchange, &problem);
        return;
    }
    if (job_spec_read(&spec, request.spec, facts, &openai->limits, &spec_problem)) {
        if (*request.ignored.names)
            http_add_header(exchange, "X-Ignored-Parameters", request.ignored.names);
        openai_call(&openai->home, exchange, &request, &spec, facts);
        job_spec_finish(&spec);
    } else {
        openai_problem_of_spec(&problem, &spec_problem);
        reply_problem(exchange, &problem);
    }
    openai_request_finish(&request);
}

static void handle_generations(struct http_exchange *exchange, void *context)
{
    const json_t *body = http_json(exchange);
    struct worker_facts facts;

    if (body && facts_of(context, exchange, &facts))
        draw(context, exchange, body, false, &facts);
}

static void handle_edits(struct http_exchange *exchange, void *context)
{
    struct openai_problem problem = {0};
    struct worker_facts facts;
    size_t count = 0;
    const struct http_part *parts = http_multipart(exchange, &count);
    json_t *body;

    if (!parts || !facts_of(context, exchange, &facts))
        return;
    body = openai_form_json(parts, count, &facts, &problem);
    if (body)
        draw(context, exchange, body, true, &facts);
    else
        reply_problem(exchange, &problem);
    json_decref(body);
}

/* --- Models --- */

static json_t *model_json(const struct openai *openai, const char *name)
{
    return json_pack("{s:s, s:s, s:I, s:s}", "id", name, "object", "model", "created",
                     (json_int_t)openai->started_s, "owned_by", "sd35");
}

static void reply_body(struct http_exchange *exchange, json_t *body)
{
    if (body)
        http_reply_json(exchange, 200, body);
    else
        http_reply_error(exchange, 503, "out_of_memory", "", 5, "The server is short of memory.");
}

/* An empty list while the model is loading: clients take an error for a server that is none. */
static void handle_models(struct http_exchange *exchange, void *context)
{
    const struct openai *openai = context;
    json_t *models = json_array();
    struct hub_state state;

    hub_state(openai->home.hub, &state);
    if (state.has_facts)
        json_array_append_new(models, model_json(openai, state.facts.model));
    reply_body(exchange, json_pack("{s:s, s:o}", "object", "list", "data", models));
}

static void handle_model(struct http_exchange *exchange, void *context)
{
    const char *name = http_path_value(exchange, "id");
    struct worker_facts facts;

    if (!facts_of(context, exchange, &facts))
        return;
    if (name && openai_knows_model(name, &facts))
        reply_body(exchange, model_json(context, name));
    else
        http_reply_error(exchange, 404, "model_not_found", "model", 0,
                         "The model does not exist; this server has '%s'.", facts.model);
}

/* --- Schemas --- */

static json_t *generations_schema(void *context)
{
    (void)context;
    return json_loads(
        "{\"type\":\"object\",\"required\":[\"prompt\"],\"properties\":{"
        "\"prompt\":{\"type\":\"string\",\"minLength\":1},"
        "\"model\":{\"type\":[\"string\",\"null\"],\"description\":\"ours, or gpt-image-*, "
        "dall-e-*, stable-diffusion-*\"},"
        "\"n\":{\"type\":[\"integer\",\"null\"],\"minimum\":1,\"maximum\":10,\"default\":1},"
        "\"size\":{\"type\":[\"string\",\"null\"],\"pattern\":\"^(auto|[0-9]+x[0-9]+)$\"},"
        "\"quality\":{\"enum\":[\"auto\",\"low\",\"medium\",\"high\",\"standard\",\"hd\",null]},"
        "\"response_format\":{\"enum\":[\"b64_json\",\"url\",null]},"
        "\"output_format\":{\"enum\":[\"png\",\"jpeg\",\"webp\",null]},"
        "\"output_compression\":{\"type\":[\"integer\",\"null\"],\"minimum\":0,\"maximum\":100},"
        "\"background\":{\"enum\":[\"auto\",\"opaque\",null]},"
        "\"stream\":{\"type\":[\"boolean\",\"null\"]},"
        "\"partial_images\":{\"type\":[\"integer\",\"null\"],\"minimum\":0,\"maximum\":3},"
        "\"negative_prompt\":{\"type\":[\"string\",\"null\"]},"
        "\"seed\":{\"type\":[\"integer\",\"null\"],\"minimum\":-1},"
        "\"steps\":{\"type\":[\"integer\",\"null\"],\"minimum\":1},"
        "\"num_inference_steps\":{\"type\":[\"integer\",\"null\"],\"minimum\":1},"
        "\"guidance_scale\":{\"type\":[\"number\",\"null\"],\"minimum\":0},"
        "\"cfg_scale\":{\"type\":[\"number\",\"null\"],\"minimum\":0}}}",
        0, NULL);
}

static json_t *pictures_schema(void *context)
{
    (void)context;
    return json_loads(
        "{\"type\":\"object\",\"required\":[\"created\",\"data\",\"usage\"],\"properties\":{"
        "\"created\":{\"type\":\"integer\"},"
        "\"data\":{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{"
        "\"b64_json\":{\"type\":\"string\"},\"url\":{\"type\":\"string\"},"
        "\"seed\":{\"type\":\"integer\"}}}},"
        "\"background\":{\"const\":\"opaque\"},\"output_format\":{\"enum\":[\"png\",\"jpeg\","
        "\"webp\"]},\"quality\":{\"enum\":[\"low\",\"medium\",\"high\"]},"
        "\"size\":{\"type\":\"string\"},\"model\":{\"type\":\"string\"},"
        "\"usage\":{\"type\":\"object\",\"required\":[\"total_tokens\",\"input_tokens\","
        "\"output_tokens\",\"input_tokens_details\"]}}}",
        0, NULL);
}

static json_t *model_schema(void *context)
{
    (void)context;
    return json_loads("{\"type\":\"object\",\"required\":[\"id\",\"object\",\"created\","
                      "\"owned_by\"],\"properties\":{\"id\":{\"type\":\"string\"},"
                      "\"object\":{\"const\":\"model\"},\"created\":{\"type\":\"integer\"},"
                      "\"owned_by\":{\"type\":\"string\"}}}",
                      0, NULL);
}

static json_t *models_schema(void *context)
{
    return json_pack("{s:s, s:[s, s], s:{s:{s:s}, s:{s:s, s:o}}}", "type", "object", "required",
                     "object", "data", "properties", "object", "const", "list", "data", "type",
                     "array", "items", model_schema(context));
}

/* --- The part --- */

static const struct http_route routes[] = {
    {.method = HTTP_POST,
     .path = "/v1/images/generations",
     .scope = SCOPE_GENERATE,
     .style = STYLE_OPENAI,
     .handle = handle_generations,
     .summary = "Draws pictures from a prompt",
     .tag = "OpenAI",
     .request_schema = generations_schema,
     .response_schema = pictures_schema},
    {.method = HTTP_POST,
     .path = "/v1/images/edits",
     .scope = SCOPE_GENERATE,
     .style = STYLE_OPENAI,
     .body_max = HTTP_PICTURE_BODY_BYTES_MAX,
     .handle = handle_edits,
     .summary = "Draws pictures from a picture, a prompt and a mask (multipart/form-data)",
     .tag = "OpenAI",
     .response_schema = pictures_schema},
    {.method = HTTP_GET,
     .path = "/v1/models",
     .scope = SCOPE_READ,
     .style = STYLE_OPENAI,
     .is_quick = true,
     .handle = handle_models,
     .summary = "Lists the model",
     .tag = "OpenAI",
     .response_schema = models_schema},
    {.method = HTTP_GET,
     .path = "/v1/models/{id}",
     .scope = SCOPE_READ,
     .style = STYLE_OPENAI,
     .is_quick = true,
     .handle = handle_model,
     .summary = "Describes the model",
     .tag = "OpenAI",
     .response_schema = model_schema},
};

struct http_routes openai_routes(struct openai *openai)
{
    return (struct http_routes){.routes = routes, .count = COUNT_OF(routes), .context = openai};
}

bool openai_create(struct openai **out, const struct openai_options *options, struct error *err)
{
    struct openai *openai = calloc(1, sizeof *openai);

    if (!openai)
        return error_set(err, ERROR_NO_MEMORY, "OpenAI's API");
    openai->home.hub = options->hub;
    openai->home.auth = options->auth;
    openai->limits = options->limits;
    openai->started_s = (int64_t)time(NULL);
    if (!job_waiter_create(&openai->home.waiter, options->hub, err)) {
        openai_destroy(openai);
        return error_in(err, "OpenAI's API");
    }
    *out = openai;
    return true;
}

void openai_stop(struct openai *openai)
{
    job_waiter_stop(openai->home.waiter);
}

void openai_destroy(struct openai *openai)
{
    if (!openai)
        return;
    job_waiter_destroy(openai->home.waiter);
    free(openai);
}
