#include "job/job_infotext.h"

#include "image/infotext.h"

bool job_infotext(char **out, const struct job_spec *spec, bool has_init_image,
                  const struct worker_facts *facts, uint64_t seed, const char *version,
                  struct error *err)
{
    const struct infotext_drawing drawing = {
        .prompt = spec->prompt,
        .negative_prompt = spec->negative_prompt,
        .steps = spec->steps,
        .width = spec->width,
        .height = spec->height,
        .guidance_scale = spec->guidance,
        .flow_shift = spec->flow_shift,
        .seed = seed,
        .model = facts->model,
        .weight_types = facts->weight_types,
        .has_init_image = has_init_image,
        .has_t5 = facts->has_t5,
        .strength = spec->strength,
        .t5_tokens = spec->t5_tokens,
        .skip_layers = spec->skip_layers,
        .skip_layer_count = spec->skip_layer_count,
        .skip_layer_scale = spec->skip_layer_scale,
        .version = version,
    };

    return infotext_of_drawing(out, &drawing, err);
}
