/* The router's table as OpenAPI 3.1: one operation a row.
 *
 * Every status that a row can answer with is listed: what the gate and the parser answer, by what
 * the row takes, and the errors that all handlers share.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "server/openapi_private.h"

#define OPERATION_ID_BYTES 160

static bool put(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

/* The value of `key`, an empty object when there was none. Borrowed. */
static json_t *object_at(json_t *object, const char *key)
{
    if (!json_object_get(object, key))
        put(object, key, json_object());
    return json_object_get(object, key);
}

/* --- Names --- */

static const char *scope_name(enum http_scope scope)
{
    switch (scope) {
    case SCOPE_PUBLIC:
        return "public";
    case SCOPE_GENERATE:
        return "generate";
    case SCOPE_READ:
        return "read";
    case SCOPE_METRICS:
        return "metrics";
    case SCOPE_ADMIN:
        return "admin";
    }
    return "admin";
}

static const char *error_name(enum http_error_style style)
{
    switch (style) {
    case STYLE_NATIVE:
        return "NativeError";
    case STYLE_OPENAI:
        return "OpenAIError";
    case STYLE_A1111:
        return "A1111Error";
    }
    return "NativeError";
}

static void lower(char *text)
{
    for (; *text; text++)
        *text = (char)tolower((unsigned char)*text);
}

/* "get_api_v1_jobs_id": all but letters and digits become one '_'. */
static void name_operation(char name[OPERATION_ID_BYTES], const struct http_route *route)
{
    size_t length;

    snprintf(name, OPERATION_ID_BYTES, "%s", http_method_name(route->method));
    lower(name);
    length = strlen(name);
    for (const char *at = route->path; *at && length + 2 < OPERATION_ID_BYTES; at++) {
        if (isalnum((unsigned char)*at))
            name[length++] = *at;
        else if (name[length - 1] != '_')
            name[length++] = '_';
    }
    while (length > 1 && name[length - 1] == '_')
        length--;
    name[length] = '\0';
}

/* The path without the mark of a last segment that takes the rest. */
static void write_path(char *out, size_t size, const char *path)
{
    size_t length = 0;

    for (; *path && length + 1 < size; path++)
        if (*path != '*')
            out[length++] = *path;
    out[length] = '\0';
}

/* --- Parameters --- */

static json_t *values_schema(const char *values)
{
    json_t *list = json_array();

    while (*values) {
        size_t length = strcspn(values, "|");

        json_array_append_new(list, json_stringn(values, length));
        values += length + (values[length] == '|' ? 1 : 0);
    }
    return list;
}

static json_t *parameter_schema(const struct openapi_parameter *parameter)
{
    bool is_text = strcmp(parameter->type, "string") == 0;
    json_t *schema = json_pack("{s:s}", "type", parameter->type);

    if (parameter->maximum > parameter->minimum) {
        put(schema, is_text ? "minLength" : "minimum",
            json_integer((json_int_t)parameter->minimum));
        put(schema, is_text ? "maxLength" : "maximum",
            json_integer((json_int_t)parameter->maximum));
    }
    if (parameter->pattern)
        put(schema, "pattern", json_string(parameter->pattern));
    if (parameter->values)
        put(schema, "enum", values_schema(parameter->values));
    return schema;
}

static json_t *parameter_json(const char *name, enum openapi_place place, bool is_required,
                              const char *about, json_t *schema)
{
    static const char *const places[] = {
        [IN_QUERY] = "query", [IN_HEADER] = "header", [IN_PATH] = "path"};

    return json_pack("{s:s, s:s, s:b, s:s, s:o}", "name", name, "in", places[place], "required",
                     is_required || place == IN_PATH, "description", about, "schema", schema);
}

static const struct openapi_parameter *find_parameter(const struct openapi *openapi,
                                                      const struct http_route *route,
                                                      const char *name, size_t length)
{
    for (size_t i = 0; openapi->options.parameters && openapi->options.parameters[i]; i++)
        for (const struct openapi_parameter *at = openapi->options.parameters[i]; at->path; at++)
            if (at->place == IN_PATH && at->method == route->method &&
                strcmp(at->path, route->path) == 0 && strncmp(at->name, name, length) == 0 &&
                at->name[length] == '\0')
                return at;
    return NULL;
}

/* Those in the path stand there in braces; a table may say more of them. */
static void add_path_parameters(json_t *list, const struct openapi *openapi,
                                const struct http_route *route)
{
    const char *at = strchr(route->path, '{');

    for (; at; at = strchr(at, '{')) {
        size_t length = strcspn(++at, "*}");
        const struct openapi_parameter *known = find_parameter(openapi, route, at, length);
        char name[64];

        snprintf(name, sizeof name, "%.*s", (int)length, at);
        json_array_append_new(list, parameter_json(name, IN_PATH, true, known ? known->about : "",
                                                   known ? parameter_schema(known)
                                                         : json_pack("{s:s, s:i}", "type", "string",
                                                                     "minLength", 1)));
    }
}

static json_t *parameters_json(const struct openapi *openapi, const struct http_route *route)
{
    json_t *list = json_array();

    add_path_parameters(list, openapi, route);
    for (size_t i = 0; openapi->options.parameters && openapi->options.parameters[i]; i++)
        for (const struct openapi_parameter *at = openapi->options.parameters[i]; at->path; at++)
            if (at->place != IN_PATH && at->method == route->method &&
                strcmp(at->path, route->path) == 0)
                json_array_append_new(list, parameter_json(at->name, at->place, at->is_required,
                                                           at->about, parameter_schema(at)));
    return list;
}

/* --- Answers --- */

static bool takes_body(const struct http_route *route)
{
    return route->method == HTTP_POST || route->method == HTTP_PUT || route->method == HTTP_PATCH;
}

struct status {
    int code;
    const char *about;
    enum { ALWAYS, WITH_BODY, NATIVE_ONLY } when;
};

static const struct status statuses[] = {
    {400, "the request is malformed", ALWAYS},
    {401, "no valid credential", ALWAYS},
    {403, "the credential, the Host or the Origin does not allow this", ALWAYS},
    {404, "there is nothing of this name", ALWAYS},
    {408, "the request came too slowly", WITH_BODY},
    {409, "it contradicts an earlier request, or the state of things", ALWAYS},
    {410, "it was there, and its file is gone", NATIVE_ONLY},
    {413, "the body is too large", WITH_BODY},
    {415, "the body is of another type", WITH_BODY},
    {422, "a value is wrong: \"field\" names it", ALWAYS},
    {429, "the queue is full, or too many requests: see Retry-After", ALWAYS},
    {431, "the headers are too large", ALWAYS},
    {500, "our mistake", ALWAYS},
    {501, "not for this model", WITH_BODY},
    {503, "the model is being loaded, or the server stops: see Retry-After", ALWAYS},
    {504, "its time was over before it was done", ALWAYS},
    {507, "the disk is full or cannot be written to: see Retry-After", WITH_BODY},
};

static bool applies(const struct status *status, const struct http_route *route)
{
    switch (status->when) {
    case ALWAYS:
        return true;
    case WITH_BODY:
        return takes_body(route);
    case NATIVE_ONLY:
        return route->style == STYLE_NATIVE;
    }
    return true;
}

static void add_errors(json_t *responses, const struct http_route *route)
{
    char reference[64], code[8];

    snprintf(reference, sizeof reference, "#/components/schemas/%s", error_name(route->style));
    for (size_t i = 0; i < COUNT_OF(statuses); i++) {
        if (!applies(&statuses[i], route))
            continue;
        snprintf(code, sizeof code, "%d", statuses[i].code);
        put(responses, code,
            json_pack("{s:s, s:{s:{s:{s:s}}}}", "description", statuses[i].about, "content",
                      "application/json", "schema", "$ref", reference));
    }
}

static json_t *success_json(const struct http_route *route, void *context, const char *about)
{
    const char *type = route->response_type ? route->response_type : "application/json";
    json_t *schema = route->response_schema ? route->response_schema(context) : json_object();

    return json_pack("{s:s, s:{s:{s:o}}}", "description", about, "content", type, "schema", schema);
}

/* A row with a schema of 200 or 202 that makes something is one that queues it. */
static bool queues(const struct http_route *route)
{
    return route->method == HTTP_POST && route->style == STYLE_NATIVE &&
           strcmp(route->path, "/api/v1/jobs") == 0;
}

static json_t *responses_json(const struct http_route *route, void *context)
{
    json_t *responses = json_object();

    put(responses, "200", success_json(route, context, "done"));
    if (queues(route))
        put(responses, "202", success_json(route, context, "committed, and not over yet"));
    if (route->response_type) {
        put(responses, "206", success_json(route, context, "the range that was asked for"));
        put(responses, "304", json_pack("{s:s}", "description", "as it was"));
        put(responses, "416", json_pack("{s:s}", "description", "there is no such range"));
    }
    add_errors(responses, route);
    return responses;
}

/* --- Operations --- */

static json_t *security_json(const struct http_route *route)
{
    if (route->scope == SCOPE_PUBLIC)
        return json_array();
    return json_pack("[{s:[]}, {s:[]}, {s:[]}]", "key", "password", "cookie");
}

static json_t *operation_json(const struct openapi *openapi, const struct http_route *route,
                              void *context)
{
    char name[OPERATION_ID_BYTES];
    json_t *operation;

    name_operation(name, route);
    operation = json_pack(
        "{s:s, s:s, s:[s], s:s, s:o, s:o, s:o}", "operationId", name, "summary",
        route->summary ? route->summary : "", "tags", route->tag ? route->tag : "Server", "x-scope",
        scope_name(route->scope), "security", security_json(route), "parameters",
        parameters_json(openapi, route), "responses", responses_json(route, context));
    if (operation && route->request_schema)
        put(operation, "requestBody",
            json_pack("{s:b, s:{s:{s:o}}}", "required", 1, "content", "application/json", "schema",
                      route->request_schema(context)));
    return operation;
}

static json_t *paths_json(const struct openapi *openapi)
{
    json_t *paths = json_object();

    for (const struct http_routes *part = openapi->options.parts; paths && part->routes; part++)
        for (size_t i = 0; i < part->count; i++) {
            const struct http_route *route = &part->routes[i];
            char path[256], method[16];

            write_path(path, sizeof path, route->path);
            snprintf(method, sizeof method, "%s", http_method_name(route->method));
            lower(method);
            if (!put(object_at(paths, path), method,
                     operation_json(openapi, route, part->context))) {
                json_decref(paths);
                return NULL;
            }
        }
    return paths;
}

/* --- The rest --- */

static json_t *error_schemas(void)
{
    json_t *native = json_pack(
        "{s:s, s:[s], s:{s:{s:s, s:[s, s, s], s:{s:{s:s}, s:{s:s}, s:{s:[s, s]}, "
        "s:{s:s}}}}}",
        "type", "object", "required", "error", "properties", "error", "type", "object", "required",
        "code", "message", "request_id", "properties", "code", "type", "string", "message", "type",
        "string", "field", "type", "string", "null", "request_id", "type", "string");
    json_t *openai = json_pack(
        "{s:s, s:[s], s:{s:{s:s, s:[s, s, s, s], s:{s:{s:s}, s:{s:s}, s:{s:[s, s]}, s:{s:[s, "
        "s]}}}}}",
        "type", "object", "required", "error", "properties", "error", "type", "object", "required",
        "message", "type", "param", "code", "properties", "message", "type", "string", "type",
        "type", "string", "param", "type", "string", "null", "code", "type", "string", "null");
    json_t *a1111 = json_pack("{s:s, s:[s], s:{s:{}}}", "type", "object", "required", "detail",
                              "properties", "detail");

    return json_pack("{s:o, s:o, s:o}", "NativeError", native, "OpenAIError", openai, "A1111Error",
                     a1111);
}

/* The groups of operations, in the order in which somebody new wants them. */
static json_t *tags_json(void)
{
    return json_pack("[{s:s}, {s:s}, {s:s}, {s:s}, {s:s}]", "name", "Jobs", "name", "Images",
                     "name", "OpenAI", "name", "AUTOMATIC1111", "name", "Server");
}

static json_t *security_schemes(void)
{
    return json_pack("{s:{s:s, s:s, s:s}, s:{s:s, s:s}, s:{s:s, s:s, s:s, s:s}}", "key", "type",
                     "http", "scheme", "bearer", "description", "a key made by `sd35 keys`",
                     "password", "type", "http", "scheme", "basic", "cookie", "type", "apiKey",
                     "in", "cookie", "name", "sd35_session", "description",
                     "what POST /api/v1/login sets; over TLS its name is __Host-sd35");
}

json_t *openapi_document(const struct openapi *openapi)
{
    return json_pack("{s:s, s:{s:s, s:s, s:s}, s:o, s:o, s:{s:o, s:o}}", "openapi", "3.1.0", "info",
                     "title", "sd35", "version", openapi->options.version, "description",
                     "Pictures from text with Stable Diffusion 3.5: the native API, OpenAI's "
                     "images and AUTOMATIC1111's, over one queue.",
                     "tags", tags_json(), "paths", paths_json(openapi), "components", "schemas",
                     error_schemas(), "securitySchemes", security_schemes());
}
