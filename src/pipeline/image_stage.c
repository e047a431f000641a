/* Image to image: the init image through the VAE's encoder. */
#include "pipeline/pipeline_private.h"

bool image_stage_plan(struct image_stage *stage, const struct pipeline *pipeline,
                      const struct batch_shape *shape, struct arena *work, struct error *err)
{
    enum dtype f = pipeline->backend->ops.activation_dtype;
    int64_t height = shape->height * VAE_FACTOR, width = shape->width * VAE_FACTOR;

    *stage = (struct image_stage){0};
    if (!shape->with_init)
        return true;
    return TENSOR_ALLOC(&stage->bytes, work, DTYPE_U8, "init image", err, 1, height, width, 3) &&
           TENSOR_ALLOC(&stage->rgb, work, f, "init image", err, 1, height, width, 3) &&
           TENSOR_ALLOC(&stage->pixels, work, DTYPE_F32, "init image", err, 1, height, width, 3) &&
           TENSOR_ALLOC(&stage->moments, work, DTYPE_F32, "init image", err, 1, 2 * shape->channels,
                        shape->height, shape->width) &&
           vae_encode_plan_create(&stage->encode, pipeline->vae_encoder, work, 1, shape->height,
                                  shape->width, pipeline->vae_band_rows, err);
}

void image_stage_finish(struct image_stage *stage)
{
    vae_encode_plan_destroy(stage->encode);
}

/* Copies the init image to the device, resized to the request's size. */
static bool upload_init(struct image_stage *stage, struct pipeline *pipeline,
                        const struct pipeline_request *request, struct error *err)
{
    const struct backend_ops *ops = &pipeline->backend->ops;
    const struct image *image = request->init_image;
    struct image resized = {0};
    struct tensor host;

    if (request->init_pixels) {
        host = TENSOR_OF((void *)(uintptr_t)request->init_pixels, DTYPE_F32, 1, request->height,
                         request->width, 3);
        ops->upload(pipeline->stream, &stage->pixels, &host);
        ops->copy(pipeline->stream, &stage->rgb, &stage->pixels); /* a device's f has 16 bits */
        return true;
    }
    if (image->width != request->width || image->height != request->height) {
        if (!image_resize(&resized, image, request->width, request->height, err))
            return error_in(err, "init image");
        image = &resized;
    }
    host = TENSOR_OF(image->pixels, DTYPE_U8, 1, request->height, request->width, 3);
    ops->upload(pipeline->stream, &stage->bytes, &host);
    ops->bytes_to_rgb(pipeline->stream, &stage->rgb, &stage->bytes);
    image_finish(&resized);
    return true;
}

bool image_stage_run(struct image_stage *stage, struct pipeline *pipeline,
                     const struct pipeline_request *request, float *moments, struct error *err)
{
    const struct backend_ops *ops = &pipeline->backend->ops;
    struct tensor host = stage->moments;

    if (!upload_init(stage, pipeline, request, err))
        return false;
    vae_encode(stage->encode, pipeline->stream, &stage->moments, &stage->rgb);
    host.data = moments;
    ops->download(pipeline->stream, &host, &stage->moments);
    return ops->stream_finish(pipeline->stream, err) || error_in(err, "init image");
}
