/* How a struct weights comes to be: for model_files.c and tests. Everybody else borrows a finished
 * one. */
#ifndef WEIGHTS_WEIGHTS_BUILD_H
#define WEIGHTS_WEIGHTS_BUILD_H

#include <jansson.h>

#include "base/attributes.h"
#include "base/error.h"
#include "weights/safetensors.h"
#include "weights/weights.h"

/* `path` is what messages call the component's source. Free with weights_destroy. */
MUST_CHECK bool weights_create(struct weights **out, enum component component, const char *path,
                               struct error *err);
void weights_destroy(struct weights *weights); /* NULL is fine */

/* Adds the tensors of `file` whose names begin with `prefix`, and becomes one of its owners. The
 * prefix "" leaves out what carries the prefix of any component. */
MUST_CHECK bool weights_add_file(struct weights *weights, struct safetensors_file *file,
                                 const char *prefix, struct error *err);

/* Takes the component's config.json. */
void weights_set_config(struct weights *weights, json_t *config);

/* After the last file: finds the layout. Fails when a tensor came twice, when one belongs to an
 * adapter, or when none is this component's. */
MUST_CHECK bool weights_finish(struct weights *weights, struct error *err);

#endif
