#include "support.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[64];

/* Texts that live as long as the program: reachable from here, so no leak checker minds. */
static struct text {
    struct text *next;
    char characters[];
} * texts;

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void remove_directory(void)
{
    nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void give_up(const char *what)
{
    perror(what);
    exit(99);
}

const char *test_directory(void)
{
    if (directory[0])
        return directory;
    snprintf(directory, sizeof directory, "/tmp/sd35-test-XXXXXX");
    if (!mkdtemp(directory))
        give_up("mkdtemp");
    atexit(remove_directory);
    return directory;
}

static const char *keep_joined(const char *folder, const char *name)
{
    size_t size = strlen(folder) + strlen(name) + 2;
    struct text *text = malloc(sizeof *text + size);

    if (!text)
        give_up("malloc");
    snprintf(text->characters, size, "%s/%s", folder, name);
    text->next = texts;
    texts = text;
    return text->characters;
}

const char *test_path(const char *name)
{
    return keep_joined(test_directory(), name);
}

const char *test_write_file(const char *name, const void *bytes, size_t size)
{
    const char *path = test_path(name);
    FILE *file = fopen(path, "wb");

    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0)
        give_up(path);
    return path;
}

const char *test_shared_path(const char *relative)
{
    const char *path = keep_joined(SD35_SHARED_DIR, relative);

    return access(path, R_OK) == 0 ? path : NULL;
}

int test_skip_without_shared(const char *test_name)
{
    if (access(SD35_SHARED_DIR, R_OK) == 0)
        return 0;
    fprintf(stderr, "SKIPPED: %s needs the golden values in %s, which are not here\n", test_name,
            SD35_SHARED_DIR);
    return 1;
}
