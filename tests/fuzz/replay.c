/* Runs a fuzz target over stored inputs, without libFuzzer: every file of the folders and every
 * file named on the command line. Fails when there was none. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static int replay_file(const char *path)
{
    struct error err;
    unsigned char *bytes;
    size_t size;

    if (!file_read(&bytes, &size, path, 64u << 20, &err)) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    LLVMFuzzerTestOneInput(bytes, size);
    free(bytes);
    return 1;
}

static int replay_directory(const char *path)
{
    int count = 0;
    struct dirent *entry;
    DIR *directory = opendir(path);

    if (!directory) {
        perror(path);
        exit(1);
    }
    while ((entry = readdir(directory))) {
        char *file = file_join(path, entry->d_name);

        if (file && file_is_regular(file))
            count += replay_file(file);
        free(file);
    }
    closedir(directory);
    return count;
}

int main(int argc, char **argv)
{
    int count = 0;

    for (int i = 1; i < argc; i++)
        count += file_is_directory(argv[i]) ? replay_directory(argv[i]) : replay_file(argv[i]);
    printf("%d inputs\n", count);
    return count > 0 ? 0 : 1;
}
