#include "library/hugging_face_cache.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"

#define NAME_BYTES_MAX 96 /* the hub's own limit for each part of an id */
#define REF_BYTES_MAX 256
#define PREFIX "models--"
#define UNFINISHED ".incomplete"

static bool out_of_memory(struct error *err)
{
    return error_set(err, ERROR_NO_MEMORY, "the Hugging Face cache");
}

bool hugging_face_is_name(const char *name, size_t length)
{
    if (length == 0 || length > NAME_BYTES_MAX || name[0] == '.' || name[0] == '-')
        return false;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("-_.", name[i]))
            return false;
    return !memmem(name, length, "..", 2) && !memmem(name, length, "--", 2);
}

/* --- Where it is --- */

static const char *variable(const char *name)
{
    const char *value = getenv(name);

    return value && *value ? value : NULL;
}

bool hugging_face_cache_find(char **out, struct error *err)
{
    static const struct {
        const char *variable, *below;
    } places[] = {
        {"HF_HUB_CACHE", ""},
        {"HF_HOME", "/hub"},
        {"XDG_CACHE_HOME", "/huggingface/hub"},
        {"HOME", "/.cache/huggingface/hub"},
    };
    size_t i = 0;

    *out = NULL;
    while (i < COUNT_OF(places) && !variable(places[i].variable))
        i++;
    if (i == COUNT_OF(places))
        return true;
    if (asprintf(out, "%s%s", variable(places[i].variable), places[i].below) < 0) {
        *out = NULL;
        return out_of_memory(err);
    }
    if (!file_is_directory(*out)) {
        free(*out);
        *out = NULL;
    }
    return true;
}

/* --- A repository --- */

/* "models--ORG--NAME" as "ORG/NAME", or "models--NAME" as "NAME". *out is NULL when it is neither.
 */
static bool read_id(char **out, const char *folder, struct error *err)
{
    const char *first = folder + strlen(PREFIX), *second;

    *out = NULL;
    if (strncmp(folder, PREFIX, strlen(PREFIX)) != 0)
        return true;
    second = strstr(first, "--");
    if (!second) {
        if (!hugging_face_is_name(first, strlen(first)))
            return true;
        *out = strdup(first);
        return *out || out_of_memory(err);
    }
    if (!hugging_face_is_name(first, (size_t)(second - first)) ||
        !hugging_face_is_name(second + 2, strlen(second + 2)))
        return true;
    if (asprintf(out, "%.*s/%s", (int)(second - first), first, second + 2) < 0) {
        *out = NULL;
        return out_of_memory(err);
    }
    return true;
}

static bool has_id(const char *id, const char *name)
{
    const char *slash = strrchr(id, '/');

    return strcmp(id, name) == 0 || (slash && strcmp(slash + 1, name) == 0);
}

/* The commit in refs/main; false when there is none that can be one. */
static bool read_ref(char commit[REF_BYTES_MAX + 1], const char *repo)
{
    char *path = file_join(repo, "refs/main");
    unsigned char *bytes = NULL;
    size_t size = 0, length;
    bool ok = path && file_read(&bytes, &size, path, REF_BYTES_MAX, NULL);

    if (ok) {
        length = strcspn((const char *)bytes, " \t\r\n");
        memcpy(commit, bytes, length);
        commit[length] = '\0';
        ok = hugging_face_is_name(commit, length);
    }
    free(bytes);
    free(path);
    return ok;
}

/* The snapshot that was changed last, of those in `folder`; "" when there is none. */
static void find_newest(char commit[REF_BYTES_MAX + 1], const char *folder)
{
    DIR *directory = opendir(folder);
    struct timespec newest = {0};

    commit[0] = '\0';
    for (struct dirent *entry = directory ? readdir(directory) : NULL; entry;
         entry = readdir(directory)) {
        struct stat st;

        if (!hugging_face_is_name(entry->d_name, strlen(entry->d_name)) ||
            fstatat(dirfd(directory), entry->d_name, &st, 0) != 0 || !S_ISDIR(st.st_mode) ||
            (commit[0] &&
             (st.st_mtim.tv_sec < newest.tv_sec ||
              (st.st_mtim.tv_sec == newest.tv_sec && st.st_mtim.tv_nsec <= newest.tv_nsec))))
            continue;
        newest = st.st_mtim;
        snprintf(commit, REF_BYTES_MAX + 1, "%s", entry->d_name);
    }
    if (directory)
        closedir(directory);
}

/* *out is NULL when there is none. */
static bool find_snapshot(char **out, const char *repo, struct error *err)
{
    char *folder = file_join(repo, "snapshots"), commit[REF_BYTES_MAX + 1];
    bool ok = folder != NULL;

    *out = NULL;
    if (ok && read_ref(commit, repo)) {
        *out = file_join(folder, commit);
        ok = *out != NULL;
        if (ok && !file_is_directory(*out)) {
            free(*out);
            *out = NULL;
        }
    }
    if (ok && !*out) {
        find_newest(commit, folder);
        *out = commit[0] ? file_join(folder, commit) : NULL;
        ok = !commit[0] || *out;
    }
    free(folder);
    return ok || out_of_memory(err);
}

static int count_unfinished(const char *repo)
{
    char *folder = file_join(repo, "blobs");
    DIR *directory = folder ? opendir(folder) : NULL;
    int count = 0;

    for (struct dirent *entry = directory ? readdir(directory) : NULL; entry;
         entry = readdir(directory)) {
        size_t length = strlen(entry->d_name), ending = strlen(UNFINISHED);

        count += length > ending && strcmp(entry->d_name + length - ending, UNFINISHED) == 0;
    }
    if (directory)
        closedir(directory);
    free(folder);
    return count;
}

/* --- All of them --- */

static void finish_repo(struct hugging_face_repo *repo)
{
    free(repo->id);
    free(repo->snapshot);
}

/* One entry of the cache: *repo has no snapshot when it is none that is asked for. */
static bool read_repo(struct hugging_face_repo *repo, const char *cache, const char *folder,
                      const char *name, struct error *err)
{
    char *path;
    bool ok;

    *repo = (struct hugging_face_repo){0};
    if (!read_id(&repo->id, folder, err))
        return false;
    if (!repo->id || (name && !has_id(repo->id, name)))
        return true;
    path = file_join(cache, folder);
    if (!path)
        return out_of_memory(err);
    ok = find_snapshot(&repo->snapshot, path, err);
    repo->unfinished = repo->snapshot ? count_unfinished(path) : 0;
    free(path);
    return ok;
}

static bool append(struct hugging_face_repo **repos, size_t *count, struct hugging_face_repo *repo,
                   struct error *err)
{
    struct hugging_face_repo *grown = reallocarray(*repos, *count + 1, sizeof *grown);

    if (!grown)
        return out_of_memory(err);
    *repos = grown;
    grown[(*count)++] = *repo;
    *repo = (struct hugging_face_repo){0};
    return true;
}

static int compare_repos(const void *a, const void *b)
{
    return strcmp(((const struct hugging_face_repo *)a)->id,
                  ((const struct hugging_face_repo *)b)->id);
}

bool hugging_face_cache_list(struct hugging_face_repo **out, size_t *count, const char *cache,
                             const char *name, struct error *err)
{
    struct hugging_face_repo *repos = NULL;
    DIR *directory = opendir(cache);
    size_t found = 0;
    bool ok = true;

    if (!directory)
        return error_set_errno(err, errno, "opening the Hugging Face cache '%s'", cache);
    for (struct dirent *entry = readdir(directory); entry && ok; entry = readdir(directory)) {
        struct hugging_face_repo repo;

        ok = read_repo(&repo, cache, entry->d_name, name, err) &&
             (!repo.snapshot || append(&repos, &found, &repo, err));
        finish_repo(&repo);
    }
    closedir(directory);
    if (!ok) {
        hugging_face_repos_free(repos, found);
        return false;
    }
    if (found > 1)
        qsort(repos, found, sizeof *repos, compare_repos);
    *out = repos;
    *count = found;
    return true;
}

void hugging_face_repos_free(struct hugging_face_repo *repos, size_t count)
{
    for (size_t i = 0; i < count; i++)
        finish_repo(&repos[i]);
    free(repos);
}
