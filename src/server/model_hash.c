#include "server/model_hash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/attributes.h"
#include "base/file.h"
#include "server/log.h"

#define SETTING "model.sha256"
#define HASH_DIGITS 64
#define READ_BYTES (1 << 20)
#define POLL_MS 200
#define TRANSFORMER "transformer"
#define FILES_MAX 64

struct model_hash {
    struct hub *hub;
    struct model_hash_files files;
    pthread_t thread;
    atomic_bool is_stopping;
};

/* --- Files --- */

void model_hash_files_finish(struct model_hash_files *files)
{
    for (int i = 0; i < files->count; i++)
        free(files->paths[i]);
    free(files->paths);
    *files = (struct model_hash_files){0};
}

/* Takes the path. */
static bool add_file(struct model_hash_files *files, char *path)
{
    char **grown = path ? realloc(files->paths, ((size_t)files->count + 1) * sizeof *grown) : NULL;

    if (!grown) {
        free(path);
        return false;
    }
    files->paths = grown;
    files->paths[files->count++] = path;
    return true;
}

/* Those of the folder whose names fit, in the order of their names. */
static bool add_matching(struct model_hash_files *files, const char *folder, const char *pattern)
{
    struct dirent **names;
    int count = scandir(folder, &names, NULL, alphasort);
    bool ok = true;

    for (int i = 0; i < count; i++) {
        if (fnmatch(pattern, names[i]->d_name, 0) == 0)
            ok = ok && files->count < FILES_MAX &&
                 add_file(files, file_join(folder, names[i]->d_name));
        free(names[i]);
    }
    if (count >= 0)
        free(names);
    return ok;
}

/* As model_files_open looks for them: one file, or its parts, before other variants. */
static bool add_transformer(struct model_hash_files *files, const char *folder)
{
    static const char *const patterns[] = {
        "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-*-of-*.safetensors",
        "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bf16.safetensors"};
    bool ok = true;

    for (size_t i = 0; ok && files->count == 0 && i < COUNT_OF(patterns); i++)
        ok = add_matching(files, folder, patterns[i]);
    return ok;
}

bool model_hash_files_find(struct model_hash_files *out, const char *model)
{
    char *folder;
    bool ok;

    *out = (struct model_hash_files){0};
    if (file_is_directory(model)) {
        folder = file_join(model, TRANSFORMER);
        ok = folder && add_transformer(out, folder);
        free(folder);
    } else {
        ok = add_file(out, strdup(model));
    }
    if (!ok)
        model_hash_files_finish(out);
    return ok;
}

static bool is_hash(const char *text)
{
    return strlen(text) == HASH_DIGITS && strspn(text, "0123456789abcdef") == HASH_DIGITS;
}

bool model_hash_of_link(char out[65], const char *file)
{
    char target[PATH_MAX];
    ssize_t size = readlink(file, target, sizeof target - 1);
    const char *name;

    if (size < 0)
        return false;
    target[size] = '\0';
    name = strrchr(target, '/');
    if (!name || name - target < (ptrdiff_t)strlen("/blobs") ||
        memcmp(name - strlen("/blobs"), "/blobs", strlen("/blobs")) != 0 || !is_hash(name + 1))
        return false;
    memcpy(out, name + 1, HASH_DIGITS + 1);
    return true;
}

/* --- Kept in the store, for the files as they were --- */

struct kept {
    const struct model_hash_files *files;
    struct stat status[FILES_MAX];
    char hash[HASH_DIGITS + 1]; /* "": none */
};

static bool look_at_files(struct kept *kept)
{
    for (int i = 0; i < kept->files->count; i++)
        if (stat(kept->files->paths[i], &kept->status[i]) != 0)
            return false;
    return true;
}

/* "<hash> <bytes> <seconds>.<nanoseconds> <path>", with the last three of each file. The caller
 * frees it; NULL: memory is short. */
static char *entry_of(const struct kept *kept)
{
    char *entry = NULL;
    size_t size;
    FILE *out = open_memstream(&entry, &size);

    if (!out)
        return NULL;
    fputs(kept->hash, out);
    for (int i = 0; i < kept->files->count; i++)
        fprintf(out, " %lld %lld.%09ld %s", (long long)kept->status[i].st_size,
                (long long)kept->status[i].st_mtim.tv_sec, kept->status[i].st_mtim.tv_nsec,
                kept->files->paths[i]);
    if (fclose(out) == 0)
        return entry;
    free(entry);
    return NULL;
}

static bool load(void *context, struct store *store, struct error *err)
{
    struct kept *kept = context;
    char *text = NULL, *entry;

    if (!store_get_setting(store, SETTING, &text, err))
        return false;
    if (text && strlen(text) > HASH_DIGITS) {
        memcpy(kept->hash, text, HASH_DIGITS);
        entry = entry_of(kept);
        if (!entry || !is_hash(kept->hash) || strcmp(entry, text) != 0)
            kept->hash[0] = '\0';
        free(entry);
    }
    free(text);
    return true;
}

static bool keep(void *context, struct store *store, struct error *err)
{
    char *entry = entry_of(context);
    bool ok = entry && store_set_setting(store, SETTING, entry, err);

    free(entry);
    return ok;
}

/* --- Computing --- */

static void pause_for(int ms)
{
    const struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

    nanosleep(&time, NULL);
}

/* Loading needs the disk more than we do. False: it is to stop. */
static bool wait_for_worker(struct model_hash *hash)
{
    struct hub_state state;

    for (hub_state(hash->hub, &state); state.workers_ready == 0; hub_state(hash->hub, &state)) {
        if (atomic_load(&hash->is_stopping))
            return false;
        pause_for(POLL_MS);
    }
    return true;
}

static bool add_open_file(struct model_hash *hash, int fd, unsigned char *bytes,
                          crypto_hash_sha256_state *state)
{
    ssize_t size;

    while ((size = read(fd, bytes, READ_BYTES)) != 0) {
        if (atomic_load(&hash->is_stopping) || (size < 0 && errno != EINTR))
            return false;
        if (size > 0)
            crypto_hash_sha256_update(state, bytes, (unsigned long long)size);
    }
    return true;
}

static bool add_contents(struct model_hash *hash, const char *path, crypto_hash_sha256_state *state)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    unsigned char *bytes = malloc(READ_BYTES);
    bool ok = fd >= 0 && bytes && add_open_file(hash, fd, bytes, state);

    free(bytes);
    if (fd >= 0)
        close(fd);
    return ok;
}

/* False: a file cannot be read, or it is to stop. */
static bool hash_files(struct model_hash *hash, struct kept *kept)
{
    unsigned char digest[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_state state;

    crypto_hash_sha256_init(&state);
    for (int i = 0; i < kept->files->count; i++)
        if (!add_contents(hash, kept->files->paths[i], &state))
            return false;
    crypto_hash_sha256_final(&state, digest);
    sodium_bin2hex(kept->hash, sizeof kept->hash, digest, sizeof digest);
    return true;
}

/* From the link's name, the store, or the files themselves. */
static bool find(struct model_hash *hash, struct kept *kept)
{
    struct error err;

    if (hash->files.count == 1 && model_hash_of_link(kept->hash, hash->files.paths[0]))
        return true;
    if (!look_at_files(kept))
        return false;
    if (hub_with_store(hash->hub, load, kept, &err) && *kept->hash)
        return true;
    if (!wait_for_worker(hash) || !hash_files(hash, kept))
        return false;
    if (!hub_with_store(hash->hub, keep, kept, &err))
        log_event(LOG_WARNING, "model.hash_not_kept", "message=\"%s\"", err.message);
    return true;
}

static void *run(void *context)
{
    struct model_hash *hash = context;
    struct kept kept = {.files = &hash->files};

    /* Of this thread alone, on Linux. */
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), 19);
    if (find(hash, &kept)) {
        hub_set_model_hash(hash->hub, kept.hash);
        log_event(LOG_INFO, "model.hash", "sha256=%s", kept.hash);
    }
    return NULL;
}

bool model_hash_start(struct model_hash **out, struct hub *hub, const char *model,
                      struct error *err)
{
    struct model_hash *hash = calloc(1, sizeof *hash);
    int failure;

    *out = NULL;
    if (!hash)
        return error_set(err, ERROR_NO_MEMORY, "the model's hash");
    hash->hub = hub;
    if (!model_hash_files_find(&hash->files, model) || hash->files.count == 0) {
        model_hash_files_finish(&hash->files);
        free(hash); /* without files or memory there is no hash, which is fine */
        return true;
    }
    failure = pthread_create(&hash->thread, NULL, run, hash);
    if (failure) {
        error_set_errno(err, failure, "thread of the model's hash");
        model_hash_files_finish(&hash->files);
        free(hash);
        return false;
    }
    *out = hash;
    return true;
}

void model_hash_stop(struct model_hash *hash)
{
    if (!hash)
        return;
    atomic_store(&hash->is_stopping, true);
    pthread_join(hash->thread, NULL);
    model_hash_files_finish(&hash->files);
    free(hash);
}
