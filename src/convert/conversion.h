/* A conversion under way: what convert.c and companions.c share. */
#ifndef CONVERT_CONVERSION_H
#define CONVERT_CONVERSION_H

#include <jansson.h>

#include "convert/convert.h"
#include "convert/convert_plan.h"
#include "convert/quantise.h"
#include "convert/source_hashes.h"
#include "convert/staging.h"
#include "convert/tensor_writer.h"
#include "weights/model_files.h"
#include "weights/safetensors.h"

#define CONVERSION_MODEL_INDEX "model_index.json"
#define CONVERSION_REPORT "report.html"

struct conversion {
    const struct convert_options *options;
    const struct convert_callbacks *callbacks;
    double started;
    struct model_files *files;
    const struct quantise_ops *ops;
    struct convert_plan *plan;
    const char **source_paths; /* of the files that tensors come from, in the order of use */
    size_t source_count;
    struct source_hashes *hashes;
    struct staging staging;
    struct tensor_writer *writer;
    struct safetensors_writer **outputs; /* of the plan's files; NULL: committed or not begun */
};

/* What a source file is called in records: its path below the model's folder, or its name. */
const char *conversion_source_name(const struct conversion *conversion, size_t i);

/* Writes all that belongs beside the tensors, but for what says that the model is complete:
 * configurations, tokenizers, licences, the record of what was done. Every source's hash is known
 * by then. */
MUST_CHECK bool conversion_write_companions(struct conversion *conversion, struct error *err);

/* That which says it. NULL when memory is short. */
json_t *conversion_model_index(const struct conversion *conversion);

#endif
