/* openapi.json, made from the router's own table, and /docs, a page that shows it and tries it.
 *
 * The document is made anew for each request: schemas of jobs depend on the model, which is known
 * only once a worker has loaded it. Any thread.
 */
#ifndef SERVER_OPENAPI_H
#define SERVER_OPENAPI_H

#include "base/attributes.h"
#include "server/http.h"

/* A value that a request may have in its query or in a header, or what is known of one in its path.
 * Lists of them end with one whose `path` is NULL. */
struct openapi_parameter {
    enum http_method method;
    const char *path; /* of the route */
    const char *name;
    enum openapi_place { IN_QUERY, IN_HEADER, IN_PATH } place;
    const char *type;        /* JSON Schema's: "string", "integer", "boolean" */
    double minimum, maximum; /* of an integer, when they differ; of a string, its length */
    const char *pattern;     /* of a string; NULL: any */
    const char *values;      /* of a string: "queued|running"; NULL: any */
    bool is_required;        /* a path's always is */
    const char *about;
};

struct openapi_options {
    const char *version; /* of the program */
    /* All parts of the server, as http_server_start gets them: ends with one whose routes are NULL.
     * Borrowed, and read when a document is made: may be filled in later, until the start. */
    const struct http_routes *parts;
    const struct openapi_parameter *const *parameters; /* lists; NULL at the end; borrowed */
};

struct openapi;
MUST_CHECK bool openapi_create(struct openapi **out, const struct openapi_options *options,
                               struct error *err);
void openapi_destroy(struct openapi *openapi); /* NULL is fine */
struct http_routes openapi_routes(struct openapi *openapi);

/* New reference; NULL when memory is short. */
json_t *openapi_document(const struct openapi *openapi);

#endif
