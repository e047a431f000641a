/* What --json prints on standard output: one object, of the result or of the error. */
#ifndef CLI_JSON_OUTPUT_H
#define CLI_JSON_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"
#include "pipeline/request_record.h"
#include "pipeline/pipeline.h"

/* `json` as text, with numbers in the fewest digits that read back the same. Takes `json`, which
 * may be NULL for memory that was short when it was built. The caller frees *out. */
MUST_CHECK bool json_output_format(char **out, json_t *json, struct error *err);

/* A finished run. */
struct json_result {
    const struct request_record *record;
    const struct pipeline_result *result;
    char *const *paths; /* [image_count] */
    double load_seconds, save_seconds;
};

MUST_CHECK bool json_output_result(const struct json_result *result, struct error *err);
MUST_CHECK bool json_output_plan(const struct request_record *record,
                                 const struct pipeline_memory *memory, struct error *err);
/* Prints what it can; the exit code tells of the error in any case. */
void json_output_error(const struct error *err);

#endif
