#include "cli/picture_files.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* "out.png" -> "out-3.png". NULL when memory is short. */
static char *numbered(const char *path, int number)
{
    const char *slash = strrchr(path, '/'), *dot = strrchr(slash ? slash : path, '.');
    int stem = dot ? (int)(dot - path) : (int)strlen(path);
    char *name;

    if (asprintf(&name, "%.*s-%d%s", stem, path, number, dot ? dot : "") < 0)
        return NULL;
    return name;
}

bool picture_files_init(struct picture_files *files, const char *output, uint64_t seed, int count,
                        struct error *err)
{
    char of_seed[48];
    const char *path = output ? output : of_seed;

    *files = (struct picture_files){.count = count};
    snprintf(of_seed, sizeof of_seed, "sd35-%" PRIu64 ".png", seed);
    if (!image_format_of_path(&files->format, path, err))
        return error_in(err, "--output");
    files->paths = calloc((size_t)count, sizeof *files->paths);
    for (int i = 0; files->paths && i < count; i++) {
        files->paths[i] = count > 1 ? numbered(path, i + 1) : strdup(path);
        if (!files->paths[i])
            break;
    }
    if (!files->paths || !files->paths[count - 1])
        return error_set(err, ERROR_NO_MEMORY, "names of %d files", count);
    return true;
}

void picture_files_finish(struct picture_files *files)
{
    for (int i = 0; files->paths && i < files->count; i++)
        free(files->paths[i]);
    free(files->paths);
    *files = (struct picture_files){0};
}

bool picture_files_check(const struct picture_files *files, struct error *err)
{
    for (int i = 0; i < files->count; i++) {
        struct file_writer *writer;

        if (!file_writer_create(&writer, files->paths[i], err))
            return error_in(err, "--output");
        file_writer_abandon(writer);
    }
    return true;
}
