/* Pictures to enlarge: files from outside, which only a worker decodes. */
#include <stdlib.h>

#include "worker/worker_private.h"

static bool decode(struct image *out, const struct job_image *file, struct error *err)
{
    const struct image_limits limits = {.bytes_max = JOB_IMAGE_BYTES_MAX,
                                        .pixels_max = JOB_IMAGE_PIXELS_MAX};

    return image_decode(out, file->bytes, file->size, &limits, "image", err);
}

/* *image becomes the larger one. */
static bool enlarge(struct image *image, const struct upscale_message *message, struct error *err)
{
    struct image larger = {0}, cut = {0};
    bool ok = message->by_nearest
                  ? image_resize_nearest(&larger, image, message->width, message->height, err)
                  : image_resize(&larger, image, message->width, message->height, err);

    image_finish(image);
    ok = ok && image_crop(&cut, &larger, message->crop_width, message->crop_height, err);
    image_finish(&larger);
    *image = cut;
    return ok;
}

/* The file keeps its parameters; texts that are damaged are left out. */
static bool encode(unsigned char **out, size_t *size, const struct image *image,
                   const struct job_image *file, struct error *err)
{
    char *infotext = NULL, *json = NULL;
    bool ok;

    if (!image_metadata_read(&infotext, &json, file->bytes, file->size, NULL))
        infotext = json = NULL;
    ok = image_encode(out, size, image, IMAGE_PNG, 100,
                      &(struct image_metadata){.infotext = infotext, .json = json}, err);
    free(infotext);
    free(json);
    return ok;
}

void worker_answer_upscale(struct worker *worker, const struct upscale_message *message)
{
    struct image image = {0};
    unsigned char *bytes = NULL;
    size_t size = 0;
    struct error err = {0};

    worker_beat(worker, HEARTBEAT_DECODE);
    if (!decode(&image, &message->file, &err) || !enlarge(&image, message, &err) ||
        !encode(&bytes, &size, &image, &message->file, &err))
        bytes = NULL;
    image_finish(&image);
    worker_beat(worker, HEARTBEAT_DECODE);
    worker_send_upscaled(worker, message->ticket, bytes, size,
                         err.code == ERROR_NO_MEMORY ? "" : err.message);
    free(bytes);
}
