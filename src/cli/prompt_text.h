/* The texts of a request, wherever they are given. */
#ifndef CLI_PROMPT_TEXT_H
#define CLI_PROMPT_TEXT_H

#include <stdatomic.h>

#include "base/attributes.h"
#include "base/error.h"

/* *out = what `given` means: "-" reads standard input, "@FILE" a file, "@@..." is "@...", anything
 * else is the text itself. The last line's end is not part of the text. Fails where it is not UTF-8
 * or longer than a prompt may be. `name` ("--prompt") goes into messages. Setting *cancel ends the
 * waiting for standard input, if the signal that sets it interrupts read(). The caller frees *out;
 * it is NULL for a `given` of NULL. */
MUST_CHECK bool prompt_text_read(char **out, const char *given, const char *name,
                                 const atomic_bool *cancel, struct error *err);

#endif
