/* Pictures of the native API: their files, what is known of them, stars. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "image/image.h"
#include "server/limits.h"
#include "server/native_private.h"

/* False: answered with an error already. */
static bool find(struct native *native, struct http_exchange *exchange, const char *owner,
                 struct store_picture *picture, char job_id[STORE_ID_BYTES])
{
    const char *id = native_id(exchange);
    struct hub_error problem;

    if (!id)
        return false;
    if (hub_find_picture(native->options.hub, id, owner, picture, job_id, &problem))
        return true;
    native_reply_hub_error(exchange, &problem);
    return false;
}

static void reply_gone(struct http_exchange *exchange)
{
    http_reply_error(exchange, 410, "gone", "", 0, "the picture's file is no longer there");
}

static void reply_file(struct native *native, struct http_exchange *exchange,
                       const struct store_picture *picture, bool is_download)
{
    int fd = hub_open_file(native->options.hub, picture->path);
    char name[NATIVE_FILE_NAME_BYTES], etag[80];

    native_file_name(picture, name);
    snprintf(etag, sizeof etag, "\"%s\"", picture->sha256);
    if (fd < 0)
        reply_gone(exchange);
    else
        http_reply_file(exchange, fd, native_media_type(picture), etag, is_download ? name : NULL);
}

void native_get_picture(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    struct store_picture picture;
    char job_id[STORE_ID_BYTES];
    const char *owner;
    bool is_download;

    if (native_flag(exchange, "download", &is_download) && native_owner(exchange, &owner) &&
        find(native, exchange, owner, &picture, job_id))
        reply_file(native, exchange, &picture, is_download);
}

/* A picture that has no thumbnail stands for itself. */
void native_get_thumbnail(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    struct store_picture picture;
    char job_id[STORE_ID_BYTES], etag[80];
    const char *owner;
    int fd;

    if (!native_owner(exchange, &owner) || !find(native, exchange, owner, &picture, job_id))
        return;
    fd = picture.thumbnail[0] ? hub_open_file(native->options.hub, picture.thumbnail) : -1;
    if (fd < 0) {
        reply_file(native, exchange, &picture, false);
        return;
    }
    snprintf(etag, sizeof etag, "\"%s-t\"", picture.sha256);
    http_reply_file(exchange, fd, image_format_media_type(IMAGE_JPEG), etag, NULL);
}

void native_get_signed_file(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    const char *expires = http_query(exchange, "expires");
    const char *signature = http_query(exchange, "signature");
    struct store_picture picture;
    char job_id[STORE_ID_BYTES];

    if (!expires || !signature ||
        !auth_verify_signed(native->options.auth, http_path(exchange), expires, signature,
                            (int64_t)time(NULL))) {
        http_reply_error(exchange, 403, "bad_link", "", 0,
                         "the link is not one of ours, or its time is over");
        return;
    }
    if (find(native, exchange, NULL, &picture, job_id))
        reply_file(native, exchange, &picture, false);
}

/* The whole of a picture's file, freed by the caller; NULL: not to be had. */
static unsigned char *read_file(struct native *native, const struct store_picture *picture,
                                size_t *size)
{
    int fd = hub_open_file(native->options.hub, picture->path);
    unsigned char *bytes = NULL;
    struct stat status;
    ssize_t got = 0;

    *size = 0;
    if (fd < 0)
        return NULL;
    if (fstat(fd, &status) == 0 && status.st_size > 0 && status.st_size <= IMAGE_FILE_BYTES_MAX)
        bytes = malloc((size_t)status.st_size);
    while (bytes && *size < (size_t)status.st_size) {
        got = read(fd, bytes + *size, (size_t)status.st_size - *size);
        if (got <= 0)
            break;
        *size += (size_t)got;
    }
    close(fd);
    return bytes;
}

/* The text that the file carries for AUTOMATIC1111's readers, or null. */
static void write_infotext(struct json_writer *out, struct native *native,
                           const struct store_picture *picture)
{
    char *infotext = NULL, *json = NULL;
    size_t size;
    unsigned char *bytes = read_file(native, picture, &size);

    if (bytes && !image_metadata_read(&infotext, &json, bytes, size, NULL))
        infotext = json = NULL;
    json_writer_string(out, "infotext", infotext);
    free(infotext);
    free(json);
    free(bytes);
}

void native_get_metadata(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    struct store_picture picture;
    struct json_writer body = {0};
    struct hub_error problem;
    struct job_view job;
    char job_id[STORE_ID_BYTES];
    const char *owner;

    if (!native_owner(exchange, &owner) || !find(native, exchange, owner, &picture, job_id))
        return;
    if (!hub_load(native->options.hub, job_id, owner, &job, &problem)) {
        native_reply_hub_error(exchange, &problem);
        return;
    }
    json_writer_open(&body, NULL, '{');
    json_writer_open(&body, "image", '{');
    native_write_picture(&body, &picture);
    json_writer_close(&body, '}');
    json_writer_string(&body, "job", job_id);
    native_write_time(&body, "created_at", job.created_ms);
    json_writer_string(&body, "sha256", picture.sha256);
    json_writer_value(&body, "parameters", job.parameters);
    json_writer_value(&body, "result", job.result);
    write_infotext(&body, native, &picture);
    json_writer_close(&body, '}');
    native_reply_text(exchange, 200, &body);
    job_view_finish(&job);
}

void native_star_picture(struct http_exchange *exchange, void *context)
{
    struct native *native = context;
    const char *id = native_id(exchange);
    const json_t *body = id ? http_json(exchange) : NULL;
    const json_t *starred = json_object_get(body, "starred");
    struct hub_error problem;
    const char *owner;

    if (!body || !native_owner(exchange, &owner))
        return;
    if (!json_is_boolean(starred) || json_object_size(body) != 1) {
        http_reply_error(exchange, 422, "invalid_type", "starred", 0,
                         "\"starred\" must be true or false, and is all that is known here");
        return;
    }
    if (!hub_star(native->options.hub, id, owner, json_is_true(starred), &problem))
        native_reply_hub_error(exchange, &problem);
    else
        native_reply(exchange, 200,
                     json_pack("{s:s, s:b}", "id", id, "starred", json_is_true(starred)));
}
