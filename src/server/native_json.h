/* JSON of the native API: jobs, pictures and events as clients see them. Any thread.
 *
 * Every function returns a new reference, or NULL when memory is short.
 */
#ifndef SERVER_NATIVE_JSON_H
#define SERVER_NATIVE_JSON_H

#include <jansson.h>

#include "server/hub.h"

/* A JSON text; bytes that are no UTF-8 become '?'. NULL is JSON's null. */
json_t *native_text(const char *text);
/* RFC 3339 in UTC with milliseconds; 0 is null. */
json_t *native_time(int64_t ms);
/* null for a negative number, which stands for "unknown". */
json_t *native_seconds(double seconds);

bool native_job_is_over(enum job_state state);
/* How much of the job is done, 0 to 1: denoising counts by its steps, the rest by fixed shares. */
double native_job_progress(const struct job_view *job);

/* The media type of a picture, by the format that its row names. */
const char *native_media_type(const struct store_picture *picture);
/* "sd35-<seed>-<id>.png": from the seed and the id only, never from a prompt. */
#define NATIVE_FILE_NAME_BYTES 80
void native_file_name(const struct store_picture *picture, char name[NATIVE_FILE_NAME_BYTES]);

json_t *native_picture_json(const struct store_picture *picture);
/* A picture in a list of pictures: with its job's id, time and prompt. */
json_t *native_listed_picture_json(const struct store_picture *picture, const struct job_view *job);
json_t *native_job_json(const struct job_view *job, bool with_parameters);

#endif
