#include "server/page.h"

#include <string.h>

#include "server/embedded_file.h"

/* Made by cmake/embed.cmake from src/web/. */
extern const struct embedded_file page_files[];
extern const size_t page_files_count;

static const struct embedded_file *find(const char *name)
{
    for (size_t i = 0; name && i < page_files_count; i++)
        if (strcmp(page_files[i].name, name) == 0)
            return &page_files[i];
    return NULL;
}

/* The names carry no version: a browser asks each time, and gets 304 while the content is the same,
 * so that files of two versions never meet. */
static void reply(struct http_exchange *exchange, const char *name)
{
    const struct embedded_file *file = find(name);

    if (!file) {
        http_reply_error(exchange, 404, "not_found", "", 0, "the page has no such file");
        return;
    }
    http_add_header(exchange, "Cache-Control", "no-cache");
    http_reply_static(exchange, file->type, file->bytes, file->size, file->etag);
}

static void get_page(struct http_exchange *exchange, void *context)
{
    (void)context;
    reply(exchange, "index.html");
}

static void get_file(struct http_exchange *exchange, void *context)
{
    (void)context;
    reply(exchange, http_path_value(exchange, "rest"));
}

static const struct http_route routes[] = {
    {.method = HTTP_GET,
     .path = "/",
     .scope = SCOPE_PUBLIC,
     .style = STYLE_NATIVE,
     .is_quick = true,
     .handle = get_page,
     .summary = "The page for people",
     .tag = "Server",
     .response_type = "text/html"},
    {.method = HTTP_GET,
     .path = "/static/{rest*}",
     .scope = SCOPE_PUBLIC,
     .style = STYLE_NATIVE,
     .is_quick = true,
     .handle = get_file,
     .summary = "A file of the page",
     .tag = "Server",
     .response_type = "*/*"},
};

struct http_routes page_routes(void)
{
    return (struct http_routes){routes, COUNT_OF(routes), NULL};
}
