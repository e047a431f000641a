/* Weights on the device: all of them at once, or those of one phase after the other. Hosts read
 * them where they are, and only give pages back. */
#include "pipeline/pipeline_private.h"

static const enum component components_of[][3] = {
    [WEIGHTS_NONE] = {COMPONENT_COUNT, COMPONENT_COUNT, COMPONENT_COUNT},
    [WEIGHTS_TEXT] = {COMPONENT_CLIP_L, COMPONENT_CLIP_G, COMPONENT_T5},
    [WEIGHTS_IMAGE] = {COMPONENT_VAE, COMPONENT_COUNT, COMPONENT_COUNT},
    [WEIGHTS_DENOISE] = {COMPONENT_TRANSFORMER, COMPONENT_COUNT, COMPONENT_COUNT},
    [WEIGHTS_DECODE] = {COMPONENT_VAE, COMPONENT_COUNT, COMPONENT_COUNT},
};

static bool list_weights(const struct pipeline *pipeline, enum component component, bool with_init,
                         struct weight_list *list, struct error *err)
{
    switch (component) {
    case COMPONENT_TRANSFORMER:
        return mmdit_list_weights(pipeline->mmdit, list, err);
    case COMPONENT_VAE:
        return vae_decoder_list_weights(pipeline->vae_decoder, list, err) &&
               (!with_init || !pipeline->vae_encoder ||
                vae_encoder_list_weights(pipeline->vae_encoder, list, err));
    case COMPONENT_CLIP_L:
        return clip_encoder_list_weights(pipeline->clip[CLIP_L], list, err);
    case COMPONENT_CLIP_G:
        return clip_encoder_list_weights(pipeline->clip[CLIP_G], list, err);
    case COMPONENT_T5:
        return !pipeline->t5 || t5_encoder_list_weights(pipeline->t5, list, err);
    case COMPONENT_COUNT:
        break;
    }
    return true;
}

static bool streams(const struct pipeline *pipeline, const struct weight_list *list)
{
    return pipeline->memory == MEMORY_STREAMED && pipeline->backend->ops.weights_stream &&
           list->group_count > 0;
}

struct weight_bytes weights_component_bytes(const struct pipeline *pipeline,
                                            enum component component, bool with_init)
{
    const struct backend_ops *ops = &pipeline->backend->ops;
    const struct weights *weights = pipeline->files->component[component];
    struct weight_bytes bytes = {0};
    struct weight_list list = {0};
    size_t first = 0;

    if (!weights || (component == COMPONENT_T5 && !pipeline->t5))
        return bytes;
    if (!ops->weights_bytes) {
        bytes.held = weights_loaded_bytes(weights);
        return bytes;
    }
    if (list_weights(pipeline, component, with_init, &list, NULL)) {
        if (streams(pipeline, &list)) {
            ops->weights_stream_bytes(list.requests, list.group_end, list.group_count,
                                      &bytes.streamed, &bytes.pinned);
            first = weight_list_grouped(&list);
        }
        bytes.held = ops->weights_bytes(list.requests + first, list.count - first);
    }
    weight_list_finish(&list);
    return bytes;
}

/* Tells the model; what is no model that streams does not come here. */
static void set_streamed(struct pipeline *pipeline, enum component component,
                         struct streamed_weights *streamed)
{
    pipeline->streamed[component] = streamed;
    if (component == COMPONENT_TRANSFORMER)
        mmdit_stream(pipeline->mmdit, streamed);
    else if (pipeline->t5)
        t5_encoder_stream(pipeline->t5, streamed);
}

static bool stream_groups(struct pipeline *pipeline, enum component component,
                          const struct weight_list *list, struct error *err)
{
    struct streamed_weights *streamed;

    if (pipeline->streamed[component])
        return true;
    if (!pipeline->backend->ops.weights_stream(pipeline->stream, &streamed, list->requests,
                                               list->group_end, list->group_count, err))
        return false;
    set_streamed(pipeline, component, streamed);
    weights_release_pages(pipeline->files->component[component]);
    return true;
}

static bool hold(struct pipeline *pipeline, enum component component, bool with_init,
                 struct error *err)
{
    const struct backend_ops *ops = &pipeline->backend->ops;
    struct held_weights **held = &pipeline->held[component];
    struct weight_list list = {0};
    size_t first = 0;
    bool ok;

    if (!ops->weights_hold || *held)
        return true;
    ok = list_weights(pipeline, component, with_init, &list, err);
    if (ok && streams(pipeline, &list)) {
        ok = stream_groups(pipeline, component, &list, err);
        first = weight_list_grouped(&list);
    }
    ok = ok &&
         ops->weights_hold(pipeline->stream, held, list.requests + first, list.count - first, err);
    weight_list_finish(&list);
    if (ok)
        pipeline->on_device[component] = weights_component_bytes(pipeline, component, with_init);
    return ok || error_in(err, "%s", component_name(component));
}

static void drop(struct pipeline *pipeline, enum component component)
{
    struct held_weights **held = &pipeline->held[component];

    if (*held)
        pipeline->backend->ops.weights_drop(pipeline->stream, *held);
    *held = NULL;
    pipeline->on_device[component].held = 0;
}

static void release(struct pipeline *pipeline, enum weights_phase phase)
{
    if (pipeline->batch)
        batch_forget_recordings(pipeline->batch);
    for (int i = 0; i < 3 && components_of[phase][i] != COMPONENT_COUNT; i++) {
        enum component component = components_of[phase][i];

        drop(pipeline, component);
        if (pipeline->files->component[component])
            weights_release_pages(pipeline->files->component[component]);
    }
}

bool weights_enter(struct pipeline *pipeline, enum weights_phase phase, struct error *err)
{
    bool keeps = pipeline_keeps_weights(pipeline);
    /* What stays is loaded once, for all uses. */
    bool with_init = keeps || phase == WEIGHTS_IMAGE;

    if (!keeps && pipeline->phase != phase)
        release(pipeline, pipeline->phase);
    pipeline->phase = phase;
    for (int i = 0; i < 3 && components_of[phase][i] != COMPONENT_COUNT; i++)
        if (!hold(pipeline, components_of[phase][i], with_init, err))
            return false;
    return true;
}

void weights_leave(struct pipeline *pipeline)
{
    if (pipeline_keeps_weights(pipeline))
        return;
    release(pipeline, pipeline->phase);
    pipeline->phase = WEIGHTS_NONE;
}

size_t weights_device_bytes(const struct pipeline *pipeline)
{
    size_t sum = 0;

    for (int i = 0; i < COMPONENT_COUNT; i++)
        sum += pipeline->on_device[i].held + pipeline->on_device[i].streamed;
    return sum;
}

void weights_drop(struct pipeline *pipeline)
{
    for (int i = 0; i < COMPONENT_COUNT; i++) {
        struct streamed_weights *streamed = pipeline->streamed[i];

        drop(pipeline, (enum component)i);
        if (streamed) {
            set_streamed(pipeline, (enum component)i, NULL);
            pipeline->backend->ops.weights_unstream(pipeline->stream, streamed);
        }
        pipeline->on_device[i].streamed = 0;
    }
    pipeline->phase = WEIGHTS_NONE;
}
