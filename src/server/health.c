#include "server/health.h"

static void handle_live(struct http_exchange *exchange, void *context)
{
    (void)context;
    http_reply_json(exchange, 200, json_pack("{s:s}", "status", "live"));
}

static const char *const disk_words[] = {
    [STORE_DISK_FULL] = "disk_reserve",
    [STORE_DISK_READ_ONLY] = "writable_outputs",
    [STORE_DISK_GONE] = "outputs_folder",
};

/* What keeps the server from being ready, as words for programs. */
static json_t *missing_parts(const struct hub_state *state)
{
    json_t *missing = json_array();

    if (!state->store_works)
        json_array_append_new(missing, json_string("store"));
    if (state->disk != STORE_DISK_GOOD)
        json_array_append_new(missing, json_string(disk_words[state->disk]));
    if (state->pictures_held > 0)
        json_array_append_new(missing, json_string("stored_pictures"));
    if (state->workers_ready == 0)
        json_array_append_new(missing, json_string("worker"));
    if (state->is_draining)
        json_array_append_new(missing, json_string("draining"));
    return missing;
}

json_t *health_body(const struct hub_state *state)
{
    bool is_loading = state->workers > 0 && state->workers_ready == 0;
    json_t *body =
        json_pack("{s:s, s:o, s:i, s:i, s:i, s:i}", "status",
                  state->is_ready      ? "ready"
                  : state->is_draining ? "draining"
                  : is_loading         ? "loading"
                                       : "not_ready",
                  "missing", missing_parts(state), "workers", state->workers, "workers_ready",
                  state->workers_ready, "queued", state->queued, "running", state->running);

    if (body && is_loading)
        json_object_set_new(body, "loading",
                            json_pack("{s:s, s:f}", "what", state->loading.what, "fraction",
                                      state->loading.fraction));
    return body;
}

static void handle_ready(struct http_exchange *exchange, void *context)
{
    struct hub_state state = {0};

    hub_state(context, &state);
    if (!state.is_ready)
        http_add_header(exchange, "Retry-After", "2");
    http_reply_json(exchange, state.is_ready ? 200 : 503, health_body(&state));
}

#define HEALTH_ROUTE(route, handler, text)                                                         \
    {                                                                                              \
        .method = HTTP_GET, .path = (route), .scope = SCOPE_PUBLIC, .style = STYLE_NATIVE,         \
        .is_quick = true, .handle = (handler), .summary = (text), .tag = "Server"                  \
    }

/* Beside our own names those of Kubernetes' habit (healthz, readyz), of NVIDIA's containers (/v1)
 * and of the KServe protocol (/v2). */
static const struct http_route routes[] = {
    HEALTH_ROUTE("/health/live", handle_live, "Whether the server answers"),
    HEALTH_ROUTE("/healthz", handle_live, "The same as /health/live"),
    HEALTH_ROUTE("/v1/health/live", handle_live, "The same as /health/live"),
    HEALTH_ROUTE("/v2/health/live", handle_live, "The same as /health/live"),
    HEALTH_ROUTE("/health/ready", handle_ready, "Whether pictures can be drawn; 503 when not"),
    HEALTH_ROUTE("/health", handle_ready, "The same as /health/ready"),
    HEALTH_ROUTE("/readyz", handle_ready, "The same as /health/ready"),
    HEALTH_ROUTE("/v1/health/ready", handle_ready, "The same as /health/ready"),
    HEALTH_ROUTE("/v2/health/ready", handle_ready, "The same as /health/ready"),
};

struct http_routes health_routes(struct hub *hub)
{
    return (struct http_routes){routes, COUNT_OF(routes), hub};
}
