/* Finished pictures and previews: encoded, and handed over in sealed memory. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/version.h"
#include "job/job_infotext.h"
#include "pipeline/request_record.h"
#include "worker/worker_private.h"

#define THUMBNAIL_SIDE 256
#define THUMBNAIL_QUALITY 80
#define PREVIEW_QUALITY 80
#define PREVIEW_SCALE 4 /* pixels a cell of the latent */

/* --- Memory that both processes see --- */

static bool write_all(int fd, const unsigned char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, bytes, size);

        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        bytes += written;
        size -= (size_t)written;
    }
    return true;
}

/* Holds the one, then the other, and never changes again. -1 with an error. */
static int share(const unsigned char *first, size_t first_size, const unsigned char *second,
                 size_t second_size, struct error *err)
{
    int fd = memfd_create("sd35-picture", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd >= 0 && write_all(fd, first, first_size) && write_all(fd, second, second_size) &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0)
        return fd;
    error_set_errno(err, errno, "sharing a picture of %zu bytes", first_size + second_size);
    if (fd >= 0)
        close(fd);
    return -1;
}

/* --- Finished pictures --- */

static char *record_text(const struct request_record *record, uint64_t seed)
{
    json_t *json = request_record_json(record, seed);
    char *text = json ? json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;

    json_decref(json);
    return text;
}

static bool encode(unsigned char **out, size_t *size, const struct worker *worker,
                   const struct worker_job *job, uint64_t seed, const struct image *picture,
                   struct error *err)
{
    const struct request_record record = {
        .request = &job->request, .info = &worker->info, .model = worker->model_name};
    const struct job_spec *spec = &job->message.spec;
    char *infotext = NULL, *json = record_text(&record, seed);
    bool ok = json || error_set(err, ERROR_NO_MEMORY, "record of the request");

    ok = ok &&
         job_infotext(&infotext, spec, spec->init_image.bytes, &worker->facts, seed,
                      PROGRAM_NAME_AND_VERSION, err) &&
         image_encode(out, size, picture, spec->format, spec->quality,
                      &(struct image_metadata){.infotext = infotext, .json = json}, err);
    free(infotext);
    free(json);
    return ok;
}

static int scaled(int side, int longest)
{
    int small = (int)((int64_t)side * THUMBNAIL_SIDE / longest);

    return small > 0 ? small : 1;
}

static bool encode_thumbnail(unsigned char **out, size_t *size, const struct image *picture,
                             struct error *err)
{
    int longest = picture->width > picture->height ? picture->width : picture->height;
    struct image small = {0};
    bool ok;

    if (longest <= THUMBNAIL_SIDE)
        return image_encode(out, size, picture, IMAGE_JPEG, THUMBNAIL_QUALITY, NULL, err);
    ok = image_resize(&small, picture, scaled(picture->width, longest),
                      scaled(picture->height, longest), err) &&
         image_encode(out, size, &small, IMAGE_JPEG, THUMBNAIL_QUALITY, NULL, err);
    image_finish(&small);
    return ok;
}

bool worker_send_picture(struct worker *worker, const struct worker_job *job, int image,
                         const struct image *picture, struct error *err)
{
    struct picture_message message = {
        .ticket = job->message.ticket,
        .image = image,
        .seed = job->message.spec.seed + (uint64_t)image,
        .width = picture->width,
        .height = picture->height,
        .format = job->message.spec.format,
    };
    unsigned char *file = NULL, *thumbnail = NULL;
    size_t file_size = 0, thumbnail_size = 0;
    struct record_writer record = {0};
    int fd = -1;

    if (encode(&file, &file_size, worker, job, message.seed, picture, err) &&
        encode_thumbnail(&thumbnail, &thumbnail_size, picture, err))
        fd = share(file, file_size, thumbnail, thumbnail_size, err);
    free(file);
    free(thumbnail);
    if (fd < 0)
        return error_in(err, "picture %d", image + 1);
    message.file_bytes = file_size;
    message.thumbnail_bytes = thumbnail_size;
    picture_message_write(&record, &message);
    worker_send(worker, MESSAGE_PICTURE, &record, fd);
    return true;
}

/* --- Previews --- */

void worker_send_preview(struct worker *worker, const struct worker_job *job, int image, int step,
                         const struct image *small)
{
    struct preview_message message = {.ticket = job->message.ticket,
                                      .image = image,
                                      .step = step,
                                      .width = small->width * PREVIEW_SCALE,
                                      .height = small->height * PREVIEW_SCALE};
    struct image large = {0};
    struct record_writer record = {0};
    unsigned char *file = NULL;
    size_t size;
    int fd = -1;

    if (image_resize(&large, small, message.width, message.height, NULL) &&
        image_encode(&file, &size, &large, IMAGE_JPEG, PREVIEW_QUALITY, NULL, NULL))
        fd = share(file, size, NULL, 0, NULL);
    image_finish(&large);
    free(file);
    if (fd < 0)
        return;
    preview_message_write(&record, &message);
    worker_send(worker, MESSAGE_PREVIEW, &record, fd);
}

/* --- Enlarged pictures --- */

void worker_send_upscaled(struct worker *worker, uint64_t ticket, const unsigned char *bytes,
                          size_t size, const char *why)
{
    struct upscaled_message message = {.ticket = ticket};
    struct record_writer record = {0};
    int fd = bytes ? share(bytes, size, NULL, 0, NULL) : -1;

    if (fd >= 0)
        message.file_bytes = size;
    else
        worker_fit_text(message.message, sizeof message.message, bytes ? "" : why);
    upscaled_message_write(&record, &message);
    worker_send(worker, MESSAGE_UPSCALED, &record, fd);
}
