#include "convert/model_tensors.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "model/mmdit.h"
#include "model/vae.h"
#include "text/clip_encoder.h"
#include "text/t5_encoder.h"

struct listing {
    struct model_tensors *list;
    bool out_of_memory;
    void (*problem)(void *context, const char *problem);
    void *context;
};

static void append(void *context, const struct weights_tensor *tensor)
{
    struct listing *listing = context;
    struct model_tensors *list = listing->list;
    struct model_tensor *kept;

    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 256;
        struct model_tensor *grown = reallocarray(list->tensor, capacity, sizeof *grown);

        if (!grown) {
            listing->out_of_memory = true;
            return;
        }
        list->tensor = grown;
        list->capacity = capacity;
    }
    kept = &list->tensor[list->count++];
    *kept = (struct model_tensor){.use = tensor->use,
                                  .view = tensor->view,
                                  .has_scale = tensor->has_scale,
                                  .file = tensor->file,
                                  .entry = tensor->entry};
    snprintf(kept->name, sizeof kept->name, "%s", tensor->name);
}

static void tell_problem(void *context, const char *problem)
{
    struct listing *listing = context;

    if (listing->problem)
        listing->problem(listing->context, problem);
}

static bool load_vae(struct weights *weights, struct error *err)
{
    struct vae_decoder *decoder = NULL;
    struct vae_encoder *encoder = NULL;
    bool ok = vae_decoder_create(&decoder, weights, &backend_ref_ops, err) &&
              (!weights_has(weights, "encoder.conv_in.weight") ||
               vae_encoder_create(&encoder, weights, &backend_ref_ops, err));

    vae_encoder_destroy(encoder);
    vae_decoder_destroy(decoder);
    return ok;
}

static bool load_network(struct weights *weights, struct error *err)
{
    struct mmdit *mmdit = NULL;
    struct clip_encoder *clip = NULL;
    struct t5_encoder *t5 = NULL;
    bool ok = false;

    switch (weights_component(weights)) {
    case COMPONENT_TRANSFORMER:
        ok = mmdit_create(&mmdit, weights, &backend_ref_ops, err);
        mmdit_destroy(mmdit);
        break;
    case COMPONENT_VAE:
        ok = load_vae(weights, err);
        break;
    case COMPONENT_CLIP_L:
    case COMPONENT_CLIP_G:
        ok = clip_encoder_create(&clip, weights, &backend_ref_ops, err);
        clip_encoder_destroy(clip);
        break;
    case COMPONENT_T5:
        ok = t5_encoder_create(&t5, weights, &backend_ref_ops, err);
        t5_encoder_destroy(t5);
        break;
    case COMPONENT_COUNT:
        break;
    }
    return ok;
}

bool model_tensors_list(struct model_tensors *list, struct weights *weights,
                        void (*problem)(void *context, const char *problem), void *context,
                        struct error *err)
{
    struct listing listing = {.list = list, .problem = problem, .context = context};
    const struct weights_observer observer = {
        .tensor = append, .problem = tell_problem, .context = &listing};
    bool ok;

    *list = (struct model_tensors){0};
    weights_observe(weights, &observer);
    ok = load_network(weights, err);
    weights_observe(weights, NULL);
    if (ok && listing.out_of_memory)
        ok = error_set(err, ERROR_NO_MEMORY, "%s", component_name(weights_component(weights)));
    if (!ok)
        model_tensors_finish(list);
    return ok;
}

void model_tensors_finish(struct model_tensors *list)
{
    free(list->tensor);
    *list = (struct model_tensors){0};
}

const struct model_tensor *model_tensors_find(const struct model_tensors *list, const char *format,
                                              ...)
{
    char name[sizeof list->tensor->name];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->tensor[i].name, name) == 0)
            return &list->tensor[i];
    return NULL;
}
