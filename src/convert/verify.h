/* Checks of a model: that every tensor is there in the shape and type that its network needs, that
 * factors are finite and positive and no weight is NaN or infinite, and that nothing has changed
 * since the manifest was written.
 */
#ifndef CONVERT_VERIFY_H
#define CONVERT_VERIFY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"
#include "convert/convert.h"

struct verify_callbacks {
    void (*defect)(void *context, const char *sentence); /* in a fixed order */
    void (*progress)(void *context, const struct convert_progress *now);
    void *context;
    const atomic_bool *cancel; /* NULL: cannot be cancelled */
};

struct verify_summary {
    size_t tensors, files; /* looked at; files of the manifest */
    size_t defects;
    bool has_manifest;
};

/* False when the model could not be looked at: it is not there, cannot be read, or somebody
 * cancelled. Defects are no failure of the check. threads: 0 takes one for each CPU. */
MUST_CHECK bool verify_model(const char *model, int threads,
                             const struct verify_callbacks *callbacks,
                             struct verify_summary *summary, struct error *err);

#endif
