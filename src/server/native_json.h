/* JSON of the native API: jobs, pictures and events as clients see them. Any thread.
 *
 * What is named write_ writes members of an object that the caller opens and closes.
 */
#ifndef SERVER_NATIVE_JSON_H
#define SERVER_NATIVE_JSON_H

#include <jansson.h>

#include "server/hub.h"
#include "server/json_writer.h"

/* null for a negative number, which stands for "unknown". NULL when memory is short. */
json_t *native_seconds(double seconds);
/* RFC 3339 in UTC with milliseconds; 0 is null. */
void native_write_time(struct json_writer *out, const char *key, int64_t ms);

bool native_job_is_over(enum job_state state);
/* How much of the job is done, 0 to 1: denoising counts by its steps, the rest by fixed shares. */
double native_job_progress(const struct job_view *job);

/* The media type of a picture, by the format that its row names. */
const char *native_media_type(const struct store_picture *picture);
/* "sd35-<seed>-<id>.png": from the seed and the id only, never from a prompt. */
#define NATIVE_FILE_NAME_BYTES 80
void native_file_name(const struct store_picture *picture, char name[NATIVE_FILE_NAME_BYTES]);

void native_write_picture(struct json_writer *out, const struct store_picture *picture);
/* A picture in a list of pictures: with its job's id, time and prompt. */
void native_write_listed_picture(struct json_writer *out, const struct store_picture *picture,
                                 const struct job_view *job);
/* A job but its parameters and result: a view has them as trees, or apart from it as texts. */
void native_write_job(struct json_writer *out, const struct job_view *job);
/* A job with the view's own result and parameters, where it has them. */
void native_write_whole_job(struct json_writer *out, const struct job_view *job);

#endif
