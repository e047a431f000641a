/* Attention: our own kernel where it fits, cuDNN's, or a general one, whichever is fastest for the
 * shape; wide heads (the VAE's) by two products. */
#include "backend/cuda/cuda_stream.h"

#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_choices.h"
#include "backend/cuda/cuda_dnn.h"
#include "backend/cuda/cuda_uploader.h"
#include "base/size.h"

#define WIDTH_MAX 128 /* of heads that the general kernel takes */
#define TIMED_RUNS 3
#define ENTRIES_MAX 512

enum attention_path { PATH_OWN, PATH_DNN, PATH_GENERAL };

/* Addresses are part of it: the plan of our own kernel knows them. Views are compared as bytes. */
struct attention_key {
    struct view out, q, k, v;
    float scale, score_limit;
};

struct attention_entry {
    struct attention_key key;
    enum attention_path path;
    struct attention_sm90_plan plan; /* of PATH_OWN */
};

/* Round robin: a request's few shapes stay, those of earlier requests go. */
struct attention_cache {
    struct attention_entry entries[ENTRIES_MAX];
    int count, next;
};

bool attention_cache_create(struct attention_cache **out, struct error *err)
{
    *out = calloc(1, sizeof **out);
    return *out || error_set(err, ERROR_NO_MEMORY, "no memory for attention");
}

void attention_cache_destroy(struct attention_cache *cache)
{
    free(cache);
}

/* --- Paths --- */

static bool run_path(struct stream *stream, const struct attention_entry *entry)
{
    const struct attention_key *key = &entry->key;
    struct view none = {0};
    struct error err;

    switch (entry->path) {
    case PATH_OWN:
        return stream_check(stream, kernel_attention_sm90(stream_now(stream), &entry->plan),
                            "attention");
    case PATH_DNN:
        if (dnn_attention(stream->dnn, stream_now(stream), stream_workspace(stream),
                          WORKSPACE_BYTES, &key->out, &key->q, &key->k, &key->v, key->scale, &err))
            return true;
        stream_fail(stream, err.code, "%s", err.message);
        return false;
    case PATH_GENERAL:
        return stream_check(stream,
                            kernel_attention(stream_now(stream), &key->out, &key->q, &key->k,
                                             &key->v, key->scale, false, &none),
                            "attention");
    }
    return false;
}

static float time_path(struct stream *stream, const struct attention_entry *entry)
{
    cudaEvent_t begin, end;
    float best = -1.0f;

    if (!stream_check(stream, cudaEventCreate(&begin), "timing attention"))
        return -1.0f;
    if (!stream_check(stream, cudaEventCreate(&end), "timing attention")) {
        cudaEventDestroy(begin);
        return -1.0f;
    }
    for (int run = 0; run <= TIMED_RUNS; run++) {
        float ms;

        cudaEventRecord(begin, stream_now(stream));
        if (!run_path(stream, entry))
            break;
        cudaEventRecord(end, stream_now(stream));
        if (!stream_check(stream, cudaEventSynchronize(end), "attention") ||
            cudaEventElapsedTime(&ms, begin, end) != cudaSuccess)
            break;
        if (run > 0 && (best < 0.0f || ms < best))
            best = ms;
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return best;
}

static bool can_run_own(const struct attention_key *key)
{
    return cuda_device.capability == 90 && cuda_device.encode_tiled &&
           kernel_attention_sm90_fits(&key->out, &key->q, &key->k, &key->v);
}

static bool can_run_dnn(const struct stream *stream, const struct attention_key *key)
{
    return stream->dnn && cuda_device.capability >= 80 &&
           dnn_attention_fits(stream->dnn, &key->out, &key->q, &key->k, &key->v);
}

/* What the faster of two paths depends on; the same for all layers of a network, so it is timed for
 * one of them. int64_t only: it is kept and compared as bytes. */
struct path_key {
    struct {
        int64_t dim[4], stride[4], alignment;
    } part[4]; /* out, q, k, v */
    int64_t type, has_own, own_is_online;
};

static struct path_key path_key_of(const struct attention_entry *entry)
{
    const struct attention_key *key = &entry->key;
    const struct view *views[4] = {&key->out, &key->q, &key->k, &key->v};
    bool has_own = entry->path == PATH_OWN;
    struct path_key made = {
        .type = key->q.type,
        .has_own = has_own,
        .own_is_online = has_own && kernel_attention_sm90_is_online(&entry->plan),
    };

    for (int i = 0; i < 4; i++) {
        memcpy(made.part[i].dim, views[i]->dim, sizeof made.part[i].dim);
        memcpy(made.part[i].stride, views[i]->stride, sizeof made.part[i].stride);
        made.part[i].alignment = (int64_t)((uintptr_t)views[i]->data & 255);
    }
    return made;
}

/* cuDNN's path, or the entry's own, whichever is faster. */
static void choose_faster(struct stream *stream, struct attention_entry *entry)
{
    const struct path_key key = path_key_of(entry);
    struct attention_entry dnn = *entry;
    unsigned char takes_dnn;
    const unsigned char *kept;
    float own_ms = -1.0f, dnn_ms;
    size_t size;

    kept = choice_file_find(stream->choices, CHOICE_ATTENTION, &key, sizeof key, &size);
    dnn.path = PATH_DNN;
    if (kept && size == 1 && *kept <= 1) {
        entry->path = *kept ? PATH_DNN : entry->path;
        return;
    }
    if (entry->path == PATH_OWN)
        own_ms = time_path(stream, entry);
    dnn_ms = time_path(stream, &dnn);
    /* Noise must not decide, or a picture would change from start to start. */
    takes_dnn = dnn_ms >= 0.0f && (own_ms < 0.0f || dnn_ms < 0.95f * own_ms);
    if (takes_dnn)
        entry->path = PATH_DNN;
    if (!stream->has_failed)
        choice_file_add(stream->choices, CHOICE_ATTENTION, &key, sizeof key, &takes_dnn, 1);
}

static void choose_path(struct stream *stream, struct attention_entry *entry)
{
    const struct attention_key *key = &entry->key;

    entry->path = PATH_GENERAL;
    if (can_run_own(key) &&
        stream_check(stream,
                     kernel_attention_sm90_plan(&entry->plan, cuda_device.encode_tiled, &key->out,
                                                &key->q, &key->k, &key->v, key->scale,
                                                key->score_limit, cuda_device.multiprocessors),
                     "planning attention"))
        entry->path = PATH_OWN;
    if (can_run_dnn(stream, key))
        choose_faster(stream, entry);
}

/* --- Heads wider than a kernel's registers --- */

struct wide_part {
    struct tensor out, q, k, v; /* [T, D] of one head */
};

/* Scores of a piece of queries in f32, their softmax in f after them, all in the scratch. */
static void attend_wide(struct stream *stream, const struct wide_part *part, float scale)
{
    int64_t queries = part->q.dim[0], keys = part->k.dim[0], width = part->q.dim[1];
    size_t row = (size_t)keys * (sizeof(float) + dtype_size(cuda_device.f));
    int64_t step = (int64_t)(DECODED_BYTES / row) & ~INT64_C(7);
    enum view_type f = view_type_of(cuda_device.f);
    float *scores = stream_decoded(stream);

    if (step < 8) {
        stream_fail(stream, ERROR_BACKEND, "attention over %lld keys in one head is too large",
                    (long long)keys);
        return;
    }
    for (int64_t first = 0; first < queries; first += step) {
        int64_t count = min_i64(step, queries - first);
        struct tensor score = TENSOR_OF(scores, DTYPE_F32, count, keys);
        struct tensor share = TENSOR_OF(scores + step * keys, cuda_device.f, count, keys);
        struct view score_view = view_of(&score), share_view = view_of(&share);
        struct tensor q = tensor_slice(&part->q, 0, first, count);
        struct tensor out = tensor_slice(&part->out, 0, first, count);

        cuda_plain_product(stream, &(struct plain_product){.out = scores,
                                                           .x = q.data,
                                                           .w = part->k.data,
                                                           .m = count,
                                                           .n = keys,
                                                           .k = width,
                                                           .out_stride = keys,
                                                           .x_stride = q.stride[0],
                                                           .w_stride = part->k.stride[0],
                                                           .type = f,
                                                           .out_type = VIEW_F32});
        stream_check(stream,
                     kernel_softmax_rows(stream_now(stream), &share_view, &score_view, scale),
                     "softmax");
        cuda_plain_product(stream, &(struct plain_product){.out = out.data,
                                                           .x = share.data,
                                                           .w = part->v.data,
                                                           .m = count,
                                                           .n = width,
                                                           .k = keys,
                                                           .out_stride = out.stride[0],
                                                           .x_stride = keys,
                                                           .w_stride = part->v.stride[0],
                                                           .type = f,
                                                           .out_type = f,
                                                           .w_is_turned = true});
    }
}

/* [T, D] of sample b and head n. */
static struct tensor head_of(const struct tensor *tensor, int64_t b, int64_t n)
{
    struct tensor head = {
        .dtype = tensor->dtype,
        .rank = 2,
        .dim = {tensor->dim[1], tensor->dim[3]},
        .stride = {tensor->stride[1], tensor->stride[3]},
        .data = (char *)tensor->data +
                (size_t)(b * tensor->stride[0] + n * tensor->stride[2]) * dtype_size(tensor->dtype),
    };

    return head;
}

static void attend_wide_heads(struct stream *stream, const struct tensor *out,
                              const struct tensor *q, const struct tensor *k,
                              const struct tensor *v, float scale)
{
    for (int64_t b = 0; b < q->dim[0]; b++)
        for (int64_t n = 0; n < q->dim[2]; n++) {
            struct wide_part part = {head_of(out, b, n), head_of(q, b, n), head_of(k, b, n),
                                     head_of(v, b, n)};

            attend_wide(stream, &part, scale);
        }
}

/* --- The op --- */

static bool is_same(const struct attention_key *a, const struct attention_key *b)
{
    return memcmp(&a->out, &b->out, sizeof a->out) == 0 && memcmp(&a->q, &b->q, sizeof a->q) == 0 &&
           memcmp(&a->k, &b->k, sizeof a->k) == 0 && memcmp(&a->v, &b->v, sizeof a->v) == 0 &&
           a->scale == b->scale && a->score_limit == b->score_limit;
}

static const struct attention_entry *entry_for(struct stream *stream,
                                               const struct attention_key *key)
{
    struct attention_cache *cache = stream->attentions;
    struct attention_entry *entry;

    for (int i = 0; i < cache->count; i++)
        if (is_same(&cache->entries[i].key, key))
            return &cache->entries[i];
    if (stream->is_recording) {
        stream_fail(stream, ERROR_BACKEND, "attention's shape was first met while recording");
        return NULL;
    }
    entry = &cache->entries[cache->next];
    cache->next = (cache->next + 1) % ENTRIES_MAX;
    if (cache->count < ENTRIES_MAX)
        cache->count++;
    memset(entry, 0, sizeof *entry);
    entry->key = *key;
    choose_path(stream, entry);
    if (stream->has_failed) { /* what was chosen then is not to last */
        memset(entry, 0, sizeof *entry);
        return NULL;
    }
    return entry;
}

void cuda_attention(struct stream *stream, struct tensor *out, const struct tensor *q,
                    const struct tensor *k, const struct tensor *v,
                    const struct attention_options *options)
{
    bool is_plain = !options->is_causal && !options->bias;
    struct attention_key key;
    const struct attention_entry *entry;
    struct view bias = {0};

    if (stream_skips(stream))
        return;
    if (is_plain && q->dim[3] > WIDTH_MAX) {
        attend_wide_heads(stream, out, q, k, v, options->scale);
        return;
    }
    key = (struct attention_key){.out = view_of(out),
                                 .q = view_of(q),
                                 .k = view_of(k),
                                 .v = view_of(v),
                                 .scale = options->scale,
                                 .score_limit = options->score_limit};
    if (!is_plain) {
        if (options->bias)
            bias = view_of(options->bias);
        stream_check(stream,
                     kernel_attention(stream_now(stream), &key.out, &key.q, &key.k, &key.v,
                                      options->scale, options->is_causal, &bias),
                     "attention");
        return;
    }
    entry = entry_for(stream, &key);
    if (entry)
        run_path(stream, entry);
}
