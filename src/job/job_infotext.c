#include "job/job_infotext.h"

#include "image/infotext.h"

bool job_infotext(char **out, const struct job_spec *spec, bool has_init_image,
                  const struct worker_facts *facts, uint64_t seed, const char *version,
                  struct error *err)
{
    char layers[JOB_SKIP_LAYERS_MAX * 14];
    struct infotext infotext = {
        .prompt = spec->prompt,
        .negative_prompt = spec->negative_prompt,
        .steps = spec->steps,
        .sampler = "Euler",
        .schedule_type = "Normal", /* their name for diffusers' schedule */
        .guidance_scale = spec->guidance,
        .seed = seed,
        .width = spec->width,
        .height = spec->height,
        .model = facts->model,
        .fp8_weight = infotext_fp8_weight(facts->weight_types),
        .denoising_strength = has_init_image ? spec->strength : -1,
        .rng = "CPU", /* workers draw noise as torch does on a CPU */
        .skip_layers =
            infotext_skip_layers(layers, sizeof layers, spec->skip_layers, spec->skip_layer_count),
        .skip_layer_scale = spec->skip_layer_count > 0 ? spec->skip_layer_scale : -1,
        .flow_shift = spec->flow_shift,
        .t5_tokens = facts->has_t5 ? spec->t5_tokens : -1,
        .version = version,
    };

    return infotext_format(out, &infotext, err);
}
