/* What requests of the native API may have beside their bodies, for openapi.json. */
#include "server/native_private.h"

#define ID_PATTERN "^[0-9a-f]{32}$"
/* Nine bytes in base64url, of which native_cursor.c says the first and that the next is below 128.
 */
#define CURSOR_PATTERN "^a[g-n][A-Za-z0-9_-]{10}$"

#define ID(method_, path_)                                                                         \
    {                                                                                              \
        .method = (method_), .path = (path_), .name = "id", .place = IN_PATH, .type = "string",    \
        .pattern = ID_PATTERN, .about = "32 hexadecimal digits"                                    \
    }

#define FLAG(method_, path_, name_, about_)                                                        \
    {                                                                                              \
        .method = (method_), .path = (path_), .name = (name_), .place = IN_QUERY,                  \
        .type = "string", .values = "0|1|true|false", .about = (about_)                            \
    }

#define ALL(method_, path_) FLAG(method_, path_, "all", "1: everybody's, for an administrator")

#define WAIT(method_, path_)                                                                       \
    {                                                                                              \
        .method = (method_), .path = (path_), .name = "wait", .place = IN_QUERY,                   \
        .type = "integer", .minimum = 0, .maximum = NATIVE_WAIT_SECONDS_MAX,                       \
        .about = "seconds to wait for its end"                                                     \
    }

/* What every list may be asked for, but for whose it is. */
#define LISTING(path_)                                                                             \
    {.method = HTTP_GET,                                                                           \
     .path = (path_),                                                                              \
     .name = "cursor",                                                                             \
     .place = IN_QUERY,                                                                            \
     .type = "string",                                                                             \
     .pattern = CURSOR_PATTERN,                                                                    \
     .about = "next_cursor of the page before"},                                                   \
        {.method = HTTP_GET,                                                                       \
         .path = (path_),                                                                          \
         .name = "limit",                                                                          \
         .place = IN_QUERY,                                                                        \
         .type = "integer",                                                                        \
         .minimum = 1,                                                                             \
         .maximum = NATIVE_PAGE_MAX,                                                               \
         .about = "how many"},                                                                     \
        {.method = HTTP_GET,                                                                       \
         .path = (path_),                                                                          \
         .name = "search",                                                                         \
         .place = IN_QUERY,                                                                        \
         .type = "string",                                                                         \
         .minimum = 0,                                                                             \
         .maximum = NATIVE_SEARCH_BYTES_MAX,                                                       \
         .about = "words that the prompt has"},                                                    \
        FLAG(HTTP_GET, path_, "starred", "1: marked ones only")

static const struct openapi_parameter parameters[] = {
    WAIT(HTTP_POST, "/api/v1/jobs"),
    {.method = HTTP_POST,
     .path = "/api/v1/jobs",
     .name = "Idempotency-Key",
     .place = IN_HEADER,
     .type = "string",
     .minimum = 1,
     .maximum = STORE_KEY_BYTES - 1,
     .about = "a text of the caller's: the same request with the same text makes one job"},
    LISTING("/api/v1/jobs"),
    ALL(HTTP_GET, "/api/v1/jobs"),
    {.method = HTTP_GET,
     .path = "/api/v1/jobs",
     .name = "state",
     .place = IN_QUERY,
     .type = "string",
     .values = "active|queued|running|done|failed|cancelled",
     .about = "jobs in this state only"},
    {.method = HTTP_DELETE,
     .path = "/api/v1/jobs",
     .name = "all",
     .place = IN_QUERY,
     .type = "string",
     .values = "1|true",
     .is_required = true,
     .about = "1: yes, all of them"},
    FLAG(HTTP_DELETE, "/api/v1/jobs", "everybody", "1: everybody's, for an administrator"),
    ID(HTTP_GET, "/api/v1/jobs/{id}"),
    ALL(HTTP_GET, "/api/v1/jobs/{id}"),
    WAIT(HTTP_GET, "/api/v1/jobs/{id}"),
    ID(HTTP_DELETE, "/api/v1/jobs/{id}"),
    ALL(HTTP_DELETE, "/api/v1/jobs/{id}"),
    ID(HTTP_POST, "/api/v1/jobs/{id}/cancel"),
    ALL(HTTP_POST, "/api/v1/jobs/{id}/cancel"),
    ID(HTTP_DELETE, "/api/v1/jobs/{id}/record"),
    ALL(HTTP_DELETE, "/api/v1/jobs/{id}/record"),
    {.method = HTTP_GET,
     .path = "/api/v1/events",
     .name = "job",
     .place = IN_QUERY,
     .type = "string",
     .pattern = ID_PATTERN,
     .about = "of this job only"},
    FLAG(HTTP_GET, "/api/v1/events", "previews", "1: with pictures of what is being drawn"),
    {.method = HTTP_GET,
     .path = "/api/v1/events",
     .name = "last_event_id",
     .place = IN_QUERY,
     .type = "string",
     .about = "as the header Last-Event-ID"},
    {.method = HTTP_GET,
     .path = "/api/v1/events",
     .name = "Last-Event-ID",
     .place = IN_HEADER,
     .type = "string",
     .about = "id of the last event that was seen: those after it follow"},
    ALL(HTTP_GET, "/api/v1/events"),
    LISTING("/api/v1/images"),
    ALL(HTTP_GET, "/api/v1/images"),
    ALL(HTTP_POST, "/api/v1/images/zip"),
    ALL(HTTP_POST, "/api/v1/images/delete"),
    ID(HTTP_GET, "/api/v1/images/{id}"),
    ALL(HTTP_GET, "/api/v1/images/{id}"),
    FLAG(HTTP_GET, "/api/v1/images/{id}", "download", "1: as a file with a name"),
    ID(HTTP_DELETE, "/api/v1/images/{id}"),
    ALL(HTTP_DELETE, "/api/v1/images/{id}"),
    ID(HTTP_GET, "/api/v1/images/{id}/thumbnail"),
    ALL(HTTP_GET, "/api/v1/images/{id}/thumbnail"),
    ID(HTTP_GET, "/api/v1/images/{id}/metadata"),
    ALL(HTTP_GET, "/api/v1/images/{id}/metadata"),
    ID(HTTP_POST, "/api/v1/images/{id}/star"),
    ALL(HTTP_POST, "/api/v1/images/{id}/star"),
    ID(HTTP_GET, "/files/{id}"),
    {.method = HTTP_GET,
     .path = "/files/{id}",
     .name = "expires",
     .place = IN_QUERY,
     .type = "string",
     .is_required = true,
     .about = "part of the link"},
    {.method = HTTP_GET,
     .path = "/files/{id}",
     .name = "signature",
     .place = IN_QUERY,
     .type = "string",
     .is_required = true,
     .about = "part of the link"},
    {.path = NULL},
};

const struct openapi_parameter *native_parameters(void)
{
    return parameters;
}
