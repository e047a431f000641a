#include "server/openapi.h"

#include <stdlib.h>
#include <string.h>

#include "server/embedded_file.h"
#include "server/openapi_private.h"

extern const struct embedded_file docs_files[];
extern const size_t docs_files_count;

bool openapi_create(struct openapi **out, const struct openapi_options *options, struct error *err)
{
    struct openapi *openapi = calloc(1, sizeof *openapi);

    if (!openapi)
        return error_set(err, ERROR_NO_MEMORY, "openapi.json");
    openapi->options = *options;
    *out = openapi;
    return true;
}

void openapi_destroy(struct openapi *openapi)
{
    free(openapi);
}

static void get_document(struct http_exchange *exchange, void *context)
{
    json_t *document = openapi_document(context);

    if (document)
        http_reply_json(exchange, 200, document);
    else
        http_reply_error(exchange, 503, "out_of_memory", "", 1, "the server is short of memory");
}

static void reply_file(struct http_exchange *exchange, const char *name)
{
    for (size_t i = 0; i < docs_files_count; i++) {
        const struct embedded_file *file = &docs_files[i];

        if (strcmp(file->name, name) == 0) {
            http_reply_static(exchange, file->type, file->bytes, file->size, file->etag);
            return;
        }
    }
    http_reply_error(exchange, 404, "not_found", "", 0, "there is no such file");
}

static void get_page(struct http_exchange *exchange, void *context)
{
    (void)context;
    reply_file(exchange, "docs.html");
}

static void get_file(struct http_exchange *exchange, void *context)
{
    (void)context;
    reply_file(exchange, http_path_value(exchange, "file"));
}

static json_t *any_object(void *context)
{
    (void)context;
    return json_pack("{s:s}", "type", "object");
}

static const struct http_route routes[] = {
    {.method = HTTP_GET,
     .path = "/openapi.json",
     .scope = SCOPE_READ,
     .style = STYLE_NATIVE,
     .handle = get_document,
     .tag = "Server",
     .summary = "This document",
     .response_schema = any_object},
    {.method = HTTP_GET,
     .path = "/docs",
     .scope = SCOPE_PUBLIC,
     .style = STYLE_NATIVE,
     .is_quick = true,
     .handle = get_page,
     .tag = "Server",
     .summary = "A page that shows this document and tries what is in it",
     .response_type = "text/html"},
    {.method = HTTP_GET,
     .path = "/docs/{file}",
     .scope = SCOPE_PUBLIC,
     .style = STYLE_NATIVE,
     .is_quick = true,
     .handle = get_file,
     .tag = "Server",
     .summary = "Files of that page",
     .response_type = "*/*"},
};

struct http_routes openapi_routes(struct openapi *openapi)
{
    return (struct http_routes){.routes = routes, .count = COUNT_OF(routes), .context = openapi};
}
