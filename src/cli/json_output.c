#include "cli/json_output.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/version.h"
#include "cli/report.h"

/* Digits that are enough for most numbers, and for all. */
#define DIGITS_SHORT 15
#define DIGITS_EXACT 17

static char *format_digits(const json_t *json, unsigned digits)
{
    return json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(digits));
}

bool json_output_format(char **out, json_t *json, struct error *err)
{
    char *text = json ? format_digits(json, DIGITS_SHORT) : NULL;
    json_t *again = text ? json_loads(text, 0, NULL) : NULL;

    if (text && !json_equal(json, again)) {
        free(text);
        text = format_digits(json, DIGITS_EXACT);
    }
    json_decref(again);
    json_decref(json);
    if (!text)
        return error_set(err, ERROR_NO_MEMORY, "JSON");
    *out = text;
    return true;
}

static bool print(json_t *json, struct error *err)
{
    char *text;

    if (!json_output_format(&text, json, err))
        return false;
    puts(text); /* main looks at ferror(stdout) */
    free(text);
    return true;
}

/* Any bytes: names of files need not be UTF-8. NULL when memory is short. */
static json_t *text_json(const char *text)
{
    json_t *json = json_string(text);
    char *clean;

    if (json)
        return json;
    clean = report_clean(text);
    json = clean ? json_string(clean) : NULL;
    free(clean);
    return json;
}

static json_t *seconds_json(double seconds)
{
    return json_real(round(seconds * 1000) / 1000);
}

static size_t peak_resident_bytes(void)
{
    struct rusage usage;

    return getrusage(RUSAGE_SELF, &usage) == 0 ? (size_t)usage.ru_maxrss * 1024 : 0;
}

static json_t *memory_json(const struct pipeline_memory *memory)
{
    return json_pack(
        "{s:{s:I, s:I, s:I}, s:{s:I, s:I, s:I}, s:I, s:I, s:I, s:I}", "weights", "text",
        (json_int_t)memory->weights_text, "transformer", (json_int_t)memory->weights_transformer,
        "vae", (json_int_t)memory->weights_vae, "work", "text", (json_int_t)memory->work_text,
        "transformer", (json_int_t)memory->work_transformer, "vae", (json_int_t)memory->work_vae,
        "modulation", (json_int_t)memory->modulation, "base", (json_int_t)memory->base, "pinned",
        (json_int_t)memory->pinned, "peak", (json_int_t)memory->peak);
}

static json_t *model_json(const struct request_record *record)
{
    return json_pack("{s:s, s:s, s:s}", "name", record->model, "variant", record->info->variant,
                     "weight_types", record->info->weight_types);
}

static json_t *images_json(const struct json_result *from)
{
    const struct pipeline_request *request = from->record->request;
    json_t *images = json_array();

    for (int i = 0; images && i < from->result->image_count; i++) {
        json_t *image = json_pack("{s:o, s:I, s:i, s:i}", "file", text_json(from->paths[i]), "seed",
                                  (json_int_t)from->result->seeds[i], "width", request->width,
                                  "height", request->height);

        if (json_array_append_new(images, image) != 0) {
            json_decref(images);
            return NULL;
        }
    }
    return images;
}

bool json_output_result(const struct json_result *from, struct error *err)
{
    const struct request_record *record = from->record;
    const struct pipeline_result *result = from->result;

    return print(
        json_pack("{s:s, s:o, s:s, s:o, s:o, s:{s:o, s:o, s:o, s:o, s:o, s:o}, s:{s:o, s:I}, "
                  "s:{s:i, s:i}}",
                  "version", PROGRAM_NAME_AND_VERSION, "model", model_json(record), "device",
                  record->info->device, "images", images_json(from), "request",
                  request_record_json(record, record->request->seed), "seconds", "load",
                  seconds_json(from->load_seconds), "encode", seconds_json(result->encode_seconds),
                  "denoise", seconds_json(result->denoise_seconds), "decode",
                  seconds_json(result->decode_seconds), "save", seconds_json(from->save_seconds),
                  "total",
                  seconds_json(from->load_seconds + result->total_seconds + from->save_seconds),
                  "memory_bytes", "plan", memory_json(&result->memory), "peak_resident",
                  (json_int_t)peak_resident_bytes(), "tokens_cut", "clip", result->clip_tokens_cut,
                  "t5", result->t5_tokens_cut),
        err);
}

bool json_output_plan(const struct request_record *record, const struct pipeline_memory *memory,
                      struct error *err)
{
    return print(json_pack("{s:s, s:o, s:s, s:o, s:{s:o}}", "version", PROGRAM_NAME_AND_VERSION,
                           "model", model_json(record), "device", record->info->device, "request",
                           request_record_json(record, record->request->seed), "memory_bytes",
                           "plan", memory_json(memory)),
                 err);
}

void json_output_error(const struct error *err)
{
    (void)!print(json_pack("{s:{s:s, s:o}}", "error", "code", error_code_name(err->code), "message",
                           text_json(err->message)),
                 NULL);
}
