/* The place where a converted model grows: a folder with a telling name beside the target, which
 * becomes the target when all of it is written. What is not committed is removed; only a conversion
 * that was killed leaves such a folder, and nobody misses it.
 */
#ifndef CONVERT_STAGING_H
#define CONVERT_STAGING_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "base/attributes.h"
#include "base/error.h"

struct staging {
    char *target;   /* as it was given, without slashes at its end */
    char *folder;   /* where files are written until they are complete; NULL: not made yet */
    bool is_folder; /* what the target will be */
    bool is_replacing;
    json_t *manifest; /* of all that was written */
};

/* Finds out whether the target can be made: that its folder is there, that it is none of the
 * `sources`, lies in none and holds none, and what is there under its name. Files at `sources` may
 * be links. Creates nothing. Free with staging_finish. */
MUST_CHECK bool staging_init(struct staging *staging, const char *target, bool is_folder,
                             bool replace, const char *const *sources, size_t source_count,
                             const char *made_by, struct error *err);
/* Makes the folder, if `bytes` are free where it lies, beside `spare` that have to stay so. */
MUST_CHECK bool staging_open(struct staging *staging, size_t bytes, size_t spare,
                             struct error *err);

/* The path of a file below the folder, whose own folder is made. The caller frees it. */
MUST_CHECK bool staging_path(char **out, const struct staging *staging, const char *name,
                             struct error *err);
/* Writes a small file, and enters it into the manifest. Takes `json`; NULL: memory is short. */
MUST_CHECK bool staging_write_json(struct staging *staging, const char *name, json_t *json,
                                   struct error *err);
MUST_CHECK bool staging_write_bytes(struct staging *staging, const char *name, const void *bytes,
                                    size_t size, struct error *err);
MUST_CHECK bool staging_copy_file(struct staging *staging, const char *name, const char *from,
                                  struct error *err);
/* The regular files in the folder `from`. */
MUST_CHECK bool staging_copy_folder(struct staging *staging, const char *name, const char *from,
                                    struct error *err);

/* Writes the manifest, then, for a folder, `last` as the file `last_name`, and puts everything in
 * its place; whatever else lies beside a target that is a file stays as it is. Takes `last`. */
MUST_CHECK bool staging_commit(struct staging *staging, const char *last_name, json_t *last,
                               struct error *err);
/* Removes what was not committed. */
void staging_finish(struct staging *staging);

/* Removes what killed conversions to this target left. Only for who knows that none is going on. */
void staging_sweep(const char *target);

/* The last part of a path. */
const char *staging_base_name(const char *path);

#endif
