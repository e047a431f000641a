/* Many pictures at once: an archive of them, and deleting.
 *
 * Pictures of one job are stored and deleted together. So a picture goes only with all of its
 * job's: deleting one of several is refused, and of a list those go whose jobs are wholly in it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/native_private.h"
#include "server/zip_stream.h"

#define PATH_BYTES sizeof(((struct store_picture *)NULL)->path)

struct archive {
    struct hub *hub;
    struct zip_stream *stream;
    size_t count;
    uint64_t bytes;
    struct zip_file files[NATIVE_BULK_MAX];
    char paths[NATIVE_BULK_MAX][PATH_BYTES];
};

/* Below what a ZIP without its 64-bit form can hold. */
#define ARCHIVE_BYTES_MAX ((uint64_t)4000 << 20)

static int open_file(void *context, size_t index)
{
    struct archive *archive = context;

    return hub_open_file(archive->hub, archive->paths[index]);
}

static ssize_t read_archive(void *context, char *to, size_t room)
{
    struct archive *archive = context;

    return zip_stream_read(archive->stream, to, room);
}

static void free_archive(void *context)
{
    struct archive *archive = context;

    zip_stream_destroy(archive->stream);
    free(archive);
}

static bool add_picture(struct archive *archive, const char *id, const char *owner,
                        struct hub_error *problem)
{
    struct zip_file *file = &archive->files[archive->count];
    char job_id[STORE_ID_BYTES], name[NATIVE_FILE_NAME_BYTES];
    struct store_picture picture;
    struct job_view job;

    if (!hub_find_picture(archive->hub, id, owner, &picture, job_id, problem))
        return false;
    native_file_name(&picture, name);
    snprintf(file->name, sizeof file->name, "%s", name);
    if (hub_peek(archive->hub, job_id, owner, &job) ||
        hub_load(archive->hub, job_id, owner, &job, problem)) {
        file->modified_ms = job.finished_ms > 0 ? job.finished_ms : job.created_ms;
        job_view_finish(&job);
    }
    memcpy(archive->paths[archive->count], picture.path, sizeof picture.path);
    archive->bytes += picture.bytes > 0 ? (uint64_t)picture.bytes : 0;
    archive->count++;
    return true;
}

static bool fill_archive(struct archive *archive, struct http_exchange *exchange)
{
    const char *ids[NATIVE_BULK_MAX], *owner;
    struct hub_error problem;
    size_t count;

    if (!native_owner(exchange, &owner) || !native_ids(exchange, ids, &count))
        return false;
    for (size_t i = 0; i < count; i++)
        if (!add_picture(archive, ids[i], owner, &problem)) {
            native_reply_hub_error(exchange, &problem);
            return false;
        }
    if (archive->bytes <= ARCHIVE_BYTES_MAX)
        return true;
    http_reply_error(exchange, 413, "too_large", "ids", 0, "these pictures have more than 4 GB");
    return false;
}

void native_zip_pictures(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    struct archive *archive = calloc(1, sizeof *archive);
    struct error err;

    if (!archive) {
        native_reply(exchange, 503, NULL);
        return;
    }
    archive->hub = native->options.hub;
    if (!fill_archive(archive, exchange)) {
        free_archive(archive);
        return;
    }
    if (!zip_stream_create(&archive->stream, archive->files, archive->count, open_file, archive,
                           &err)) {
        native_reply(exchange, 503, NULL);
        free_archive(archive);
        return;
    }
    http_reply_pieces(exchange, "application/zip", "sd35-pictures.zip", read_archive, free_archive,
                      archive);
}

struct deletion {
    const char *ids[NATIVE_BULK_MAX];
    bool is_done[NATIVE_BULK_MAX];
    size_t count;
};

/* Its place in the list, or `count`. */
static size_t place_of(const struct deletion *deletion, const char *id)
{
    size_t place = 0;

    while (place < deletion->count && strcmp(deletion->ids[place], id) != 0)
        place++;
    return place;
}

static bool has_all(const struct deletion *deletion, const struct job_view *job)
{
    for (int32_t i = 0; i < job->picture_count && i < STORE_PICTURES_MAX; i++)
        if (place_of(deletion, job->pictures[i].id) == deletion->count)
            return false;
    return true;
}

/* Deletes a job all of whose pictures are in the list, and marks these. */
static bool delete_whole(struct hub *hub, struct deletion *deletion, const struct job_view *job,
                         const char *owner, struct hub_error *problem)
{
    if (!has_all(deletion, job)) {
        *problem = (struct hub_error){.status = 409, .code = "has_siblings"};
        snprintf(problem->message, sizeof problem->message,
                 "the picture is one of several of job %s: delete all of them, or the job's record",
                 job->id);
        return false;
    }
    if (!hub_delete(hub, job->id, owner, problem))
        return false;
    for (int32_t i = 0; i < job->picture_count && i < STORE_PICTURES_MAX; i++)
        deletion->is_done[place_of(deletion, job->pictures[i].id)] = true;
    return true;
}

/* The picture at this place of the list, and its job with it. */
static bool delete_at(struct hub *hub, struct deletion *deletion, size_t place, const char *owner,
                      struct hub_error *problem)
{
    char job_id[STORE_ID_BYTES];
    struct store_picture picture;
    struct job_view job;
    bool result;

    if (!hub_find_picture(hub, deletion->ids[place], owner, &picture, job_id, problem) ||
        !hub_load(hub, job_id, owner, &job, problem))
        return false;
    result = delete_whole(hub, deletion, &job, owner, problem);
    job_view_finish(&job);
    return result;
}

void native_delete_picture(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    struct deletion deletion = {.ids = {native_id(exchange)}, .count = 1};
    struct hub_error problem;
    const char *owner;

    if (!deletion.ids[0] || !native_owner(exchange, &owner))
        return;
    if (!delete_at(native->options.hub, &deletion, 0, owner, &problem))
        native_reply_hub_error(exchange, &problem);
    else
        native_reply(exchange, 200, json_pack("{s:s, s:b}", "id", deletion.ids[0], "deleted", 1));
}

void native_delete_pictures(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    struct deletion deletion = {0};
    struct hub_error problem;
    json_t *deleted, *kept;
    const char *owner;

    if (!native_owner(exchange, &owner) || !native_ids(exchange, deletion.ids, &deletion.count))
        return;
    deleted = json_array();
    kept = json_array();
    for (size_t i = 0; i < deletion.count; i++) {
        const char *id = deletion.ids[i];

        if (deletion.is_done[i] || delete_at(native->options.hub, &deletion, i, owner, &problem))
            json_array_append_new(deleted, json_string(id));
        else
            json_array_append_new(kept, json_pack("{s:s, s:o, s:o}", "id", id, "code",
                                                  json_any_string(problem.code), "message",
                                                  json_any_string(problem.message)));
    }
    native_reply(exchange, 200, json_pack("{s:o, s:o}", "deleted", deleted, "kept", kept));
}
