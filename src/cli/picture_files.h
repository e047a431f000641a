/* The files that a run leaves behind. */
#ifndef CLI_PICTURE_FILES_H
#define CLI_PICTURE_FILES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "image/image.h"

struct picture_files {
    int count;
    char **paths; /* [count] */
    enum image_format format;
};

/* Names them: `output`, or "sd35-<seed>.png" where it is NULL; with -1, -2, ... before the
 * extension where there are several. Fails where the extension is not a format's. */
MUST_CHECK bool picture_files_init(struct picture_files *files, const char *output, uint64_t seed,
                                   int count, struct error *err);
void picture_files_finish(struct picture_files *files);

/* Whether they can be written, so that nobody waits for a picture that has no place. Leaves nothing
 * behind. */
MUST_CHECK bool picture_files_check(const struct picture_files *files, struct error *err);

#endif
