#include "backend/cuda/cuda_dnn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_choices.h"
#include "backend/cuda/cuda_dnn_engine.h"
#include "backend/cuda/cuda_dnn_plan.h"
#include "base/clock.h"

enum {
    CONFIGS_MAX = 16,   /* that are tried for a shape */
    CHOICE_SECONDS = 6, /* once there is one, no more are begun after so long: some get compiled */
    TIMED_RUNS = 3,
};

#define CLEARLY_FASTER 0.97f

/* A shape's plan, in a list with the latest used first. */
struct plan {
    struct plan *next;
    struct dnn_key key;
    struct dnn_graph graph;
    cudnnBackendDescriptor_t config, execution; /* NULL: no engine takes the graph */
    struct dnn_choice choice;
    char reason[256]; /* why no engine takes it */
};

struct dnn {
    const struct dnn_functions *dnn;
    cudnnHandle_t handle;
    cudaStream_t stream; /* that the handle has, if has_stream */
    bool has_stream;
    cudaEvent_t start, stop;
    struct choice_file *choices;
    struct plan *plans;
    int plan_count;
};

/* "CUDNN_STATUS_NOT_SUPPORTED (what cuDNN adds)", on one line. */
static void describe_status(const struct dnn_functions *dnn, cudnnStatus_t status, char *text,
                            size_t bytes)
{
    char detail[512] = "";

    dnn->cudnnGetLastErrorString(detail, sizeof detail);
    detail[sizeof detail - 1] = '\0';
    for (char *c = detail; *c; c++)
        if (*c == '\n' || *c == '\r' || *c == '\t')
            *c = ' ';
    snprintf(text, bytes, "%s%s%s%s", dnn->cudnnGetErrorString(status), *detail ? " (" : "", detail,
             *detail ? ")" : "");
}

static bool fail_dnn(const struct dnn *dnn, cudnnStatus_t status, const struct dnn_call *call,
                     const char *step, struct error *err)
{
    char text[640];

    (void)cudaGetLastError(); /* where others take over, their launch would find it */
    describe_status(dnn->dnn, status, text, sizeof text);
    return error_set(err, ERROR_BACKEND, "cuDNN: %s: %s failed: %s", call->text, step, text);
}

static bool fail_cuda(cudaError_t status, const struct dnn_call *call, const char *step,
                      struct error *err)
{
    (void)cudaGetLastError();
    return error_set(err, cuda_error_code(status), "cuDNN: %s: %s failed: %s", call->text, step,
                     cudaGetErrorString(status));
}

static void destroy_descriptor(const struct dnn_functions *dnn, cudnnBackendDescriptor_t descriptor)
{
    if (descriptor)
        dnn->cudnnBackendDestroyDescriptor(descriptor);
}

static void plan_destroy(const struct dnn *dnn, struct plan *plan)
{
    if (!plan)
        return;
    destroy_descriptor(dnn->dnn, plan->execution);
    destroy_descriptor(dnn->dnn, plan->config);
    dnn_graph_finish(&plan->graph);
    free(plan);
}

/* The plan with that key, now first in the list, or NULL. */
static struct plan *plan_find(struct dnn *dnn, const struct dnn_key *key)
{
    for (struct plan **link = &dnn->plans; *link; link = &(*link)->next) {
        struct plan *plan = *link;

        if (memcmp(&plan->key, key, sizeof *key) != 0)
            continue;
        *link = plan->next;
        plan->next = dnn->plans;
        dnn->plans = plan;
        return plan;
    }
    return NULL;
}

static void plan_keep(struct dnn *dnn, struct plan *plan)
{
    struct plan **link = &dnn->plans;

    if (dnn->plans && dnn->plan_count == DNN_PLANS_MAX) {
        while ((*link)->next)
            link = &(*link)->next;
        plan_destroy(dnn, *link);
        *link = NULL;
        dnn->plan_count--;
    }
    plan->next = dnn->plans;
    dnn->plans = plan;
    dnn->plan_count++;
}

/* Sets an attribute unless something failed before. */
static void set(const struct dnn_functions *dnn, cudnnStatus_t *status,
                cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    if (*status == CUDNN_STATUS_SUCCESS)
        *status = dnn->cudnnBackendSetAttribute(descriptor, name, type, count, values);
}

/* Finalises it unless something failed before; destroys it, and gives NULL, when something has. */
static cudnnBackendDescriptor_t finalise(const struct dnn_functions *dnn, cudnnStatus_t *status,
                                         cudnnBackendDescriptor_t descriptor)
{
    if (*status == CUDNN_STATUS_SUCCESS)
        *status = dnn->cudnnBackendFinalize(descriptor);
    if (*status == CUDNN_STATUS_SUCCESS)
        return descriptor;
    destroy_descriptor(dnn, descriptor);
    return NULL;
}

/* The plan of an engine with its settings; NULL, and *status, when cuDNN cannot make it. */
static cudnnBackendDescriptor_t execution_create(const struct dnn *dnn,
                                                 cudnnBackendDescriptor_t config,
                                                 int64_t *workspace_bytes, cudnnStatus_t *status)
{
    cudnnBackendDescriptor_t execution = NULL;
    int64_t count = 0;

    *workspace_bytes = 0;
    *status =
        dnn->dnn->cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &execution);
    set(dnn->dnn, status, execution, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
        &dnn->handle);
    set(dnn->dnn, status, execution, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
        CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config);
    execution = finalise(dnn->dnn, status, execution);
    if (!execution)
        return NULL;
    *status =
        dnn->dnn->cudnnBackendGetAttribute(execution, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                           CUDNN_TYPE_INT64, 1, &count, workspace_bytes);
    if (*status == CUDNN_STATUS_SUCCESS)
        return execution;
    destroy_descriptor(dnn->dnn, execution);
    return NULL;
}

/* The addresses of a call; NULL, and *status, when cuDNN does not take them. */
static cudnnBackendDescriptor_t pack_create(const struct dnn *dnn, const struct dnn_call *call,
                                            cudnnStatus_t *status)
{
    cudnnBackendDescriptor_t pack = NULL;

    *status = dnn->dnn->cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    set(dnn->dnn, status, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, call->count,
        call->id);
    set(dnn->dnn, status, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
        call->count, call->pointer);
    set(dnn->dnn, status, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1,
        &call->workspace);
    return finalise(dnn->dnn, status, pack);
}

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* *ms = the median time of the execution, or -1 with *refusal when cuDNN does not run it. Fails
 * when the device does. */
static cudaError_t time_execution(struct dnn *dnn, cudnnBackendDescriptor_t execution,
                                  cudnnBackendDescriptor_t pack, float *ms, cudnnStatus_t *refusal)
{
    float times[TIMED_RUNS];
    cudaError_t status;

    *ms = -1;
    *refusal = dnn->dnn->cudnnBackendExecute(dnn->handle, execution, pack);
    if (*refusal) {
        (void)cudaGetLastError(); /* a launch that was refused is no failure of the stream */
        return cudaStreamSynchronize(dnn->stream);
    }
    for (int run = 0; run < TIMED_RUNS; run++) {
        status = cudaEventRecord(dnn->start, dnn->stream);
        if (status)
            return status;
        *refusal = dnn->dnn->cudnnBackendExecute(dnn->handle, execution, pack);
        if (*refusal) {
            (void)cudaGetLastError();
            return cudaStreamSynchronize(dnn->stream);
        }
        status = cudaEventRecord(dnn->stop, dnn->stream);
        if (status)
            return status;
        status = cudaEventSynchronize(dnn->stop);
        if (status)
            return status;
        status = cudaEventElapsedTime(&times[run], dnn->start, dnn->stop);
        if (status)
            return status;
    }
    qsort(times, TIMED_RUNS, sizeof *times, compare_floats);
    *ms = times[TIMED_RUNS / 2];
    return cudaSuccess;
}

static void note_refusal(const struct dnn *dnn, struct plan *plan, cudnnStatus_t status,
                         const char *step)
{
    char text[sizeof plan->reason - 32];

    if (*plan->reason) /* the first one is of the engine that cuDNN likes best */
        return;
    describe_status(dnn->dnn, status, text, sizeof text);
    snprintf(plan->reason, sizeof plan->reason, "%.30s: %s", step, text);
}

/* Takes config and makes it the plan's when its engine is clearly faster than those before it.
 * Noise must not decide, or a picture would change from start to start: cuDNN's order does. */
static bool plan_try(struct dnn *dnn, struct plan *plan, const struct dnn_call *call,
                     cudnnBackendDescriptor_t config, int rank, cudnnBackendDescriptor_t pack,
                     struct error *err)
{
    struct dnn_choice *choice = &plan->choice;
    cudnnBackendDescriptor_t execution = NULL;
    int64_t workspace_bytes;
    cudnnStatus_t status;
    cudaError_t failure;
    float ms;

    if (!dnn_engine_is_welcome(dnn->dnn, config))
        goto drop;
    execution = execution_create(dnn, config, &workspace_bytes, &status);
    if (!execution) {
        note_refusal(dnn, plan, status, "an engine's plan");
        (void)cudaGetLastError();
        goto drop;
    }
    if (workspace_bytes > call->key.workspace_bytes)
        goto drop;
    failure = time_execution(dnn, execution, pack, &ms, &status);
    if (failure) {
        fail_cuda(failure, call, "timing an engine", err);
        destroy_descriptor(dnn->dnn, execution);
        destroy_descriptor(dnn->dnn, config);
        return false;
    }
    if (ms < 0) {
        note_refusal(dnn, plan, status, "an engine's run");
        goto drop;
    }

    choice->candidates++;
    if (plan->execution && ms >= CLEARLY_FASTER * choice->best_ms) {
        if (choice->second_ms <= 0 || ms < choice->second_ms)
            choice->second_ms = ms;
        goto drop;
    }
    if (plan->execution && (choice->second_ms <= 0 || choice->best_ms < choice->second_ms))
        choice->second_ms = choice->best_ms;
    destroy_descriptor(dnn->dnn, plan->execution);
    destroy_descriptor(dnn->dnn, plan->config);
    plan->execution = execution;
    plan->config = config;
    choice->rank = rank;
    choice->best_ms = ms;
    choice->workspace_bytes = (size_t)workspace_bytes;
    return true;

drop:
    destroy_descriptor(dnn->dnn, execution);
    destroy_descriptor(dnn->dnn, config);
    return true;
}

/* Fills configs with what the heuristic recommends, best first; 0 when it knows nothing. */
static int recommend(const struct dnn *dnn, struct plan *plan, cudnnBackendHeurMode_t mode,
                     cudnnBackendDescriptor_t *configs, int limit)
{
    const struct dnn_functions *fn = dnn->dnn;
    cudnnBackendDescriptor_t heuristic = NULL;
    int64_t recommended = 0;
    cudnnStatus_t status;
    int made = 0, used;

    status = fn->cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &heuristic);
    set(fn, &status, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
        CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &plan->graph.operations);
    set(fn, &status, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    heuristic = finalise(fn, &status, heuristic);
    while (status == CUDNN_STATUS_SUCCESS && made < limit) {
        status =
            fn->cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &configs[made]);
        if (status == CUDNN_STATUS_SUCCESS)
            made++;
    }
    if (status == CUDNN_STATUS_SUCCESS)
        status = fn->cudnnBackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                              CUDNN_TYPE_BACKEND_DESCRIPTOR, limit, &recommended,
                                              configs);
    if (status != CUDNN_STATUS_SUCCESS) {
        note_refusal(dnn, plan, status, "asking for engines");
        recommended = 0;
    }
    destroy_descriptor(fn, heuristic);
    used = recommended < made ? (int)recommended : made;
    while (made > used)
        destroy_descriptor(fn, configs[--made]);
    return used;
}

/* Gives the plan the engine that was chosen in an earlier run of the program, if there is one and
 * cuDNN still takes it. */
static void plan_recall(struct dnn *dnn, struct plan *plan, const struct dnn_call *call,
                        cudnnBackendDescriptor_t pack)
{
    cudnnBackendDescriptor_t config, execution = NULL;
    struct dnn_engine engine;
    int64_t workspace_bytes;
    cudnnStatus_t status;
    size_t size;
    const void *kept =
        choice_file_find(dnn->choices, CHOICE_DNN, &plan->key, sizeof plan->key, &size);

    if (!kept || !dnn_engine_from(&engine, kept, size))
        return;
    config = dnn_engine_config(&engine, dnn->dnn, plan->graph.operations);
    if (config && dnn_engine_is_welcome(dnn->dnn, config))
        execution = execution_create(dnn, config, &workspace_bytes, &status);
    if (!execution || workspace_bytes > call->key.workspace_bytes ||
        dnn->dnn->cudnnBackendExecute(dnn->handle, execution, pack)) {
        (void)cudaGetLastError();
        destroy_descriptor(dnn->dnn, execution);
        destroy_descriptor(dnn->dnn, config);
        return;
    }
    plan->execution = execution;
    plan->config = config;
    plan->choice.engine = engine.number;
    plan->choice.rank = -1;
    plan->choice.workspace_bytes = (size_t)workspace_bytes;
}

/* Has the next run of the program take the same engine. */
static void plan_remember(struct dnn *dnn, struct plan *plan)
{
    struct dnn_engine engine;

    if (!plan->execution || !dnn_engine_of(&engine, dnn->dnn, plan->config))
        return;
    plan->choice.engine = engine.number;
    choice_file_add(dnn->choices, CHOICE_DNN, &plan->key, sizeof plan->key, &engine,
                    dnn_engine_bytes(&engine));
}

/* Gives the plan the fastest engine there is, by timing unless it is known. True without one when
 * there is none. */
static bool plan_choose(struct dnn *dnn, struct plan *plan, const struct dnn_call *call,
                        struct error *err)
{
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B,
                                                   CUDNN_HEUR_MODE_FALLBACK};
    cudnnBackendDescriptor_t configs[CONFIGS_MAX] = {0}, pack;
    cudnnStatus_t status;
    double deadline = seconds_now() + CHOICE_SECONDS;
    int budget = CONFIGS_MAX;
    bool ok = true, is_known;

    pack = pack_create(dnn, call, &status);
    if (!pack)
        return fail_dnn(dnn, status, call, "binding its buffers", err);
    plan_recall(dnn, plan, call, pack);
    is_known = plan->execution;
    for (size_t m = 0; m < COUNT_OF(modes) && ok && budget > 0 && !plan->execution; m++) {
        int count = recommend(dnn, plan, modes[m], configs, budget);

        budget -= count;
        for (int i = 0; i < count; i++) {
            if (ok && !(plan->execution && seconds_now() > deadline))
                ok = plan_try(dnn, plan, call, configs[i], i, pack, err);
            else
                destroy_descriptor(dnn->dnn, configs[i]);
        }
    }
    destroy_descriptor(dnn->dnn, pack);
    if (ok && !is_known)
        plan_remember(dnn, plan);
    if (ok && !plan->execution && !*plan->reason)
        snprintf(plan->reason, sizeof plan->reason,
                 "none is exact enough and content with %lld bytes of workspace",
                 (long long)call->key.workspace_bytes);
    return ok;
}

/* The plan of a new shape, kept; NULL when it cannot be made now. */
static struct plan *plan_make(struct dnn *dnn, const struct dnn_call *call, struct error *err)
{
    struct plan *plan = calloc(1, sizeof *plan);

    if (!plan) {
        error_set(err, ERROR_NO_MEMORY, "no memory for a plan of cuDNN");
        return NULL;
    }
    plan->key = call->key;
    plan->choice.engine = -1;
    plan->graph.dnn = dnn->dnn;
    plan->graph.handle = dnn->handle;
    call->make_graph(&plan->graph, &plan->key);
    if (plan->graph.status != CUDNN_STATUS_SUCCESS)
        note_refusal(dnn, plan, plan->graph.status, plan->graph.failed_step);
    else if (!plan_choose(dnn, plan, call, err))
        goto fail;
    if (!plan->execution)
        dnn_graph_finish(&plan->graph); /* only the reason is needed */
    plan_keep(dnn, plan);
    return plan;

fail:
    plan_destroy(dnn, plan);
    return NULL;
}

static bool use_stream(struct dnn *dnn, cudaStream_t stream, const struct dnn_call *call,
                       struct error *err)
{
    cudnnStatus_t status;

    if (dnn->has_stream && dnn->stream == stream)
        return true;
    dnn->has_stream = false;
    status = dnn->dnn->cudnnSetStream(dnn->handle, stream);
    if (status)
        return fail_dnn(dnn, status, call, "taking the stream", err);
    dnn->stream = stream;
    dnn->has_stream = true;
    return true;
}

static bool check_not_capturing(cudaStream_t stream, const struct dnn_call *call, struct error *err)
{
    enum cudaStreamCaptureStatus capturing;
    cudaError_t status = cudaStreamIsCapturing(stream, &capturing);

    if (status)
        return fail_cuda(status, call, "asking whether the stream is capturing", err);
    if (capturing != cudaStreamCaptureStatusNone)
        return error_set(err, ERROR_BACKEND,
                         "cuDNN: %s: no plan is kept for this shape, and none can be timed while "
                         "the stream is capturing: run it once before",
                         call->text);
    return true;
}

bool dnn_run(struct dnn *dnn, cudaStream_t stream, const struct dnn_call *call,
             bool *is_unsupported, struct error *err)
{
    cudnnBackendDescriptor_t pack;
    cudnnStatus_t status;
    struct plan *plan;

    *is_unsupported = false;
    if (!use_stream(dnn, stream, call, err))
        return false;
    plan = plan_find(dnn, &call->key);
    if (!plan) {
        if (!check_not_capturing(stream, call, err))
            return false;
        plan = plan_make(dnn, call, err);
        if (!plan)
            return false;
    }
    if (!plan->execution) {
        *is_unsupported = true;
        return error_set(err, ERROR_BACKEND, "cuDNN: %s: no engine takes it: %s", call->text,
                         plan->reason);
    }
    pack = pack_create(dnn, call, &status);
    if (!pack)
        return fail_dnn(dnn, status, call, "binding its buffers", err);
    status = dnn->dnn->cudnnBackendExecute(dnn->handle, plan->execution, pack);
    destroy_descriptor(dnn->dnn, pack);
    if (status)
        return fail_dnn(dnn, status, call, "running it", err);
    return true;
}

/* --- The handle --- */

bool dnn_create(struct dnn **out, const struct cuda_libraries *libraries,
                struct choice_file *choices, struct error *err)
{
    cudnnStatus_t status;
    cudaError_t failure;
    struct dnn *dnn;
    char text[640];

    *out = NULL;
    if (!libraries->has_dnn)
        return error_set(err, ERROR_BACKEND, "cuDNN is not installed");
    dnn = calloc(1, sizeof *dnn);
    if (!dnn)
        return error_set(err, ERROR_NO_MEMORY, "no memory for cuDNN");
    dnn->dnn = &libraries->dnn;
    dnn->choices = choices;
    status = dnn->dnn->cudnnCreate(&dnn->handle);
    if (status) {
        dnn->handle = NULL;
        describe_status(dnn->dnn, status, text, sizeof text);
        error_set(err, ERROR_BACKEND, "starting cuDNN failed: %s", text);
        goto fail;
    }
    failure = cudaEventCreate(&dnn->start);
    if (!failure)
        failure = cudaEventCreate(&dnn->stop);
    if (failure) {
        (void)cudaGetLastError();
        error_set(err, cuda_error_code(failure), "creating an event failed: %s",
                  cudaGetErrorString(failure));
        goto fail;
    }
    *out = dnn;
    return true;

fail:
    dnn_destroy(dnn);
    return false;
}

void dnn_destroy(struct dnn *dnn)
{
    if (!dnn)
        return;
    while (dnn->plans) {
        struct plan *plan = dnn->plans;

        dnn->plans = plan->next;
        plan_destroy(dnn, plan);
    }
    if (dnn->stop)
        cudaEventDestroy(dnn->stop);
    if (dnn->start)
        cudaEventDestroy(dnn->start);
    if (dnn->handle)
        dnn->dnn->cudnnDestroy(dnn->handle);
    free(dnn);
}

size_t dnn_version(const struct dnn *dnn)
{
    return dnn->dnn->cudnnGetVersion();
}

void dnn_latest_choice(const struct dnn *dnn, struct dnn_choice *choice)
{
    if (dnn->plans)
        *choice = dnn->plans->choice;
    else
        *choice = (struct dnn_choice){.engine = -1};
}
