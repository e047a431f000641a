/* Progress of what goes through a model's bytes: conversions and checks. */
#ifndef CLI_BYTE_PROGRESS_H
#define CLI_BYTE_PROGRESS_H

#include "convert/convert.h"

/* For convert_callbacks and verify_callbacks; `context` is the struct progress to show it with. */
void byte_progress_show(void *context, const struct convert_progress *now);

#endif
