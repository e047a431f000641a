#include "server/ignored.h"

#include <stdbool.h>
#include <string.h>

#define NAME_BYTES_MAX 64

static bool may_stay(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
}

void ignored_add(struct ignored *ignored, const char *name)
{
    size_t used = strlen(ignored->names);
    size_t length = strnlen(name, NAME_BYTES_MAX);

    if (used + length + 3 > IGNORED_BYTES)
        return;
    if (used > 0) {
        memcpy(ignored->names + used, ", ", 2);
        used += 2;
    }
    for (size_t i = 0; i < length; i++)
        ignored->names[used + i] = may_stay(name[i]) ? name[i] : '?';
    ignored->names[used + length] = '\0';
}
