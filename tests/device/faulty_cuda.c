/* The CUDA runtime as the plugin meets it on a bad day: the linker puts these between the two
 * (--wrap), in a plugin that is built for tests only.
 *
 * SD35_FAULT says what goes wrong, counted from 1:
 *   memory:N   the N-th call that takes memory, of the device or the host, is refused
 *   pinned:N   the same of those that take the host's pinned memory
 *   lost:N     from the N-th call on that has the device do something, no call succeeds any more
 * "memory:N+" and "pinned:N+" refuse all later ones, too. At the end, the file that
 * SD35_FAULT_COUNT names says how many calls there were of each kind, and what was refused first.
 */
#include <cuda_runtime_api.h>
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As after a kernel's bad access: the context is gone for good. */
#define LOST cudaErrorLaunchFailure

enum kind { MEMORY, PINNED, LOSS, KINDS };

static const char *const kind_names[KINDS] = {"memory", "pinned", "lost"};

static struct {
    enum kind kind;
    long at; /* 0: nothing goes wrong */
    bool lasts;
} fault;

static atomic_long calls[KINDS], refusals;
static atomic_bool is_lost;
static _Atomic(const char *) refused_first;

/* What cudaGetLastError is to tell of the calls that were refused here. */
static _Thread_local cudaError_t last_error;

/* --- From and to the test --- */

__attribute__((constructor)) static void read_fault(void)
{
    const char *text = getenv("SD35_FAULT");
    char name[16], lasts[2] = "";

    if (!text)
        return;
    if (sscanf(text, "%15[a-z]:%ld%1[+]", name, &fault.at, lasts) >= 2 && fault.at > 0) {
        fault.lasts = *lasts;
        for (int kind = 0; kind < KINDS; kind++) {
            fault.kind = (enum kind)kind;
            if (strcmp(name, kind_names[kind]) == 0)
                return;
        }
    }
    fprintf(stderr, "SD35_FAULT: '%s' is no fault\n", text);
    abort();
}

__attribute__((destructor)) static void write_counts(void)
{
    const char *path = getenv("SD35_FAULT_COUNT"), *first = atomic_load(&refused_first);
    FILE *file = path ? fopen(path, "w") : NULL;

    if (!file)
        return;
    for (int kind = 0; kind < KINDS; kind++)
        fprintf(file, "%s %ld\n", kind_names[kind], atomic_load(&calls[kind]));
    fprintf(file, "refusals %ld\nfirst %s\n", atomic_load(&refusals), first ? first : "-");
    fclose(file);
}

/* --- What goes wrong --- */

/* Counts a call; true when it is one of those that the fault is about. */
static bool is_due(enum kind kind)
{
    long number = atomic_fetch_add(&calls[kind], 1) + 1;

    if (fault.at == 0 || fault.kind != kind)
        return false;
    return number == fault.at || (number > fault.at && (fault.lasts || kind == LOSS));
}

static cudaError_t refuse(const char *call, cudaError_t status)
{
    const char *none = NULL;

    atomic_compare_exchange_strong(&refused_first, &none, call);
    atomic_fetch_add(&refusals, 1);
    last_error = status;
    return status;
}

static cudaError_t take_memory(const char *call)
{
    if (atomic_load(&is_lost))
        return refuse(call, LOST);
    return is_due(MEMORY) ? refuse(call, cudaErrorMemoryAllocation) : cudaSuccess;
}

static cudaError_t take_pinned(const char *call)
{
    bool is_refused = is_due(PINNED);
    cudaError_t status = take_memory(call);

    return status == cudaSuccess && is_refused ? refuse(call, cudaErrorMemoryAllocation) : status;
}

static cudaError_t use_device(const char *call)
{
    if (is_due(LOSS))
        atomic_store(&is_lost, true);
    return atomic_load(&is_lost) ? refuse(call, LOST) : cudaSuccess;
}

/* --- The calls --- */

#define WRAP(step, name, parameters, arguments)                                                    \
    cudaError_t __real_##name parameters;                                                          \
    cudaError_t __wrap_##name parameters;                                                          \
    cudaError_t __wrap_##name parameters                                                           \
    {                                                                                              \
        cudaError_t status = step(#name);                                                          \
                                                                                                   \
        return status == cudaSuccess ? __real_##name arguments : status;                           \
    }

WRAP(take_memory, cudaMalloc, (void **memory, size_t bytes), (memory, bytes))
WRAP(take_memory, cudaMallocAsync, (void **memory, size_t bytes, cudaStream_t stream),
     (memory, bytes, stream))
WRAP(take_memory, cudaMallocManaged, (void **memory, size_t bytes, unsigned flags),
     (memory, bytes, flags))
WRAP(take_pinned, cudaMallocHost, (void **memory, size_t bytes), (memory, bytes))
WRAP(take_pinned, cudaHostAlloc, (void **memory, size_t bytes, unsigned flags),
     (memory, bytes, flags))
WRAP(take_memory, cudaStreamCreateWithFlags, (cudaStream_t * stream, unsigned flags),
     (stream, flags))
WRAP(take_memory, cudaStreamCreateWithPriority,
     (cudaStream_t * stream, unsigned flags, int priority), (stream, flags, priority))
WRAP(take_memory, cudaEventCreate, (cudaEvent_t * event), (event))
WRAP(take_memory, cudaEventCreateWithFlags, (cudaEvent_t * event, unsigned flags), (event, flags))
WRAP(take_memory, cudaGraphInstantiate,
     (cudaGraphExec_t * made, cudaGraph_t graph, unsigned long long flags), (made, graph, flags))

WRAP(use_device, __cudaLaunchKernel,
     (cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
      cudaStream_t stream),
     (kernel, grid, block, arguments, shared, stream))
WRAP(use_device, cudaLaunchKernelExC,
     (const cudaLaunchConfig_t *config, const void *kernel, void **arguments),
     (config, kernel, arguments))
WRAP(use_device, cudaGraphLaunch, (cudaGraphExec_t graph, cudaStream_t stream), (graph, stream))
WRAP(use_device, cudaFuncSetAttribute,
     (const void *kernel, enum cudaFuncAttribute attribute, int value), (kernel, attribute, value))
WRAP(use_device, cudaStreamBeginCapture, (cudaStream_t stream, enum cudaStreamCaptureMode mode),
     (stream, mode))
WRAP(use_device, cudaStreamIsCapturing,
     (cudaStream_t stream, enum cudaStreamCaptureStatus *is_capturing), (stream, is_capturing))
WRAP(use_device, cudaDeviceSynchronize, (void), ())
WRAP(use_device, cudaStreamSynchronize, (cudaStream_t stream), (stream))
WRAP(use_device, cudaStreamWaitEvent, (cudaStream_t stream, cudaEvent_t event, unsigned flags),
     (stream, event, flags))
WRAP(use_device, cudaEventRecord, (cudaEvent_t event, cudaStream_t stream), (event, stream))
WRAP(use_device, cudaEventSynchronize, (cudaEvent_t event), (event))
WRAP(use_device, cudaEventElapsedTime, (float *ms, cudaEvent_t begin, cudaEvent_t end),
     (ms, begin, end))
WRAP(use_device, cudaMemcpyAsync,
     (void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream),
     (to, from, bytes, kind, stream))
WRAP(use_device, cudaMemset, (void *to, int value, size_t bytes), (to, value, bytes))
WRAP(use_device, cudaMemsetAsync, (void *to, int value, size_t bytes, cudaStream_t stream),
     (to, value, bytes, stream))
WRAP(use_device, cudaFreeAsync, (void *memory, cudaStream_t stream), (memory, stream))
WRAP(use_device, cudaMemGetInfo, (size_t * available, size_t *total), (available, total))
WRAP(use_device, cudaPointerGetAttributes,
     (struct cudaPointerAttributes * attributes, const void *address), (attributes, address))

cudaError_t __real_cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t __wrap_cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
/* The device is not really lost, and has to be free to go on to its end. */
cudaError_t __wrap_cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    cudaError_t refused = use_device("cudaStreamEndCapture");
    cudaError_t status = __real_cudaStreamEndCapture(stream, graph);

    if (refused == cudaSuccess)
        return status;
    if (status == cudaSuccess)
        cudaGraphDestroy(*graph);
    *graph = NULL;
    return refused;
}

cudaError_t __real_cudaGetLastError(void);
cudaError_t __wrap_cudaGetLastError(void);
cudaError_t __wrap_cudaGetLastError(void)
{
    cudaError_t refused = last_error, status = __real_cudaGetLastError();

    last_error = cudaSuccess;
    if (atomic_load(&is_lost))
        return LOST;
    return refused == cudaSuccess ? status : refused;
}

/* --- The C library's, as the plugin's own C code calls them --- */

static bool has_no_memory(const char *call)
{
    if (!is_due(MEMORY))
        return false;
    (void)refuse(call, cudaSuccess);
    errno = ENOMEM;
    return true;
}

void *__wrap_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes)
{
    return has_no_memory("malloc") ? NULL : malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes)
{
    return has_no_memory("calloc") ? NULL : calloc(count, bytes);
}

void *__wrap_reallocarray(void *memory, size_t count, size_t bytes);
void *__wrap_reallocarray(void *memory, size_t count, size_t bytes)
{
    return has_no_memory("reallocarray") ? NULL : reallocarray(memory, count, bytes);
}

char *__wrap_strdup(const char *text);
char *__wrap_strdup(const char *text)
{
    return has_no_memory("strdup") ? NULL : strdup(text);
}

char *__wrap_strndup(const char *text, size_t length);
char *__wrap_strndup(const char *text, size_t length)
{
    return has_no_memory("strndup") ? NULL : strndup(text, length);
}

char *__wrap_realpath(const char *path, char *resolved);
char *__wrap_realpath(const char *path, char *resolved)
{
    return has_no_memory("realpath") ? NULL : realpath(path, resolved);
}

int __wrap_asprintf(char **text, const char *format, ...) __attribute__((format(printf, 2, 3)));
int __wrap_asprintf(char **text, const char *format, ...)
{
    va_list arguments;
    int length;

    if (has_no_memory("asprintf"))
        return -1;
    va_start(arguments, format);
    length = vasprintf(text, format, arguments);
    va_end(arguments);
    return length;
}
