/* What requests of the native API have in common, read and checked. */
#include <stdlib.h>
#include <string.h>

#include "server/native_private.h"

bool native_flag(struct http_exchange *exchange, const char *name, bool *out)
{
    const char *text = http_query(exchange, name);

    *out = text && (strcmp(text, "1") == 0 || strcmp(text, "true") == 0);
    if (!text || *out || strcmp(text, "0") == 0 || strcmp(text, "false") == 0)
        return true;
    native_reply_bad(exchange, name, "must be 1, 0, true or false");
    return false;
}

bool native_owner(struct http_exchange *exchange, const char **owner)
{
    const struct http_identity *identity = http_identity_of(exchange);
    bool is_all;

    if (!native_flag(exchange, "all", &is_all))
        return false;
    *owner = is_all && (identity->scopes & SCOPE_ADMIN) ? NULL : identity->name;
    return true;
}

const char *native_id(struct http_exchange *exchange)
{
    const char *id = http_path_value(exchange, "id");

    if (native_is_id(id))
        return id;
    http_reply_error(exchange, 404, "not_found", "", 0, "there is nothing of this id");
    return NULL;
}

bool native_wait_seconds(struct http_exchange *exchange, double *out)
{
    const char *text = http_query(exchange, "wait");
    uint64_t seconds = 0;

    if (text && (!native_digits_read(&seconds, text) || seconds > NATIVE_WAIT_SECONDS_MAX)) {
        native_reply_bad(exchange, "wait", "must be whole seconds from 0 to 60");
        return false;
    }
    *out = (double)seconds;
    return true;
}

static bool is_among(const char *const *ids, size_t count, const char *id)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(ids[i], id) == 0)
            return true;
    return false;
}

bool native_ids(struct http_exchange *exchange, const char *ids[NATIVE_BULK_MAX], size_t *count)
{
    const json_t *body = http_json(exchange);
    const json_t *list = json_object_get(body, "ids");
    size_t size = json_array_size(list);

    if (!body)
        return false;
    if (json_object_size(body) != (list ? 1 : 0)) {
        http_reply_error(exchange, 422, "unknown_field", "", 0, "only \"ids\" is known here");
        return false;
    }
    if (!json_is_array(list) || size == 0 || size > NATIVE_BULK_MAX) {
        native_reply_bad(exchange, "ids", "must be a list of 1 to 200 ids");
        return false;
    }
    *count = 0;
    for (size_t i = 0; i < size; i++) {
        const char *id = json_string_value(json_array_get(list, i));

        if (!native_is_id(id)) {
            native_reply_bad(exchange, "ids", "must hold ids of pictures: 32 hexadecimal digits");
            return false;
        }
        if (!is_among(ids, *count, id))
            ids[(*count)++] = id;
    }
    return true;
}
