/* Decoding: a latent to a picture, one at a time so that memory does not grow with their number. */
#include "pipeline/pipeline_private.h"

bool decode_stage_plan(struct decode_stage *stage, const struct pipeline *pipeline,
                       const struct batch_shape *shape, struct arena *work, struct error *err)
{
    enum dtype f = pipeline->backend->ops.activation_dtype;
    int64_t h = shape->height, w = shape->width, height = h * VAE_FACTOR, width = w * VAE_FACTOR;

    *stage = (struct decode_stage){0};
    return TENSOR_ALLOC(&stage->latent, work, DTYPE_F32, "latent", err, 1, shape->channels, h, w) &&
           TENSOR_ALLOC(&stage->rgb, work, f, "picture", err, 1, height, width, 3) &&
           TENSOR_ALLOC(&stage->bytes, work, DTYPE_U8, "picture", err, 1, height, width, 3) &&
           vae_decode_plan_create(&stage->decode, pipeline->vae_decoder, work, 1, h, w,
                                  pipeline->vae_band_rows, err);
}

void decode_stage_finish(struct decode_stage *stage)
{
    vae_decode_plan_destroy(stage->decode);
}

bool decode_stage_run(struct decode_stage *stage, struct pipeline *pipeline, const float *latent,
                      struct image *image, struct error *err)
{
    const struct backend_ops *ops = &pipeline->backend->ops;
    struct tensor host = stage->latent, pixels = stage->bytes;

    *image = (struct image){0};
    if (!image_init(image, (int)stage->bytes.dim[2], (int)stage->bytes.dim[1], err))
        return false;
    host.data = (void *)(uintptr_t)latent;
    pixels.data = image->pixels;
    ops->upload(pipeline->stream, &stage->latent, &host);
    vae_decode(stage->decode, pipeline->stream, &stage->rgb, &stage->latent);
    ops->rgb_to_bytes(pipeline->stream, &stage->bytes, &stage->rgb);
    ops->download(pipeline->stream, &pixels, &stage->bytes);
    if (ops->stream_finish(pipeline->stream, err))
        return true;
    image_finish(image);
    return error_in(err, "VAE");
}
