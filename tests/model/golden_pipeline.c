/* Whole pipelines: latents and pictures. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "golden_check.h"

static double number(const json_t *object, const char *key, double fallback)
{
    const json_t *value = json_object_get(object, key);

    return json_is_number(value) ? json_number_value(value) : fallback;
}

static void read_request(struct pipeline_request *request, const json_t *arguments)
{
    const json_t *skips = json_object_get(arguments, "skip_guidance_layers");

    request->prompt = json_string_value(json_object_get(arguments, "prompt"));
    request->negative_prompt = json_string_value(json_object_get(arguments, "negative_prompt"));
    request->width = (int)number(arguments, "width", request->width);
    request->height = (int)number(arguments, "height", request->height);
    request->steps = (int)number(arguments, "num_inference_steps", 28);
    request->guidance_scale = number(arguments, "guidance_scale", 7.0);
    request->image_count = (int)number(arguments, "num_images_per_prompt", 1);
    request->seed = (uint64_t)number(arguments, "seed", 0);
    request->t5_tokens = (int)number(arguments, "max_sequence_length", 256);
    request->skip_layer_count = (int)json_array_size(skips);
    for (int i = 0; i < request->skip_layer_count; i++)
        request->skip_layers[i] = (int)json_integer_value(json_array_get(skips, (size_t)i));
    request->skip_layer_scale = number(arguments, "skip_layer_guidance_scale", 2.8);
    request->skip_layer_start = number(arguments, "skip_layer_guidance_start", 0.01);
    request->skip_layer_stop = number(arguments, "skip_layer_guidance_stop", 0.2);
    request->strength = number(arguments, "strength", 0.6);
}

/* [1, 3, H, W] in [0, 1] -> [H, W, 3] in [-1, 1] */
static float *init_pixels(const struct tensor *image)
{
    int64_t pixels = image->dim[2] * image->dim[3];
    float *out = malloc(tensor_bytes(image));
    const float *in = image->data;

    if (!out)
        exit(4);
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t c = 0; c < 3; c++)
            out[i * 3 + c] = 2.0f * in[c * pixels + i] - 1.0f;
    return out;
}

static void mask_image(struct image *out, const struct tensor *mask)
{
    struct error err;

    if (!image_init(out, (int)mask->dim[3], (int)mask->dim[2], &err))
        exit(4);
    for (int64_t i = 0; i < tensor_count(mask); i++)
        memset(out->pixels + i * 3, ((const float *)mask->data)[i] >= 0.5f ? 255 : 0, 3);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The difference in levels of 255 that 99.9 % of all values stay within. The reference's picture is
 * not rounded to levels; ours is, which half a level allows for. */
static double picture_difference(const struct pipeline_result *result, const struct tensor *want)
{
    size_t count = (size_t)tensor_count(want), pixels = (size_t)(want->dim[2] * want->dim[3]);
    double *differences = malloc(count * sizeof *differences), found;

    if (!differences)
        exit(4);
    for (size_t i = 0; i < count; i++) {
        const struct image *image = &result->images[i / (3 * pixels)];
        size_t c = i / pixels % 3, pixel = i % pixels;
        double level = 255.0 * (double)((const float *)want->data)[i];

        differences[i] = fabs((double)image->pixels[pixel * 3 + c] - level);
    }
    qsort(differences, count, sizeof *differences, ascending);
    found = differences[(size_t)(0.999 * (double)(count - 1))];
    free(differences);
    return found;
}

/* One generator for the whole batch, as the reference was given; ours would seed each picture. */
static float *batch_noise(const struct pipeline_request *request, const struct tensor *latent)
{
    struct mt19937 generator;
    float *noise = malloc(tensor_bytes(latent));

    if (!noise)
        exit(4);
    mt19937_seed(&generator, request->seed);
    torch_cpu_normal(noise, (size_t)tensor_count(latent), &generator);
    return noise;
}

static void check_pipeline(struct check *check, const char *name, const json_t *arguments)
{
    struct tensor want = check_expected(check, "%s.latent", name);
    struct tensor picture = check_expected(check, "%s.image", name);
    struct tensor got = want;
    struct pipeline_request request;
    struct pipeline_result result;
    struct image mask = {0};
    float *init = NULL, *noise = NULL;
    struct error err;

    if (!tensor_exists(&want) || !tensor_exists(&picture))
        return;
    pipeline_request_defaults(check->pipeline, &request);
    read_request(&request, arguments);
    if (strstr(name, "img2img") || strstr(name, "inpaint")) {
        struct tensor image = check_expected(check, "pipeline.init_image");

        init = init_pixels(&image);
        request.init_pixels = init;
        request.as_diffusers = true;
    }
    if (strstr(name, "inpaint")) {
        struct tensor values = check_expected(check, "pipeline.mask");

        mask_image(&mask, &values);
        request.mask = &mask;
    }
    if (request.image_count > 1)
        request.initial_noise = noise = batch_noise(&request, &want);

    if (pipeline_run(check->pipeline, &request, NULL, &result, &err)) {
        got.data = result.latents;
        check_report(check, relative_error(&got, &want), check->limits.pipeline, "%s.latent", name);
        check_report(check, picture_difference(&result, &picture), check->limits.picture,
                     "%s.image, levels of 255", name);
        pipeline_result_finish(&result);
    } else {
        check_broken(check, &err, "%s", name);
    }
    image_finish(&mask);
    free(init);
    free(noise);
}

void check_pipelines(struct check *check)
{
    const char *name;
    json_t *arguments;

    json_object_foreach(check->cases, name,
                        arguments) if (strncmp(name, "pipeline.", strlen("pipeline.")) == 0)
        check_pipeline(check, name, arguments);
}
