#include "server/native_api.h"

#include <sodium.h>
#include <stdlib.h>

#include "server/limits.h"
#include "server/native_private.h"

static const struct http_route routes[] = {
    {.method = HTTP_POST,
     .path = "/api/v1/jobs",
     .scope = SCOPE_GENERATE,
     .style = STYLE_NATIVE,
     .handle = native_post_job,
     .body_max = HTTP_PICTURE_BODY_BYTES_MAX,
     .tag = "Jobs",
     .summary = "Queue a job; with dry_run, tell what it would take",
     .request_schema = native_job_request_schema,
     .response_schema = native_job_or_estimate_schema},
    {.method = HTTP_GET,
     .path = "/api/v1/jobs",
     .scope = SCOPE_READ,
     .style = STYLE_NATIVE,
     .handle = native_list_jobs,
     .tag = "Jobs",
     .summary = "Jobs that wait, run and are over, newest first",
     .response_schema = native_jobs_schema},
    {.method = HTTP_DELETE,
     .path = "/api/v1/jobs",
     .scope = SCOPE_GENERATE,
     .style = STYLE_NATIVE,
     .handle = native_cancel_all,
     .tag = "Jobs",
     .summary = "Cancel all jobs of one's own",
     .response_schema = native_count_schema},
    {.method = HTTP_GET,
     .path = "/api/v1/jobs/{id}",
     .scope = SCOPE_READ,
     .style = STYLE_NATIVE,
     .handle = native_get_job,
     .is_quick = true,
     .tag = "Jobs",
     .summary = "One job; with wait, once it is over",
     .response_schema = native_job_schema},
    {.method = HTTP_DELETE,
     .path = "/api/v1/jobs/{id}",
     .scope = SCOPE_GENERATE,
     .style = STYLE_NATIVE,
     .handle = native_cancel_job,
     .tag = "Jobs",
     .summary = "Cancel a job",
     .response_schema = native_job_schema},
    {.method = HTTP_POST,
     .path = "/api/v1/jobs/{id}/cancel",
     .scope = SCOPE_GENERATE,
     .style = STYLE_NATIVE,
     .handle = native_cancel_job,
     .tag = "Jobs",
     .summary = "Cancel a job",
     .response_schema = native_job_schema},
    {.method = HTTP_DELETE,
     .path = "/api/v1/jobs/{id}/record",
     .scope = SCOPE_GENERATE,
     .style = STYLE_NATIVE,
     .handle = native_delete_record,
     .tag = "Jobs",
     .summary = "Delete a job that is over, with its pictures",
     .response_schema = native_deleted_schema},
    {.method = HTTP_GET,
     .path = "/api/v1/events",
     .scope = SCOPE_READ,
     .style = STYLE_NATIVE,
     .handle = native_get_events,
     .response_type = "text/event-stream",
     .response_schema = native_events_schema,
     .tag = "Jobs",
     .summary = "What happens to jobs, as server-sent events"},
    {.method = HTTP_GET,
     .path = "/api/v1/images",
     .scope = SCOPE_READ,
     .style = STYLE_NATIVE,
     .handle = native_list_pictures,
     .tag = "Images",
     .summary = "Pictures, newest first",
     .response_schema = native_pictures_schema},
    {.method = HTTP_POST,
     .path = "/api/v1/images/zip",
     .scope = SCOPE_READ,
     .style = STYLE_NATIVE,
     .handle = native_zip_pictures,
     .response_type = "application/zip",
     .tag = "Images",
     .summary = "An archive of pictures",
     .request_schema = native_ids_schema},
    {.method = HTTP_POST,
     .path = "/api/v1/images/delete",
     .scope = SCOPE_GENERATE,
     .style = STYLE_NATIVE,
     .handle = native_delete_pictures,
     .tag = "Images",
     .summary = "Delete pictures, with their jobs",
     .request_schema = native_ids_schema,
     .response_schema = native_deleted_list_schema},
    {.method = HTTP_GET,
     .path = "/api/v1/images/{id}",
     .scope = SCOPE_READ,
     .style = STYLE_NATIVE,
     .handle = native_get_picture,
     .response_type = "image/*",
     .tag = "Images",
     .summary = "A picture's file"},
    {.method = HTTP_DELETE,
     .path = "/api/v1/images/{id}",
     .scope = SCOPE_GENERATE,
     .style = STYLE_NATIVE,
     .handle = native_delete_picture,
     .tag = "Images",
     .summary = "Delete the only picture of a job, with the job",
     .response_schema = native_deleted_schema},
    {.method = HTTP_GET,
     .path = "/api/v1/images/{id}/thumbnail",
     .scope = SCOPE_READ,
     .style = STYLE_NATIVE,
     .handle = native_get_thumbnail,
     .response_type = "image/*",
     .tag = "Images",
     .summary = "A picture, small"},
    {.method = HTTP_GET,
     .path = "/api/v1/images/{id}/metadata",
     .scope = SCOPE_READ,
     .style = STYLE_NATIVE,
     .handle = native_get_metadata,
     .tag = "Images",
     .summary = "How a picture was made",
     .response_schema = native_metadata_schema},
    {.method = HTTP_POST,
     .path = "/api/v1/images/{id}/star",
     .scope = SCOPE_GENERATE,
     .style = STYLE_NATIVE,
     .handle = native_star_picture,
     .tag = "Images",
     .summary = "Mark a picture, or take the mark away",
     .request_schema = native_star_schema,
     .response_schema = native_starred_schema},
    {.method = HTTP_GET,
     .path = "/files/{id}",
     .scope = SCOPE_PUBLIC,
     .style = STYLE_NATIVE,
     .handle = native_get_signed_file,
     .response_type = "image/*",
     .tag = "Images",
     .summary = "A picture's file, by a signed link that expires"},
    {.method = HTTP_GET,
     .path = "/api/v1/model",
     .scope = SCOPE_READ,
     .style = STYLE_NATIVE,
     .handle = native_get_model,
     .is_quick = true,
     .tag = "Server",
     .summary = "The model, its defaults and limits",
     .response_schema = native_model_schema},
    {.method = HTTP_GET,
     .path = "/api/v1/device",
     .scope = SCOPE_READ,
     .style = STYLE_NATIVE,
     .handle = native_get_device,
     .is_quick = true,
     .tag = "Server",
     .summary = "The device that draws",
     .response_schema = native_device_schema},
    {.method = HTTP_GET,
     .path = "/api/v1/queue",
     .scope = SCOPE_READ,
     .style = STYLE_NATIVE,
     .handle = native_get_queue,
     .is_quick = true,
     .tag = "Server",
     .summary = "How long the queue is",
     .response_schema = native_queue_schema},
};

bool native_create(struct native **out, const struct native_options *options, struct error *err)
{
    struct native *native;

    if (sodium_init() < 0)
        return error_set(err, ERROR_IO, "native API: there is no source of random numbers");
    native = calloc(1, sizeof *native);
    if (!native)
        return error_set(err, ERROR_NO_MEMORY, "native API");
    native->options = *options;
    native_boot_draw(native->boot);
    if (!chores_create(&native->chores, err)) {
        free(native);
        return false;
    }
    *out = native;
    return true;
}

struct http_routes native_routes(struct native *native)
{
    return (struct http_routes){.routes = routes, .count = COUNT_OF(routes), .context = native};
}

void native_hang_up(struct native *native)
{
    chores_hurry_all(native->chores);
}

void native_destroy(struct native *native)
{
    if (!native)
        return;
    chores_destroy(native->chores);
    free(native);
}
