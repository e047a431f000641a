#include "random_files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"

bool random_make_folder(const char *path, struct error *err)
{
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return error_set_errno(err, errno, "making '%s'", path);
    return true;
}

bool random_write_json(const char *folder, const char *name, json_t *value, struct error *err)
{
    char *path = file_join(folder, name);
    char *text = value ? json_dumps(value, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    bool is_good;

    if (path && text)
        is_good = file_write(path, text, strlen(text), err);
    else
        is_good = error_set(err, ERROR_NO_MEMORY, "writing '%s' in '%s'", name, folder);
    free(text);
    free(path);
    json_decref(value);
    return is_good;
}
