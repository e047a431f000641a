#include "image/infotext.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Readers take what is unquoted up to the next comma, without the spaces around it, and what
 * begins with a quotation mark as JSON. */
static bool needs_quotes(const char *value)
{
    size_t length = strlen(value);

    for (const unsigned char *at = (const unsigned char *)value; *at; at++)
        if (*at == ',' || *at == ':' || *at < ' ')
            return true;
    return value[0] == '"' || value[0] == ' ' || value[length - 1] == ' ';
}

static void write_json_string(FILE *out, const char *value)
{
    fputc('"', out);
    for (const unsigned char *at = (const unsigned char *)value; *at; at++) {
        if (*at == '\n')
            fputs("\\n", out);
        else if (*at < ' ')
            fprintf(out, "\\u%04x", *at);
        else if (*at == '"' || *at == '\\')
            fprintf(out, "\\%c", *at);
        else
            fputc(*at, out);
    }
    fputc('"', out);
}

/* The parameters line under construction. */
struct line {
    FILE *out;
    bool has_pairs;
};

static void write_key(struct line *line, const char *key)
{
    fprintf(line->out, "%s%s: ", line->has_pairs ? ", " : "", key);
    line->has_pairs = true;
}

/* Readers stumble over an empty value, so it is left out as well. */
static void write_text(struct line *line, const char *key, const char *value)
{
    if (!value || !*value)
        return;
    write_key(line, key);
    if (needs_quotes(value))
        write_json_string(line->out, value);
    else
        fputs(value, line->out);
}

static void write_integer(struct line *line, const char *key, int value)
{
    if (value < 0)
        return;
    write_key(line, key);
    fprintf(line->out, "%d", value);
}

#define DECIMALS_MAX 30

/* The fewest decimals, at least one, that read back as the same number: 7.0, 4.5, 0.1. Infinity and
 * NaN, which no request can hold, count as not set. */
static void write_number(struct line *line, const char *key, double value)
{
    char text[400]; /* the largest double has 309 digits */

    if (!(value >= 0) || isinf(value))
        return;
    for (int decimals = 1; decimals <= DECIMALS_MAX; decimals++) {
        snprintf(text, sizeof text, "%.*f", decimals, value);
        if (strtod(text, NULL) == value)
            break;
    }
    write_key(line, key);
    fputs(text, line->out);
}

static void write_size(struct line *line, int width, int height)
{
    if (width < 0 || height < 0)
        return;
    write_key(line, "Size");
    fprintf(line->out, "%dx%d", width, height);
}

static void write_parameters(FILE *out, const struct infotext *infotext)
{
    struct line line = {.out = out};

    write_integer(&line, "Steps", infotext->steps);
    write_text(&line, "Sampler", infotext->sampler);
    write_text(&line, "Schedule type", infotext->schedule_type);
    write_number(&line, "CFG scale", infotext->guidance_scale);
    write_key(&line, "Seed");
    fprintf(out, "%" PRIu64, infotext->seed);
    write_size(&line, infotext->width, infotext->height);
    write_text(&line, "Model hash", infotext->model_hash);
    write_text(&line, "Model", infotext->model);
    write_text(&line, "FP8 weight", infotext->fp8_weight);
    write_number(&line, "Denoising strength", infotext->denoising_strength);
    write_text(&line, "RNG", infotext->rng);
    write_text(&line, "Skip layers", infotext->skip_layers);
    write_number(&line, "SLG scale", infotext->skip_layer_scale);
    write_number(&line, "Shift", infotext->flow_shift);
    write_integer(&line, "T5 tokens", infotext->t5_tokens);
    write_text(&line, "Version", infotext->version);
}

bool infotext_format(char **out, const struct infotext *infotext, struct error *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);
    bool failed;

    if (!stream)
        return error_set(err, ERROR_NO_MEMORY, "infotext");
    if (infotext->prompt && *infotext->prompt)
        fprintf(stream, "%s\n", infotext->prompt);
    if (infotext->negative_prompt && *infotext->negative_prompt)
        fprintf(stream, "Negative prompt: %s\n", infotext->negative_prompt);
    write_parameters(stream, infotext);
    failed = ferror(stream);
    if (fclose(stream) != 0 || failed) {
        free(text);
        return error_set(err, ERROR_NO_MEMORY, "infotext");
    }
    *out = text;
    return true;
}

/* --- A picture of ours --- */

/* NULL: none is FP8. */
static const char *fp8_weight(const char *weight_types)
{
    if (strstr(weight_types, "f8_e4m3"))
        return "fp8_e4m3fn";
    return strstr(weight_types, "f8_e5m2") ? "fp8_e5m2" : NULL;
}

/* "7, 8, 9" in `text`; NULL: none. */
static const char *layers_text(char *text, size_t size, const int32_t *layers, int count)
{
    size_t used = 0;

    for (int i = 0; i < count && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%" PRId32, i ? ", " : "", layers[i]);
    return count > 0 ? text : NULL;
}

bool infotext_of_drawing(char **out, const struct infotext_drawing *drawing, struct error *err)
{
    char layers[INFOTEXT_SKIP_LAYERS_MAX * 14];
    bool skips = drawing->skip_layer_count > 0;
    struct infotext infotext = {
        .prompt = drawing->prompt,
        .negative_prompt = drawing->negative_prompt,
        .steps = drawing->steps,
        .sampler = "Euler",
        .schedule_type = "Normal", /* their name for diffusers' schedule */
        .guidance_scale = drawing->guidance_scale,
        .seed = drawing->seed,
        .width = drawing->width,
        .height = drawing->height,
        .model = drawing->model,
        .fp8_weight = fp8_weight(drawing->weight_types),
        .denoising_strength = drawing->has_init_image ? drawing->strength : -1,
        .rng = drawing->has_cuda_noise ? "NV" : "CPU",
        .skip_layers =
            layers_text(layers, sizeof layers, drawing->skip_layers, drawing->skip_layer_count),
        .skip_layer_scale = skips ? drawing->skip_layer_scale : -1,
        .flow_shift = drawing->flow_shift,
        .t5_tokens = drawing->has_t5 ? drawing->t5_tokens : -1,
        .version = drawing->version,
    };

    return infotext_format(out, &infotext, err);
}
