/* The prompts that a calibration draws: one a line of a UTF-8 file, or the set that ships.
 *
 * Empty lines, and lines that begin with '#', are left out. Hostile files end in a sentence.
 */
#ifndef CALIBRATE_PROMPT_LIST_H
#define CALIBRATE_PROMPT_LIST_H

#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"

#define PROMPT_LIST_MAX 64
#define PROMPT_LIST_FILE_BYTES_MAX ((size_t)1 << 20)
#define PROMPT_LIST_PROMPT_BYTES_MAX 4096

struct prompt_list {
    const char *prompt[PROMPT_LIST_MAX];
    int count;  /* at least 1 */
    char *text; /* that they lie in; owned; NULL: the set that ships */
};

/* path NULL or "": the set that ships. Fails with ERROR_BAD_REQUEST, naming file and line, and with
 * ERROR_IO. Free with prompt_list_finish. */
MUST_CHECK bool prompt_list_read(struct prompt_list *list, const char *path, struct error *err);
void prompt_list_finish(struct prompt_list *list);

#endif
