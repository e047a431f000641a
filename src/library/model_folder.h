/* What is a model among files and folders, whether it is whole, and which ones a folder holds. Only
 * headers are read.
 */
#ifndef LIBRARY_MODEL_FOLDER_H
#define LIBRARY_MODEL_FOLDER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"

static inline bool model_folder_no_memory(struct error *err)
{
    return error_set(err, ERROR_NO_MEMORY, "looking for the model");
}

/* Names of models, for a message. Start it zeroed. */
struct model_names {
    char **items; /* owned */
    size_t count;
};
void model_names_finish(struct model_names *names);
MUST_CHECK bool model_names_add(struct model_names *names, const char *name, struct error *err);
/* There are several in `place`, and one has to be chosen: always false. Sorts them. */
bool model_names_fail(const char *place, struct model_names *names, struct error *err);

/* A folder in diffusers' layout that says, or does not deny, that it is for our pipeline. */
bool model_folder_is_model(const char *folder);
/* Of a folder or a file: whether all parts are there. T5 may be left out, unless it is needed. */
MUST_CHECK bool model_folder_check(const char *path, bool needs_t5, struct error *err);
/* The one model that a folder is or holds: *out is its path, or NULL when there is none. Fails when
 * there are several. */
MUST_CHECK bool model_folder_find(char **out, const char *folder, struct error *err);
bool model_folder_has_models(const char *folder); /* in it; false also where it cannot be read */
/* What it is called: one that is mounted under a name of its own, as /app/models, what the
 * repository is that it was downloaded from, if it says so. Freed by the caller; NULL: memory is
 * short. */
char *model_folder_name(const char *folder);

#endif
