/* Decoding: latents to pictures, one after the other so that memory does not grow with their
 * number. */
#include <math.h>

#include "pipeline/pipeline_private.h"

bool decode_stage_plan(struct decode_stage *stage, struct run *run, struct arena *work,
                       struct error *err)
{
    const struct pipeline_request *request = run->request;
    enum dtype f = run->ops->activation_dtype;

    *stage = (struct decode_stage){0};
    return TENSOR_ALLOC(&stage->rgb, work, f, "picture", err, 1, request->height, request->width,
                        3) &&
           TENSOR_ALLOC(&stage->bytes, work, DTYPE_U8, "picture", err, 1, request->height,
                        request->width, 3) &&
           vae_decode_plan_create(&stage->decode, run->pipeline->vae_decoder, work, 1, run->height,
                                  run->width, run->pipeline->vae_band_rows, err);
}

void decode_stage_finish(struct decode_stage *stage)
{
    vae_decode_plan_destroy(stage->decode);
}

bool decode_stage_run(struct decode_stage *stage, struct run *run, struct image *images,
                      struct error *err)
{
    const struct pipeline_request *request = run->request;

    if (request->as_diffusers && run->has_mask)
        vae_decode_plan_forget_shift(stage->decode);
    run_begin_phase(run, PHASE_DECODE, (int)run->images);
    for (int64_t i = 0; i < run->images; i++) {
        struct tensor latent = tensor_slice(&run->latents, 0, i, 1);
        struct tensor host;

        if (!image_init(&images[i], request->width, request->height, err))
            return false;
        host = TENSOR_OF(images[i].pixels, DTYPE_U8, 1, request->height, request->width, 3);
        vae_decode(stage->decode, run->stream, &stage->rgb, &latent);
        run->ops->rgb_to_bytes(run->stream, &stage->bytes, &stage->rgb);
        run->ops->download(run->stream, &host, &stage->bytes);
        if (!run->ops->stream_finish(run->stream, err))
            return error_in(err, "VAE");
        run_report(run, PHASE_DECODE, (int)i + 1, (int)run->images);
    }
    return true;
}
