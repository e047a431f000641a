/* The fields of AUTOMATIC1111's requests: the only place that knows their names, types, defaults
 * and ranges, for those who read requests and for openapi.json. Private to a1111_*.c; pure
 * functions.
 */
#ifndef SERVER_A1111_FIELDS_H
#define SERVER_A1111_FIELDS_H

#include <jansson.h>
#include <stdbool.h>

#include "job/job_spec.h"

/* Bits: the requests that a field belongs to. */
enum a1111_body {
    A1111_TXT2IMG = 1,
    A1111_IMG2IMG = 2,
    A1111_EXTRA_SINGLE = 4,
    A1111_EXTRA_BATCH = 8,
    A1111_PICTURE = 16, /* of png-info and interrogate */
    A1111_TASK = 32,    /* of /internal/progress */
};

enum a1111_type {
    A1111_INTEGER, /* or a text of one */
    A1111_NUMBER,  /* or a text of one */
    A1111_FLAG,    /* or "true", 0, ... */
    A1111_TEXT,
    A1111_TEXTS,
    A1111_OBJECT,
    A1111_LIST,     /* of anything */
    A1111_PICTURES, /* of base64 texts; one is taken */
    A1111_FILES,    /* of {data, name} */
};

/* What becomes of it. null and, but for lists and objects, "" count as left out. */
enum a1111_use {
    A1111_USED,
    A1111_NOTED,  /* has no effect, and the answer's `info` says so */
    A1111_PASSED, /* has no effect that anybody would miss */
};

struct a1111_field {
    const char *name;
    unsigned bodies;
    enum a1111_type type;
    enum a1111_use use;
    double fallback;  /* of numbers and flags: the default */
    double low, high; /* of numbers; both 0: any */
    const char *spec; /* the field of a job spec that it becomes, and whose range it has; or NULL */
    const char *about;
};

extern const struct a1111_field a1111_fields[];
extern const size_t a1111_field_count;

/* One that there is, in one of these bodies. */
const struct a1111_field *a1111_field(unsigned bodies, const char *name);
/* The one that becomes this field of a spec; NULL: none. */
const struct a1111_field *a1111_field_of_spec(const char *spec);

/* The JSON Schema of a body. Facts and limits may be NULL, as in job_spec_schema. New reference;
 * NULL when memory is short. */
json_t *a1111_body_schema(enum a1111_body body, const struct worker_facts *facts,
                          const struct job_limits *limits);

#endif
