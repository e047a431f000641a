#include "base/program.h"

#include <string.h>
#include <unistd.h>

void program_folder(char folder[PROGRAM_PATH_BYTES])
{
    ssize_t length = readlink("/proc/self/exe", folder, PROGRAM_PATH_BYTES - 1);
    char *slash;

    folder[length > 0 ? length : 0] = '\0';
    slash = strrchr(folder, '/');
    if (slash)
        *slash = '\0';
}
