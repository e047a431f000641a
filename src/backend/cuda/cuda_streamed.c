#include "backend/cuda/cuda_streamed.h"

#include <assert.h>
#include <stdlib.h>

#include "backend/cuda/cuda_weight_form.h"
#include "backend/cuda/cuda_weight_table.h"
#include "base/size.h"

/* Each takes memory of the device for pieces on their way, of which there is little here. */
#define PREPARE_THREADS_MAX 3

struct streamed_group {
    size_t first, count; /* of the entries */
    size_t bytes;
    char *host; /* pinned */
};

/* A capture knows no events of outside, and leaves those alone. */
enum side { SIDE_OUTSIDE, SIDE_INSIDE, SIDES };

struct streamed_events {
    cudaEvent_t reached; /* how far the products are, on branch 0 */
    cudaEvent_t copied[STREAMED_SLOTS];
    bool has_copied[STREAMED_SLOTS];
};

struct streamed_weights {
    struct streamed_weights *next_of_stream;
    struct streamed_group *groups;
    size_t group_count;
    struct weight_copy *entries; /* as they lie in the first slot */
    char *slots;
    size_t slot_bytes;
    cudaStream_t copies;
    struct streamed_events events[SIDES];
    struct streamed_state now;
    struct streamed_state suspended; /* while recording, what is true outside */
    size_t recorded_first;
};

static const struct streamed_state unknown = {{STREAMED_NONE, STREAMED_NONE}, -1};

/* --- Making them --- */

static size_t group_bytes(const struct weight_request *requests, size_t first, size_t end)
{
    return cuda_weights_bytes(requests + first, end - first);
}

void cuda_weights_stream_bytes(const struct weight_request *requests, const size_t *group_end,
                               size_t group_count, size_t *device_bytes, size_t *host_bytes)
{
    size_t largest = 0;

    *host_bytes = 0;
    for (size_t g = 0; g < group_count; g++) {
        size_t bytes = group_bytes(requests, g > 0 ? group_end[g - 1] : 0, group_end[g]);

        *host_bytes += bytes;
        if (bytes > largest)
            largest = bytes;
    }
    *device_bytes = STREAMED_SLOTS * largest;
}

/* A half-made one, too. */
static void destroy(struct streamed_weights *streamed)
{
    for (int side = 0; side < SIDES; side++) {
        struct streamed_events *events = &streamed->events[side];

        if (events->reached)
            cudaEventDestroy(events->reached);
        for (int slot = 0; slot < STREAMED_SLOTS; slot++)
            if (events->copied[slot])
                cudaEventDestroy(events->copied[slot]);
    }
    if (streamed->copies)
        cudaStreamDestroy(streamed->copies);
    for (size_t g = 0; streamed->groups && g < streamed->group_count; g++)
        cudaFreeHost(streamed->groups[g].host);
    cudaFree(streamed->slots);
    free(streamed->groups);
    free(streamed->entries);
    free(streamed);
}

/* Where everything lies; takes no memory for weights yet. */
static bool plan(struct streamed_weights *streamed, const struct weight_request *requests,
                 const size_t *group_end, size_t group_count, struct error *err)
{
    size_t count = group_count > 0 ? group_end[group_count - 1] : 0, i = 0, device, host;

    streamed->groups = calloc(group_count + 1, sizeof *streamed->groups);
    streamed->entries = calloc(count + 1, sizeof *streamed->entries);
    if (!streamed->groups || !streamed->entries)
        return error_set(err, ERROR_NO_MEMORY, "no memory for streamed weights");
    streamed->group_count = group_count;
    streamed->now = unknown;
    cuda_weights_stream_bytes(requests, group_end, group_count, &device, &host);
    streamed->slot_bytes = device / STREAMED_SLOTS;
    for (size_t g = 0; g < group_count; g++) {
        struct streamed_group *group = &streamed->groups[g];

        assert(group_end[g] >= i);
        group->first = i;
        group->count = group_end[g] - i;
        group->bytes = group_bytes(requests, i, group_end[g]);
        i = group_end[g];
    }
    return true;
}

static bool take_memory(struct streamed_weights *streamed, struct error *err)
{
    size_t total = 0, taken = 0;
    cudaError_t status =
        cudaMalloc((void **)&streamed->slots, STREAMED_SLOTS * streamed->slot_bytes + WEIGHT_ALIGN);

    if (status != cudaSuccess) {
        fail_cuda(err, status, "memory for streamed weights");
        if (status == cudaErrorMemoryAllocation)
            error_set(err, ERROR_NO_MEMORY, "the device has no room for %zu MiB of weights",
                      STREAMED_SLOTS * streamed->slot_bytes >> 20);
        return false;
    }
    for (size_t g = 0; g < streamed->group_count; g++)
        total += streamed->groups[g].bytes;
    for (size_t g = 0; g < streamed->group_count; g++) {
        struct streamed_group *group = &streamed->groups[g];

        status =
            cudaHostAlloc((void **)&group->host, group->bytes + WEIGHT_ALIGN, cudaHostAllocDefault);
        if (status != cudaSuccess) {
            fail_cuda(err, status, "pinned memory for streamed weights");
            if (status == cudaErrorMemoryAllocation)
                error_set(err, ERROR_NO_MEMORY,
                          "the machine has no room for %zu MiB of pinned memory, where weights "
                          "wait for their turn on the device: it ended after %zu MiB",
                          total >> 20, taken >> 20);
            return false;
        }
        taken += group->bytes;
    }
    return true;
}

static bool create_events(struct streamed_weights *streamed, struct error *err)
{
    cudaError_t status = cudaStreamCreateWithFlags(&streamed->copies, cudaStreamNonBlocking);

    for (int side = 0; side < SIDES && status == cudaSuccess; side++) {
        struct streamed_events *events = &streamed->events[side];

        status = cudaEventCreateWithFlags(&events->reached, cudaEventDisableTiming);
        for (int slot = 0; slot < STREAMED_SLOTS && status == cudaSuccess; slot++)
            status = cudaEventCreateWithFlags(&events->copied[slot], cudaEventDisableTiming);
    }
    return status == cudaSuccess || fail_cuda(err, status, "streaming weights");
}

struct preparation {
    const struct weight_request *requests;
    char **hosts;         /* [request] */
    char *staging;        /* on the device, a part for each thread */
    size_t staging_bytes; /* of a part */
};

/* By way of the device, which has the form that it wants made. */
static void prepare_one(struct uploader *uploader, void *context, int thread, size_t index)
{
    struct preparation *preparation = context;
    char *staging = preparation->staging + (size_t)thread * preparation->staging_bytes;
    struct device_weight weight;
    size_t bytes = weight_place(&weight, staging, &preparation->requests[index]);

    weight_upload(uploader, &weight, &preparation->requests[index]);
    upload_back(uploader, preparation->hosts[index], staging, bytes);
}

/* Each request's places, in the first slot and in its group's host memory. Returns the bytes of the
 * largest. */
static size_t place_entries(struct streamed_weights *streamed,
                            const struct weight_request *requests, char **hosts)
{
    size_t largest = 0;

    for (size_t g = 0; g < streamed->group_count; g++) {
        const struct streamed_group *group = &streamed->groups[g];
        size_t used = 0;

        for (size_t i = group->first; i < group->first + group->count; i++) {
            struct weight_copy *entry = &streamed->entries[i];
            size_t bytes = weight_place(&entry->weight, streamed->slots + used, &requests[i]);

            entry->key = weight_request_key(&requests[i]);
            entry->owner = streamed;
            hosts[i] = group->host + used;
            used += bytes;
            if (bytes > largest)
                largest = bytes;
        }
    }
    return largest;
}

/* The slots serve as staging: there is room for two of any request. */
static bool prepare(struct streamed_weights *streamed, const struct weight_request *requests,
                    size_t count, struct error *err)
{
    struct preparation preparation = {
        .requests = requests,
        .hosts = calloc(count + 1, sizeof *preparation.hosts),
        .staging = streamed->slots,
    };
    struct upload_work work = {
        .upload = prepare_one, .context = &preparation, .count = count, .threads_max = 1};
    bool ok;

    if (!preparation.hosts)
        return error_set(err, ERROR_NO_MEMORY, "no memory for streamed weights");
    preparation.staging_bytes = place_entries(streamed, requests, preparation.hosts);
    if (preparation.staging_bytes > 0)
        work.threads_max =
            (int)min_i64(PREPARE_THREADS_MAX, (int64_t)(STREAMED_SLOTS * streamed->slot_bytes /
                                                        preparation.staging_bytes));
    ok = uploaders_run(&work, err);
    free(preparation.hosts);
    return ok;
}

bool cuda_weights_stream(struct stream *stream, struct streamed_weights **out,
                         const struct weight_request *requests, const size_t *group_end,
                         size_t group_count, struct error *err)
{
    struct streamed_weights *streamed = calloc(1, sizeof *streamed);

    if (!streamed)
        return error_set(err, ERROR_NO_MEMORY, "no memory for streamed weights");
    if (!plan(streamed, requests, group_end, group_count, err) || !take_memory(streamed, err) ||
        !create_events(streamed, err) ||
        !prepare(streamed, requests, group_count > 0 ? group_end[group_count - 1] : 0, err)) {
        destroy(streamed);
        return false;
    }
    streamed->next_of_stream = stream->streamed;
    stream->streamed = streamed;
    *out = streamed;
    return true;
}

/* --- Entering and leaving --- */

static struct streamed_events *events_now(const struct stream *stream,
                                          struct streamed_weights *streamed)
{
    return &streamed->events[stream->is_recording ? SIDE_INSIDE : SIDE_OUTSIDE];
}

/* -1: in none. */
static int slot_with(const struct streamed_weights *streamed, size_t group)
{
    for (int slot = 0; slot < STREAMED_SLOTS; slot++)
        if (streamed->now.group[slot] == group)
            return slot;
    return -1;
}

static char *slot_address(const struct streamed_weights *streamed, int slot)
{
    return streamed->slots + (size_t)slot * streamed->slot_bytes;
}

/* Copies a group to a slot once all that was enqueued on branch 0 is done, and with it what used
 * the slot before. */
static void copy_to_slot(struct stream *stream, struct streamed_weights *streamed, size_t group,
                         int slot)
{
    struct streamed_events *events = events_now(stream, streamed);
    const struct streamed_group *from = &streamed->groups[group];
    int other = slot_with(streamed, group);
    const char *source = other < 0 ? from->host : slot_address(streamed, other);
    enum cudaMemcpyKind kind = other < 0 ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToDevice;
    cudaError_t status = cudaEventRecord(events->reached, stream->branches[0]);

    if (status == cudaSuccess)
        status = cudaStreamWaitEvent(streamed->copies, events->reached, 0);
    if (status == cudaSuccess && from->bytes > 0)
        status = cudaMemcpyAsync(slot_address(streamed, slot), source, from->bytes, kind,
                                 streamed->copies);
    if (status == cudaSuccess)
        status = cudaEventRecord(events->copied[slot], streamed->copies);
    streamed->now.group[slot] = status == cudaSuccess ? group : STREAMED_NONE;
    events->has_copied[slot] = events->has_copied[slot] || status == cudaSuccess;
    stream_check(stream, status, "copying streamed weights");
}

/* What follows on branch 0 waits for the slot's copy, if one was made on this side of a capture. */
static void wait_for_slot(struct stream *stream, struct streamed_weights *streamed, int slot)
{
    struct streamed_events *events = events_now(stream, streamed);

    if (events->has_copied[slot])
        stream_check(stream, cudaStreamWaitEvent(stream->branches[0], events->copied[slot], 0),
                     "waiting for streamed weights");
}

static void shift(struct device_weight *weight, size_t bytes)
{
    weight->data = (char *)weight->data + bytes;
    if (weight->scale)
        weight->scale = (float *)((char *)weight->scale + bytes);
    if (weight->bound)
        weight->bound = (float *)((char *)weight->bound + bytes);
    if (weight->bias)
        weight->bias = (char *)weight->bias + bytes;
}

/* Ops find the group in its slot from now on; what others have copies of they find there. */
static void enter_slot(struct stream *stream, struct streamed_weights *streamed, int slot)
{
    struct weight_table *table = weight_store_table_of(stream->weights);
    const struct streamed_group *group = &streamed->groups[streamed->now.group[slot]];

    streamed->now.entered = slot;
    for (size_t i = group->first; i < group->first + group->count; i++) {
        struct weight_copy copy = streamed->entries[i];

        shift(&copy.weight, (size_t)slot * streamed->slot_bytes);
        if (!weight_table_find(table, &copy.key) && !weight_table_add(table, &copy))
            stream_fail(stream, ERROR_NO_MEMORY, "no memory for streamed weights");
    }
}

static void leave(struct stream *stream, struct streamed_weights *streamed)
{
    struct weight_table *table = weight_store_table_of(stream->weights);
    const struct streamed_group *group;

    if (streamed->now.entered < 0)
        return;
    group = &streamed->groups[streamed->now.group[streamed->now.entered]];
    for (size_t i = group->first; i < group->first + group->count; i++)
        weight_table_remove(table, &streamed->entries[i].key, streamed);
    streamed->now.entered = -1;
}

/* The slot for a group that is in none: not the one with the group that comes next. */
static int choose_slot(const struct streamed_weights *streamed, int left, size_t next)
{
    int with_next = next < streamed->group_count ? slot_with(streamed, next) : -1;

    if (with_next >= 0)
        return 1 - with_next;
    return left >= 0 ? 1 - left : 0;
}

/* The first group of a recording lies in the first slot by then. False: the stream has failed. */
static bool begin_in_recording(struct stream *stream, struct streamed_weights *streamed,
                               size_t group)
{
    if (stream->recorded && stream->recorded != streamed) {
        stream_fail(stream, ERROR_BACKEND, "a recording with weights of two streams");
        return false;
    }
    if (!stream->recorded) {
        stream->recorded = streamed;
        streamed->recorded_first = group;
        streamed->now.group[0] = group;
    }
    return true;
}

void cuda_weights_enter(struct stream *stream, struct streamed_weights *streamed, size_t group,
                        size_t next)
{
    int left = streamed->now.entered, slot;

    if (stream_skips(stream))
        return;
    if (group >= streamed->group_count) {
        stream_fail(stream, ERROR_BACKEND, "there is no group %zu of streamed weights", group);
        return;
    }
    cuda_join(stream);
    if (stream->has_failed ||
        (stream->is_recording && !begin_in_recording(stream, streamed, group)))
        return;
    slot = slot_with(streamed, group);
    if (slot != left || slot < 0) {
        leave(stream, streamed);
        if (slot < 0) {
            slot = choose_slot(streamed, left, next);
            copy_to_slot(stream, streamed, group, slot);
        }
        if (stream->has_failed)
            return;
        wait_for_slot(stream, streamed, slot);
        enter_slot(stream, streamed, slot);
    }
    if (next < streamed->group_count && slot_with(streamed, next) < 0)
        copy_to_slot(stream, streamed, next, 1 - slot);
}

void cuda_weights_unstream(struct stream *stream, struct streamed_weights *streamed)
{
    struct streamed_weights **at = &stream->streamed;

    if (!streamed)
        return;
    cudaStreamSynchronize(stream->branches[0]);
    cudaStreamSynchronize(streamed->copies);
    leave(stream, streamed);
    while (*at != streamed)
        at = &(*at)->next_of_stream;
    *at = streamed->next_of_stream;
    destroy(streamed);
}

/* --- Recordings --- */

void streamed_record_begin(struct stream *stream)
{
    struct streamed_weights *streamed = stream->streamed;

    stream->recorded = NULL;
    for (; streamed; streamed = streamed->next_of_stream) {
        leave(stream, streamed);
        streamed->suspended = streamed->now;
        streamed->now = unknown;
        for (int slot = 0; slot < STREAMED_SLOTS; slot++)
            streamed->events[SIDE_INSIDE].has_copied[slot] = false;
    }
}

void streamed_record_end(struct stream *stream, struct streamed_recording *recording)
{
    struct streamed_weights *streamed = stream->recorded;

    *recording = (struct streamed_recording){.streamed = streamed};
    if (streamed) {
        leave(stream, streamed);
        for (int slot = 0; slot < STREAMED_SLOTS; slot++)
            wait_for_slot(stream, streamed, slot);
        recording->first = streamed->recorded_first;
        recording->after = streamed->now;
    }
    for (streamed = stream->streamed; streamed; streamed = streamed->next_of_stream)
        streamed->now = streamed->suspended;
}

void streamed_replay_begin(struct stream *stream, const struct streamed_recording *recording)
{
    struct streamed_weights *streamed = recording->streamed;

    if (!streamed)
        return;
    leave(stream, streamed);
    if (streamed->now.group[0] != recording->first)
        copy_to_slot(stream, streamed, recording->first, 0);
    for (int slot = 0; slot < STREAMED_SLOTS; slot++)
        wait_for_slot(stream, streamed, slot);
}

void streamed_replay_end(const struct streamed_recording *recording)
{
    if (recording->streamed)
        recording->streamed->now = recording->after;
}
