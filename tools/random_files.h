/* Small steps of writing a model folder. */
#ifndef TOOLS_RANDOM_FILES_H
#define TOOLS_RANDOM_FILES_H

#include <stdbool.h>

#include <jansson.h>

#include "base/attributes.h"
#include "base/error.h"

MUST_CHECK bool random_make_folder(const char *path, struct error *err);
/* Writes `folder`/`name` and takes `value`; NULL counts as out of memory. */
MUST_CHECK bool random_write_json(const char *folder, const char *name, json_t *value,
                                  struct error *err);

#endif
