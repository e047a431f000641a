/* The table of a job spec's fields: the only place that knows their names, types, ranges and
 * defaults. Private to this folder.
 */
#ifndef JOB_JOB_FIELDS_H
#define JOB_JOB_FIELDS_H

#include "job/job_spec.h"

enum job_field_type {
    FIELD_TEXT,    /* char * */
    FIELD_INTEGER, /* int32_t */
    FIELD_NUMBER,  /* double */
    FIELD_FLAG,    /* bool; false by default */
    FIELD_SEED,    /* uint64_t; -1 in JSON: draw one */
    FIELD_LAYERS,  /* skip_layers and skip_layer_count */
    FIELD_FORMAT,  /* enum image_format */
    FIELD_PICTURE, /* struct job_image */
};

#define NO_OFFSET ((size_t)-1)

struct job_field {
    const char *name;
    enum job_field_type type;
    size_t offset; /* in struct job_spec */
    bool is_required;
    double low, high;    /* whatever the worker; of a seed and of what is no number: unused */
    int32_t multiple_of; /* 0: anything */
    double fallback;     /* the default, where neither of the next two has it */
    size_t fact_default; /* in struct worker_facts, of the same type; NO_OFFSET: none */
    size_t fact_high;    /* int32_t in struct worker_facts: the highest value; NO_OFFSET: none */
    size_t limit_high;   /* int32_t in struct job_limits, 0 there: none; NO_OFFSET: none */
    const char *about;   /* for the schema */
};

extern const struct job_field job_fields[];
extern const size_t job_field_count;

#define JOB_SEED_MAX INT64_MAX
#define JOB_FORMAT_NAMES "png, jpeg or webp"

/* The highest value with this worker and these limits; either may be NULL. */
double job_field_high(const struct job_field *field, const struct worker_facts *facts,
                      const struct job_limits *limits);
/* The default of a FIELD_INTEGER or FIELD_NUMBER, within the range. */
double job_field_default(const struct job_field *field, const struct worker_facts *facts,
                         const struct job_limits *limits);

/* The field's place. */
static inline void *job_field_of(struct job_spec *spec, const struct job_field *field)
{
    return (char *)spec + field->offset;
}
static inline const void *job_field_in(const struct job_spec *spec, const struct job_field *field)
{
    return (const char *)spec + field->offset;
}

static inline int64_t job_spec_pixels(const struct job_spec *spec)
{
    return (int64_t)spec->width * spec->height;
}

/* `image` may be NULL or empty: so is the copy. False: memory is short. */
MUST_CHECK bool job_image_copy(struct job_image *out, const struct job_image *image);

#endif
