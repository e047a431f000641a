#include "job/job_infotext.h"

#include <stdio.h>
#include <string.h>

#include "image/infotext.h"

#define SKIP_LAYERS_BYTES (JOB_SKIP_LAYERS_MAX * 14)

/* "7, 8, 9"; NULL: none are skipped. */
static const char *skip_layers_text(char text[SKIP_LAYERS_BYTES], const struct job_spec *spec)
{
    int used = 0;

    for (int i = 0; i < spec->skip_layer_count && i < JOB_SKIP_LAYERS_MAX; i++)
        used += snprintf(text + used, SKIP_LAYERS_BYTES - (size_t)used, "%s%d", i ? ", " : "",
                         (int)spec->skip_layers[i]);
    return spec->skip_layer_count > 0 ? text : NULL;
}

static const char *fp8_weight(const char *weight_types)
{
    if (strstr(weight_types, "f8_e4m3"))
        return "fp8_e4m3fn";
    return strstr(weight_types, "f8_e5m2") ? "fp8_e5m2" : NULL;
}

bool job_infotext(char **out, const struct job_spec *spec, bool has_init_image,
                  const struct worker_facts *facts, uint64_t seed, const char *version,
                  struct error *err)
{
    char layers[SKIP_LAYERS_BYTES];
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
        .fp8_weight = fp8_weight(facts->weight_types),
        .denoising_strength = has_init_image ? spec->strength : -1,
        .rng = "CPU", /* workers draw noise as torch does on a CPU */
        .skip_layers = skip_layers_text(layers, spec),
        .skip_layer_scale = spec->skip_layer_count > 0 ? spec->skip_layer_scale : -1,
        .flow_shift = spec->flow_shift,
        .t5_tokens = facts->has_t5 ? spec->t5_tokens : -1,
        .version = version,
    };

    return infotext_format(out, &infotext, err);
}
