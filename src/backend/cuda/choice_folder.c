#include "backend/cuda/choice_folder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

/* What an environment variable says; NULL when it is not there or empty. */
static const char *setting(const char *name)
{
    const char *value = getenv(name);

    return value && *value ? value : NULL;
}

/* Where the folder is to be; NULL when nothing says so, or memory is short. */
static char *name_folder(void)
{
    const char *asked = getenv("SD35_CACHE_DIR"), *caches = setting("XDG_CACHE_HOME");
    const char *home = setting("HOME");

    if (asked)
        return *asked ? strdup(asked) : NULL;
    if (caches && caches[0] == '/') /* relative ones do not count (XDG Base Directory, "Basics") */
        return file_join(caches, "sd35");
    if (home && file_is_directory(home)) /* services may have one that is not there */
        return file_join(home, ".cache/sd35");
    return NULL;
}

/* Makes it and what it lies in. What goes wrong shows when it is used. */
static void make_folders(char *folder)
{
    for (char *slash = strchr(folder + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(folder, 0700);
        *slash = '/';
    }
    (void)mkdir(folder, 0700);
}

char *choice_folder_find(char *notice, size_t notice_size)
{
    char *folder = name_folder(), *found;
    int reason = 0;

    *notice = '\0';
    if (!folder)
        return NULL;
    make_folders(folder);
    found = realpath(folder, NULL); /* stays, wherever the process goes */
    if (found && !file_is_directory(found))
        reason = ENOTDIR;
    else if (!found || access(found, W_OK | X_OK) != 0) /* what is in it serves all the same */
        reason = errno;
    if (reason && getenv("SD35_CACHE_DIR"))
        snprintf(notice, notice_size,
                 "SD35_CACHE_DIR: '%.200s': %s: the next start measures again which algorithms are "
                 "fastest",
                 folder, strerror(reason));
    free(folder);
    return found;
}
