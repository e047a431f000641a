/* What the files of the native API share. Private to native_*.c.
 */
#ifndef SERVER_NATIVE_PRIVATE_H
#define SERVER_NATIVE_PRIVATE_H

#include "server/native_api.h"
#include "server/native_chores.h"
#include "server/native_cursor.h"
#include "server/native_json.h"

#define NATIVE_WAIT_SECONDS_MAX 60
#define NATIVE_TIMEOUT_SECONDS_MAX 86400
#define NATIVE_PAGE_DEFAULT 50
#define NATIVE_PAGE_MAX 100
#define NATIVE_SEARCH_BYTES_MAX 200
#define NATIVE_BULK_MAX 200 /* ids in one request */

struct native {
    struct native_options options; /* fixed */
    struct chores *chores;
    char boot[NATIVE_BOOT_BYTES]; /* fixed */
};

/* --- native_request.c: reading a request; false and NULL: answered with an error already --- */

/* ?name=1, true, 0 or false; absent: false. */
MUST_CHECK bool native_flag(struct http_exchange *exchange, const char *name, bool *out);
/* The owner whose jobs the request may see: NULL, everybody's, for an administrator's ?all=1. */
MUST_CHECK bool native_owner(struct http_exchange *exchange, const char **owner);
/* The {id} of the path. */
const char *native_id(struct http_exchange *exchange);
/* ?wait=SECONDS; absent: 0. */
MUST_CHECK bool native_wait_seconds(struct http_exchange *exchange, double *out);
/* {"ids": [...]} and nothing else: 1 to NATIVE_BULK_MAX different ids, borrowed from the body. */
MUST_CHECK bool native_ids(struct http_exchange *exchange, const char *ids[NATIVE_BULK_MAX],
                           size_t *count);

/* --- native_reply.c --- */

/* Steals `body`; NULL becomes an error. */
void native_reply(struct http_exchange *exchange, int status, json_t *body);
/* Takes the text. */
void native_reply_text(struct http_exchange *exchange, int status, struct json_writer *body);
void native_reply_job(struct http_exchange *exchange, int status, const struct job_view *job);
/* 200 with a job whose parameters and result are JSON texts; NULL: none. */
void native_reply_job_texts(struct http_exchange *exchange, const struct job_view *job,
                            const char *parameters, const char *result);
void native_reply_hub_error(struct http_exchange *exchange, const struct hub_error *problem);
void native_reply_problem(struct http_exchange *exchange, const struct job_problem *problem);
/* 422 "invalid_value". */
void native_reply_bad(struct http_exchange *exchange, const char *field, const char *what);

/* --- native_wait.c --- */

/* Answers with the job once it is over, or as it is after `seconds`: 200, or `status_early` when it
 * is not over. Not on a connection's thread. */
void native_answer_when_over(struct native *native, struct http_exchange *exchange, const char *id,
                             const char *owner, double seconds, int status_early);

/* --- Handlers; `context` is the struct native --- */

void native_post_job(struct http_exchange *exchange, void *context);
void native_get_job(struct http_exchange *exchange, void *context);
void native_cancel_job(struct http_exchange *exchange, void *context);
void native_cancel_all(struct http_exchange *exchange, void *context);
void native_delete_record(struct http_exchange *exchange, void *context);
void native_list_jobs(struct http_exchange *exchange, void *context);
void native_list_pictures(struct http_exchange *exchange, void *context);
void native_get_events(struct http_exchange *exchange, void *context);
void native_get_picture(struct http_exchange *exchange, void *context);
void native_get_thumbnail(struct http_exchange *exchange, void *context);
void native_get_metadata(struct http_exchange *exchange, void *context);
void native_get_signed_file(struct http_exchange *exchange, void *context);
void native_star_picture(struct http_exchange *exchange, void *context);
void native_delete_picture(struct http_exchange *exchange, void *context);
void native_delete_pictures(struct http_exchange *exchange, void *context);
void native_zip_pictures(struct http_exchange *exchange, void *context);
void native_get_model(struct http_exchange *exchange, void *context);
void native_get_device(struct http_exchange *exchange, void *context);
void native_get_queue(struct http_exchange *exchange, void *context);

/* --- native_schemas.c: for openapi.json --- */

json_t *native_job_request_schema(void *context);
json_t *native_job_or_estimate_schema(void *context);
json_t *native_job_schema(void *context);
json_t *native_jobs_schema(void *context);
json_t *native_pictures_schema(void *context);
json_t *native_metadata_schema(void *context);
json_t *native_star_schema(void *context);
json_t *native_starred_schema(void *context);
json_t *native_events_schema(void *context);
json_t *native_ids_schema(void *context);
json_t *native_deleted_schema(void *context);
json_t *native_deleted_list_schema(void *context);
json_t *native_count_schema(void *context);
json_t *native_model_schema(void *context);
json_t *native_device_schema(void *context);
json_t *native_queue_schema(void *context);

#endif
