#include "job/job_fields.h"

#define SPEC(member) offsetof(struct job_spec, member)
#define FACT(member) offsetof(struct worker_facts, member)
#define LIMIT(member) offsetof(struct job_limits, member)
#define NO_FACTS .fact_default = NO_OFFSET, .fact_high = NO_OFFSET, .limit_high = NO_OFFSET

#define TEXT(member, comment)                                                                      \
    {                                                                                              \
        .name = #member, .type = FIELD_TEXT, .offset = SPEC(member), NO_FACTS, .about = (comment)  \
    }

#define SIDE(member, comment)                                                                      \
    {                                                                                              \
        .name = #member, .type = FIELD_INTEGER, .offset = SPEC(member), .low = JOB_SIDE_STEP,      \
        .high = IMAGE_SIDE_MAX, .multiple_of = JOB_SIDE_STEP, .fallback = 1024,                    \
        .fact_default = FACT(member), .fact_high = FACT(side_max), .limit_high = NO_OFFSET,        \
        .about = (comment)                                                                         \
    }

#define NUMBER(name_, member, low_, high_, default_, fact_, comment)                               \
    {                                                                                              \
        .name = (name_), .type = FIELD_NUMBER, .offset = SPEC(member), .low = (low_),              \
        .high = (high_), .fallback = (default_), .fact_default = (fact_), .fact_high = NO_OFFSET,  \
        .limit_high = NO_OFFSET, .about = (comment)                                                \
    }

#define INTEGER(member, low_, high_, default_, fact_, limit_, comment)                             \
    {                                                                                              \
        .name = #member, .type = FIELD_INTEGER, .offset = SPEC(member), .low = (low_),             \
        .high = (high_), .fallback = (default_), .fact_default = (fact_), .fact_high = NO_OFFSET,  \
        .limit_high = (limit_), .about = (comment)                                                 \
    }

#define PICTURE(member, comment)                                                                   \
    {                                                                                              \
        .name = #member, .type = FIELD_PICTURE, .offset = SPEC(member), NO_FACTS,                  \
        .about = (comment)                                                                         \
    }

#define FLAG(member, comment)                                                                      \
    {                                                                                              \
        .name = #member, .type = FIELD_FLAG, .offset = SPEC(member), NO_FACTS, .about = (comment)  \
    }

/* The ranges of numbers are the pipeline's, which checks them again. */
const struct job_field job_fields[] = {
    {.name = "prompt",
     .type = FIELD_TEXT,
     .offset = SPEC(prompt),
     .is_required = true,
     NO_FACTS,
     .about = "what the picture shows"},
    TEXT(prompt_2, "for the second text encoder, CLIP-G; as prompt when absent"),
    TEXT(prompt_3, "for the third text encoder, T5; as prompt when absent"),
    TEXT(negative_prompt, "what the picture does not show; has no effect without guidance"),
    TEXT(negative_prompt_2, "for CLIP-G; as negative_prompt when absent"),
    TEXT(negative_prompt_3, "for T5; as negative_prompt when absent"),
    SIDE(width, "pixels"),
    SIDE(height, "pixels"),
    INTEGER(steps, 1, JOB_STEPS_MAX, 28, FACT(steps), LIMIT(steps_max), "of denoising"),
    NUMBER("guidance_scale", guidance, 0, 100, 4.5, FACT(guidance),
           "how closely the prompt is followed; 1 and less: no guidance, twice as fast"),
    {.name = "seed",
     .type = FIELD_SEED,
     .offset = SPEC(seed),
     .low = -1,
     .high = (double)JOB_SEED_MAX,
     .fallback = -1,
     NO_FACTS,
     .about = "of the first picture, the next ones count up; -1: a random one"},
    INTEGER(count, 1, JOB_COUNT_MAX, 1, NO_OFFSET, LIMIT(count_max), "number of pictures"),
    NUMBER("flow_shift", flow_shift, 0.01, 100, 3, FACT(flow_shift),
           "moves the schedule towards the noise"),
    INTEGER(t5_tokens, 77, 512, 256, FACT(t5_tokens), NO_OFFSET, "of the prompt that T5 reads"),
    {.name = "skip_layers",
     .type = FIELD_LAYERS,
     .offset = SPEC(skip_layers),
     .low = 0,
     .high = JOB_SKIP_LAYERS_MAX * 16 - 1,
     .fact_default = NO_OFFSET,
     .fact_high = FACT(layer_count),
     .limit_high = NO_OFFSET,
     .about = "layers that skip-layer guidance leaves out; empty: no such guidance"},
    NUMBER("skip_layer_scale", skip_layer_scale, 0, 100, 2.5, NO_OFFSET,
           "weight of skip-layer guidance"),
    NUMBER("skip_layer_start", skip_layer_start, 0, 1, 0.01, NO_OFFSET,
           "share of the steps after which skip-layer guidance begins"),
    NUMBER("skip_layer_stop", skip_layer_stop, 0, 1, 0.2, NO_OFFSET,
           "share of the steps after which skip-layer guidance ends"),
    PICTURE(init_image, "base64 of a PNG, JPEG or WebP file to start from"),
    PICTURE(mask, "base64 of a PNG, JPEG or WebP file: white parts of init_image are painted anew"),
    FLAG(mask_is_alpha,
         "the alpha of mask, a PNG or WebP file, says instead what is painted anew: what is transparent"),
    FLAG(mask_inverted, "what mask would keep is painted anew, and the rest is kept"),
    NUMBER("strength", strength, 0, 1, 0.6, NO_OFFSET,
           "how much of init_image is drawn anew: 0 nothing, 1 everything"),
    {.name = "format",
     .type = FIELD_FORMAT,
     .offset = SPEC(format),
     .fallback = IMAGE_PNG,
     NO_FACTS,
     .about = "of the picture files"},
    INTEGER(quality, 1, 100, 90, NO_OFFSET, NO_OFFSET, "of JPEG and WebP"),
};
const size_t job_field_count = COUNT_OF(job_fields);

static int32_t integer_at(const void *object, size_t offset)
{
    return *(const int32_t *)(const void *)((const char *)object + offset);
}

double job_field_high(const struct job_field *field, const struct worker_facts *facts,
                      const struct job_limits *limits)
{
    double high = field->high;

    if (facts && field->fact_high != NO_OFFSET) {
        double fact = integer_at(facts, field->fact_high) - (field->type == FIELD_LAYERS);

        high = fact < high ? fact : high;
    }
    if (limits && field->limit_high != NO_OFFSET) {
        int32_t limit = integer_at(limits, field->limit_high);

        high = limit > 0 && limit < high ? limit : high;
    }
    return high;
}

double job_field_default(const struct job_field *field, const struct worker_facts *facts,
                         const struct job_limits *limits)
{
    double value = field->fallback, high = job_field_high(field, facts, limits);

    if (facts && field->fact_default != NO_OFFSET)
        value = field->type == FIELD_INTEGER
                    ? integer_at(facts, field->fact_default)
                    : *(const double *)(const void *)((const char *)facts + field->fact_default);
    if (value > high)
        value = high;
    return value < field->low ? field->low : value;
}
