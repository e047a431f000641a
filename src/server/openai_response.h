/* OpenAI responses: jobs to the bodies and events of the Images API. Pure functions but for the
 * pictures, which come as texts already.
 */
#ifndef SERVER_OPENAI_RESPONSE_H
#define SERVER_OPENAI_RESPONSE_H

#include <jansson.h>

#include "server/failure_answer.h"
#include "server/hub.h"

/* What an answer says of the job as a whole. */
struct openai_facts {
    int64_t created; /* seconds */
    int32_t width, height, count;
    char format[8];
    char quality[16];
    char model[128];
    int text_tokens;  /* positions of text that the transformer reads */
    int image_tokens; /* of each picture that it draws */
    bool has_input;   /* an edit */
};
/* From a job that may not have ended. `quality` "medium", `model` as it is called now. */
void openai_facts_of(struct openai_facts *out, const struct job_view *view, const char *quality,
                     const struct worker_facts *worker);

/* `data`: objects of openai_datum, stolen. NULL when memory is short; so all others. */
json_t *openai_response(const struct openai_facts *facts, json_t *data);
/* `text` is stolen: base64, or a URL. */
json_t *openai_datum(json_t *text, bool is_url, uint64_t seed);
json_t *openai_usage(const struct openai_facts *facts, int pictures);

/* The data of ..partial_image: `text` is the base64 of a JPEG, stolen. */
json_t *openai_partial(const struct openai_facts *facts, bool is_edit, json_t *text, int index);
/* The data of ..completed; `text` as for openai_datum. */
json_t *openai_completed(const struct openai_facts *facts, bool is_edit, json_t *text,
                         uint64_t seed);
/* "event: <type>" and the data, whose "type" that is ("error" where there is none). Steals `data`;
 * freed by the caller. */
char *openai_event_text(json_t *data, size_t *size);

/* {"error": {...}}, all four keys. */
json_t *openai_error(const struct failure_answer *failure);

/* Which preview goes out: whether a picture of which `sent` partials went out already has come far
 * enough for its next one: `step` of `steps`. */
bool openai_partial_is_due(int step, int steps, int partial_images, int sent);

#endif
