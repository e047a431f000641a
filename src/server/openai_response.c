#include "server/openai_response.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* CLIP's positions, which stand before those of T5. */
#define CLIP_POSITIONS 77
/* A token of the transformer is 2 x 2 of the latent, 16 x 16 of the picture. */
#define TOKEN_SIDE 16

static int integer_of(const json_t *object, const char *name)
{
    return (int)json_integer_value(json_object_get(object, name));
}

void openai_facts_of(struct openai_facts *out, const struct job_view *view, const char *quality,
                     const struct worker_facts *worker)
{
    const char *format = json_string_value(json_object_get(view->parameters, "format"));

    *out = (struct openai_facts){
        .created = view->created_ms / 1000,
        .width = integer_of(view->parameters, "width"),
        .height = integer_of(view->parameters, "height"),
        .count = integer_of(view->parameters, "count"),
        .has_input = json_is_true(json_object_get(view->parameters, "has_init_image")),
        .text_tokens =
            CLIP_POSITIONS + (worker->has_t5 ? integer_of(view->parameters, "t5_tokens") : 0),
    };
    out->image_tokens = (out->width / TOKEN_SIDE) * (out->height / TOKEN_SIDE);
    snprintf(out->format, sizeof out->format, "%s", format ? format : "png");
    snprintf(out->quality, sizeof out->quality, "%s", quality);
    snprintf(out->model, sizeof out->model, "%s", worker->model);
}

json_t *openai_usage(const struct openai_facts *facts, int pictures)
{
    int image_in = facts->has_input ? facts->image_tokens : 0;
    int out = facts->image_tokens * pictures;
    int in = facts->text_tokens + image_in;

    return json_pack("{s:i, s:i, s:i, s:{s:i, s:i}}", "total_tokens", in + out, "input_tokens", in,
                     "output_tokens", out, "input_tokens_details", "text_tokens",
                     facts->text_tokens, "image_tokens", image_in);
}

static json_t *size_text(const struct openai_facts *facts)
{
    return json_sprintf("%dx%d", (int)facts->width, (int)facts->height);
}

json_t *openai_response(const struct openai_facts *facts, json_t *data)
{
    return json_pack("{s:I, s:o, s:s, s:s, s:s, s:o, s:s, s:o}", "created",
                     (json_int_t)facts->created, "data", data, "background", "opaque",
                     "output_format", facts->format, "quality", facts->quality, "size",
                     size_text(facts), "model", facts->model, "usage",
                     openai_usage(facts, facts->count));
}

json_t *openai_datum(json_t *text, bool is_url, uint64_t seed)
{
    return json_pack("{s:o, s:I}", is_url ? "url" : "b64_json", text, "seed", (json_int_t)seed);
}

/* --- Events --- */

static json_t *event_json(const struct openai_facts *facts, const char *type, const char *format,
                          json_t *text)
{
    return json_pack("{s:s, s:o, s:I, s:o, s:s, s:s, s:s}", "type", type, "b64_json", text,
                     "created_at", (json_int_t)facts->created, "size", size_text(facts), "quality",
                     facts->quality, "background", "opaque", "output_format", format);
}

json_t *openai_partial(const struct openai_facts *facts, bool is_edit, json_t *text, int index)
{
    /* Previews are JPEGs whatever was asked for, and are said to be. */
    json_t *data =
        event_json(facts, is_edit ? "image_edit.partial_image" : "image_generation.partial_image",
                   "jpeg", text);

    if (data && json_object_set_new(data, "partial_image_index", json_integer(index)) != 0) {
        json_decref(data);
        return NULL;
    }
    return data;
}

json_t *openai_completed(const struct openai_facts *facts, bool is_edit, json_t *text,
                         uint64_t seed)
{
    json_t *data =
        event_json(facts, is_edit ? "image_edit.completed" : "image_generation.completed",
                   facts->format, text);

    if (data && (json_object_set_new(data, "usage", openai_usage(facts, 1)) != 0 ||
                 json_object_set_new(data, "seed", json_integer((json_int_t)seed)) != 0)) {
        json_decref(data);
        return NULL;
    }
    return data;
}

char *openai_event_text(json_t *data, size_t *size)
{
    const char *type = json_string_value(json_object_get(data, "type"));
    char *json = data ? json_dumps(data, JSON_COMPACT) : NULL;
    char *text = NULL;
    int length = -1;

    if (json)
        length = asprintf(&text, "event: %s\ndata: %s\n\n", type ? type : "error", json);
    free(json);
    json_decref(data);
    if (length < 0)
        return NULL;
    *size = (size_t)length;
    return text;
}

bool openai_partial_is_due(int step, int steps, int partial_images, int sent)
{
    return sent < partial_images && step > 0 && step * (partial_images + 1) >= steps * (sent + 1);
}

json_t *openai_error(const struct failure_answer *failure)
{
    return json_pack("{s:{s:s, s:s, s:n, s:s}}", "error", "message", failure->message, "type",
                     failure->type, "param", "code", failure->code);
}
