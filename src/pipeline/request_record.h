/* What a picture was drawn with, to be kept in the picture: everything that drawing it again needs.
 */
#ifndef PIPELINE_REQUEST_RECORD_H
#define PIPELINE_REQUEST_RECORD_H

#include <jansson.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "pipeline/pipeline.h"

/* All borrowed. */
struct request_record {
    const struct pipeline_request *request;
    const struct pipeline_info *info;
    const char *model;             /* the model's name, in UTF-8 */
    const char *init_image, *mask; /* the files' names, in UTF-8; NULL: none */
};

/* NULL when memory is short. */
json_t *request_record_json(const struct request_record *record, uint64_t seed);

/* AUTOMATIC1111's parameters. The caller frees *out. */
MUST_CHECK bool request_record_infotext(char **out, const struct request_record *record,
                                        uint64_t seed, struct error *err);

#endif
