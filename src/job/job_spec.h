/* Job spec: what a person asked for, whole and checked, on its way from an HTTP request through the
 * store to a worker.
 *
 * Its JSON form, with the names of the table in job_spec.c, is what the store keeps and what the
 * native API takes; the other APIs map theirs to it. That table is the only place that reads
 * numbers from outside. Pictures that come with it are files as they were sent: only a worker
 * decodes them.
 */
#ifndef JOB_JOB_SPEC_H
#define JOB_JOB_SPEC_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "image/image.h"

#define JOB_SKIP_LAYERS_MAX 64
#define JOB_PROMPT_BYTES_MAX 8192
#define JOB_COUNT_MAX 16
#define JOB_STEPS_MAX 1000
#define JOB_SIDE_STEP 16                /* pixels; as the pipeline's */
#define JOB_IMAGE_BYTES_MAX (16 << 20)  /* of a file that comes with a request */
#define JOB_IMAGE_PIXELS_MAX (16 << 20) /* of the picture in it */
#define JOB_IMAGE_SIDE_MAX 4096
#define JOB_ID_BYTES 33 /* 32 hexadecimal digits, 128 random bits, and the end */

/* What a worker says of itself once it can draw: what requests are checked against, and what stands
 * for what they leave out. */
struct worker_facts {
    char model[128];       /* "sd3.5_medium" */
    char variant[32];      /* "SD3.5 Medium" */
    char device[128];      /* "NVIDIA H100 80GB HBM3, FP8" */
    char weight_types[32]; /* "f8_e4m3" */
    char model_file[128];  /* "sd3.5_medium.safetensors": the last part of its path */
    char model_hash[65];   /* SHA-256 of the weights, or "": unknown; the front finds it out */
    int32_t side_max, layer_count, max_batch;
    bool is_turbo, has_t5, has_encoder;
    int32_t width, height, steps, t5_tokens; /* defaults */
    double guidance, flow_shift;
};

/* A file as it was sent; its header says PNG, JPEG or WebP, and a size within the limits above. */
struct job_image {
    unsigned char *bytes; /* NULL: none */
    size_t size;
};

struct job_spec {
    char *prompt, *prompt_2, *prompt_3;                            /* NULL for 2 and 3: as prompt */
    char *negative_prompt, *negative_prompt_2, *negative_prompt_3; /* the same */
    int32_t width, height, steps, count, t5_tokens;
    double guidance, flow_shift;
    uint64_t seed; /* of the first picture; chosen already when it was left to us */
    int32_t skip_layers[JOB_SKIP_LAYERS_MAX];
    int32_t skip_layer_count;
    double skip_layer_scale, skip_layer_start, skip_layer_stop;
    double strength; /* with init_image */
    enum image_format format;
    int32_t quality; /* of JPEG and WebP */
    struct job_image init_image, mask;
    bool mask_is_alpha; /* the mask's alpha counts, and 0 is what is repainted: OpenAI's masks.
                         * Only the worker finds out whether the file has one. */
    bool mask_inverted; /* black is repainted instead of white (after mask_is_alpha) */
};

/* Server-wide limits; 0: none beyond the worker's. */
struct job_limits {
    int64_t pixels_max; /* of one picture */
    int32_t steps_max, count_max;
};

/* What is wrong with a request. */
struct job_problem {
    char field[64];    /* "width"; "": the request as a whole */
    char message[256]; /* a sentence without the value */
    enum job_problem_kind {
        JOB_PROBLEM_TYPE,
        JOB_PROBLEM_VALUE,
        JOB_PROBLEM_UNKNOWN_FIELD,
        JOB_PROBLEM_TOO_LARGE,
        JOB_PROBLEM_MEMORY,
    } kind;
};

/* Fills *spec from a JSON object: every field is optional but "prompt"; "init_image" and "mask" are
 * base64 texts, with or without "data:image/..;base64,"; "seed" -1 or absent draws one of 32 bits.
 * An unknown field, a wrong type, a value out of range is a problem; null is a wrong type. Defaults
 * give way to the limits. `limits` may be NULL. On failure *spec is empty. */
MUST_CHECK bool job_spec_read(struct job_spec *spec, const json_t *object,
                              const struct worker_facts *facts, const struct job_limits *limits,
                              struct job_problem *problem);
/* The JSON form, without the pictures ("has_init_image", "has_mask" instead); what
 * job_spec_restore takes. NULL when memory is short. */
json_t *job_spec_json(const struct job_spec *spec);
/* From the store: the JSON form and the pictures, which are copied. Checks nothing against a worker
 * but types and absolute ranges, as the file may be damaged. */
MUST_CHECK bool job_spec_restore(struct job_spec *spec, const json_t *object,
                                 const struct job_image *init_image, const struct job_image *mask,
                                 struct job_problem *problem);
MUST_CHECK bool job_spec_copy(struct job_spec *out, const struct job_spec *spec);
void job_spec_finish(struct job_spec *spec);

/* Units of work, for fair shares and expected times: steps times megapixels times pictures, twice
 * with guidance. */
double job_spec_cost(const struct job_spec *spec);

/* The JSON Schema of what job_spec_read takes, generated from the table; for openapi.json. Without
 * facts or limits (NULL), what no worker and no limit narrows. New reference; NULL when memory is
 * short. */
json_t *job_spec_schema(const struct worker_facts *facts, const struct job_limits *limits);

#endif
