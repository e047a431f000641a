/* The model: opened as a worker does, and, where that fails, what a download left behind tells. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/machine_limits.h"
#include "check/checks.h"
#include "weights/json_text.h"
#include "weights/model_files.h"
#include "weights/shard_index.h"

#define GIBIBYTE 1073741824.0
#define START_BYTES 64
#define PAGE_BYTES_MAX (256 << 10) /* of what a website answers instead of the weights */
#define DEPTH_MAX 5                /* MODEL/.cache/huggingface/download/transformer/FILE */
#define ENTRIES_MAX 10000

/* What lies in a model's folder; the first of each kind, "" for none. */
struct traces {
    char pointer[PATH_MAX]; /* of Git LFS */
    char page[PATH_MAX];    /* a text under the name of weights */
    char partial[PATH_MAX]; /* *.incomplete, an empty file, a link to nothing */
    char index[PATH_MAX];   /* of shards, some of which are missing */
    char shard[NAME_MAX + 1];
    size_t shard_count, shards_missing;
    size_t weight_files; /* that are none of the above */
    bool is_of_the_hub;  /* downloaded by Hugging Face's tools */
    int entries_left;
};

static void note_path(char noted[PATH_MAX], const char *path)
{
    if (!*noted)
        snprintf(noted, PATH_MAX, "%s", path);
}

static bool ends_with(const char *text, const char *ending)
{
    size_t length = strlen(text), tail = strlen(ending);

    return length >= tail && strcmp(text + length - tail, ending) == 0;
}

/* --- Files --- */

/* A safetensors file begins with a length of eight bytes, some of them 0; so do other formats. */
static bool is_text(const unsigned char *start, size_t size)
{
    for (size_t i = 0; i < size && i < 8; i++)
        if (!isprint(start[i]) && !isspace(start[i]))
            return false;
    return size > 0;
}

/* A file under the name of weights. */
static void look_at_weights(struct traces *traces, const char *path)
{
    static const char pointer[] = "version https://git-lfs";
    unsigned char start[START_BYTES];
    struct stat st;
    ssize_t size;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        if (errno == ENOENT) /* a link into the cache's blobs */
            note_path(traces->partial, path);
        return;
    }
    size = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? read(fd, start, sizeof start) : -1;
    close(fd);
    if (size < 0)
        return;
    if (size == 0)
        note_path(traces->partial, path);
    else if ((size_t)size >= sizeof pointer - 1 && memcmp(start, pointer, sizeof pointer - 1) == 0)
        note_path(traces->pointer, path);
    else if (st.st_size <= PAGE_BYTES_MAX && is_text(start, (size_t)size))
        note_path(traces->page, path);
    else
        traces->weight_files++;
}

/* Which of the index's files are not beside it. */
static void look_at_index(struct traces *traces, const char *path)
{
    const int folder = (int)(strrchr(path, '/') ? strrchr(path, '/') - path : 0);
    struct shard_index *index;
    unsigned char *bytes;
    size_t size;

    if (*traces->index || !file_read(&bytes, &size, path, JSON_TEXT_BYTES_MAX, NULL))
        return;
    if (shard_index_parse(&index, bytes, size, path, NULL)) {
        for (size_t i = 0; i < index->shard_count; i++) {
            char shard[PATH_MAX];

            snprintf(shard, sizeof shard, "%.*s/%s", folder, path, index->shard[i]);
            if (access(shard, F_OK) == 0)
                continue;
            if (traces->shards_missing++ == 0)
                snprintf(traces->shard, sizeof traces->shard, "%s", index->shard[i]);
        }
        if (traces->shards_missing > 0)
            note_path(traces->index, path);
        traces->shard_count = index->shard_count;
        shard_index_destroy(index);
    }
    free(bytes);
}

static void look_at_file(struct traces *traces, const char *path)
{
    if (ends_with(path, ".incomplete"))
        note_path(traces->partial, path);
    else if (ends_with(path, ".safetensors"))
        look_at_weights(traces, path);
    else if (ends_with(path, ".index.json"))
        look_at_index(traces, path);
}

/* --- Folders --- */

static void look_into(struct traces *traces, const char *folder, int depth)
{
    DIR *opened = depth < DEPTH_MAX ? opendir(folder) : NULL;
    struct dirent *entry;

    if (!opened)
        return;
    while ((entry = readdir(opened)) && traces->entries_left-- > 0) {
        char path[PATH_MAX];

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            (size_t)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= sizeof path)
            continue;
        if (file_is_directory(path)) {
            traces->is_of_the_hub |=
                strcmp(entry->d_name, "refs") == 0 || ends_with(path, "/.cache/huggingface");
            look_into(traces, path, depth + 1);
        } else {
            look_at_file(traces, path);
        }
    }
    closedir(opened);
}

/* models--ORG--NAME/snapshots/REVISION is a folder of links into models--ORG--NAME/blobs, where
 * what is half loaded lies. */
static void look_into_cache(struct traces *traces, const char *model)
{
    char *real = realpath(model, NULL);
    char *snapshots = real ? strstr(real, "/snapshots/") : NULL;

    if (snapshots && !strchr(snapshots + strlen("/snapshots/"), '/')) {
        char blobs[PATH_MAX];

        snprintf(blobs, sizeof blobs, "%.*s/blobs", (int)(snapshots - real), real);
        if (file_is_directory(blobs)) {
            traces->is_of_the_hub = true;
            look_into(traces, blobs, 0);
        }
    }
    free(real);
}

/* The first part of the model that has a folder without weights. */
static bool find_empty_part(char path[PATH_MAX], const char *model)
{
    for (int c = 0; c < COMPONENT_COUNT; c++) {
        const char *name = model_files_place((enum component)c)->folder;
        struct traces traces = {.entries_left = ENTRIES_MAX};

        if ((size_t)snprintf(path, PATH_MAX, "%s/%s", model, name) >= PATH_MAX ||
            !file_is_directory(path))
            continue;
        look_into(&traces, path, DEPTH_MAX - 1);
        if (traces.weight_files == 0)
            return true;
    }
    return false;
}

/* --- Telling --- */

static void tell_pointer(struct findings *findings, const char *path)
{
    char folder[PATH_MAX];
    char *slash;

    snprintf(folder, sizeof folder, "%s", path);
    slash = strrchr(folder, '/');
    if (slash && slash > folder)
        *slash = '\0';
    findings_add(findings, FINDING_FAIL, CHECK_MODEL_POINTERS, "path", path, "folder",
                 slash ? folder : ".", NULL);
}

static void tell_shards(struct findings *findings, const struct traces *traces)
{
    char missing[32], count[32];

    snprintf(missing, sizeof missing, "%zu", traces->shards_missing);
    snprintf(count, sizeof count, "%zu", traces->shard_count);
    findings_add(findings, FINDING_FAIL, CHECK_MODEL_SHARDS_MISSING, "path", traces->index,
                 "missing", missing, "count", count, "shard", traces->shard, NULL);
}

/* Why the file or folder at `path` is no model. False when nothing tells. */
static bool tell_traces(struct findings *findings, const char *path)
{
    struct traces traces = {.entries_left = ENTRIES_MAX};
    char part[PATH_MAX];
    const bool is_folder = file_is_directory(path);

    if (is_folder) {
        look_into(&traces, path, 0);
        look_into_cache(&traces, path);
    } else {
        look_at_weights(&traces, path);
    }
    if (*traces.pointer)
        tell_pointer(findings, traces.pointer);
    else if (*traces.page)
        findings_add(findings, FINDING_FAIL, CHECK_MODEL_GATED, "path", traces.page, NULL);
    else if (*traces.partial)
        findings_add(findings, FINDING_FAIL, CHECK_MODEL_PARTLY_DOWNLOADED, "path", traces.partial,
                     NULL);
    else if (traces.is_of_the_hub && traces.weight_files == 0)
        findings_add(findings, FINDING_FAIL, CHECK_MODEL_GATED, "path", path, NULL);
    else if (*traces.index)
        tell_shards(findings, &traces);
    else if (is_folder && find_empty_part(part, path))
        findings_add(findings, FINDING_FAIL, CHECK_MODEL_PART_MISSING, "path", part, NULL);
    else
        return false;
    return true;
}

bool check_model_path(struct findings *findings, const char *path)
{
    char user[32];
    struct stat st;
    bool is_folder, is_there = stat(path, &st) == 0;

    if (!is_there && (errno == ENOENT || errno == ENOTDIR)) {
        findings_add(findings, FINDING_FAIL,
                     lstat(path, &st) == 0 ? CHECK_MODEL_PARTLY_DOWNLOADED : CHECK_MODEL_MISSING,
                     "path", path, NULL);
        return false;
    }
    is_folder = is_there && S_ISDIR(st.st_mode);
    if (is_there && faccessat(AT_FDCWD, path, is_folder ? R_OK | X_OK : R_OK, AT_EACCESS) == 0)
        return true;
    snprintf(user, sizeof user, "%u:%u", (unsigned)geteuid(), (unsigned)getegid());
    findings_add(findings, FINDING_FAIL, CHECK_MODEL_UNREADABLE, "path", path, "user", user,
                 "message", strerror(errno), NULL);
    return false;
}

static void tell_failure(struct findings *findings, const struct pipeline_options *options,
                         const struct error *err)
{
    const char *const paths[] = {options->vae, options->clip_l, options->clip_g, options->t5,
                                 options->model};

    for (size_t i = 0; i < COUNT_OF(paths); i++)
        if (paths[i] && tell_traces(findings, paths[i]))
            return;
    findings_add(findings, FINDING_FAIL, CHECK_MODEL_DAMAGED, "message", err->message, "path",
                 options->model, NULL);
}

/* The plan of a picture against what machine and container allow. */
static void check_memory(struct findings *findings, const char *root, struct pipeline *pipeline,
                         const char *path)
{
    struct pipeline_request request;
    struct pipeline_memory memory;
    struct machine_limits limits;
    char need[32], limit[32], whole[32];
    enum check_row row = CHECK_MEMORY_ENOUGH;

    pipeline_request_defaults(pipeline, &request);
    request.prompt = "";
    if (!pipeline_estimate(pipeline, &request, &memory, NULL))
        return;
    machine_limits_read(&limits, *root ? root : NULL);
    if (memory.peak > limits.memory_bytes)
        row = limits.memory_group < limits.memory_total ? CHECK_MEMORY_SMALL_IN_CONTAINER
                                                        : CHECK_MEMORY_SMALL;
    snprintf(need, sizeof need, "%.1f", (double)memory.peak / GIBIBYTE);
    snprintf(limit, sizeof limit, "%.1f", (double)limits.memory_bytes / GIBIBYTE);
    snprintf(whole, sizeof whole, "%.0f", ceil((double)memory.peak / GIBIBYTE));
    findings_add(findings, row == CHECK_MEMORY_ENOUGH ? FINDING_OK : FINDING_NOTE, row, "need",
                 need, "limit", limit, "whole", whole, "path", path, NULL);
}

void check_model(struct findings *findings, const char *root,
                 const struct pipeline_options *options, bool draws_on_cpu)
{
    const char *const paths[] = {options->model,  options->vae, options->clip_l,
                                 options->clip_g, options->t5,  options->tokenizers};
    struct pipeline_options on_cpu = *options;
    struct pipeline *pipeline;
    struct pipeline_info info;
    struct error err;

    for (size_t i = 0; i < COUNT_OF(paths); i++)
        if (paths[i] && !check_model_path(findings, paths[i]))
            return;
    on_cpu.device = "cpu";
    on_cpu.cpu_level = NULL;
    on_cpu.to_8_bits = false;
    if (!pipeline_create(&pipeline, &on_cpu, &err)) {
        tell_failure(findings, options, &err);
        return;
    }
    pipeline_info(pipeline, &info);
    findings_add(findings, FINDING_OK, CHECK_MODEL_FOUND, "path", options->model, "variant",
                 info.variant, "types", info.weight_types, NULL);
    if (draws_on_cpu)
        check_memory(findings, root, pipeline, options->model);
    pipeline_destroy(pipeline);
}
