/* NVIDIA's libraries, opened while running: cuBLASLt, cuDNN and NVML as tables of functions.
 *
 * The program builds and starts where they are missing. A table's members have the names of the
 * functions that they hold: libraries->blas.cublasLtMatmul(...). NVML's header comes with no
 * toolkit that we may count on, so the few declarations that are used stand here.
 */
#ifndef BACKEND_CUDA_CUDA_LIBRARIES_H
#define BACKEND_CUDA_CUDA_LIBRARIES_H

#include <stdbool.h>

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>

#include "base/attributes.h"
#include "base/error.h"

/* What a failure of the runtime means to a caller. */
static inline enum error_code cuda_error_code(cudaError_t status)
{
    return status == cudaErrorMemoryAllocation ? ERROR_NO_MEMORY : ERROR_BACKEND;
}

#define CUDA_BLAS_FUNCTIONS(X)                                                                     \
    X(cublasLtCreate)                                                                              \
    X(cublasLtDestroy)                                                                             \
    X(cublasLtGetVersion)                                                                          \
    X(cublasLtGetStatusString)                                                                     \
    X(cublasLtMatmul)                                                                              \
    X(cublasLtMatmulDescCreate)                                                                    \
    X(cublasLtMatmulDescDestroy)                                                                   \
    X(cublasLtMatmulDescSetAttribute)                                                              \
    X(cublasLtMatrixLayoutCreate)                                                                  \
    X(cublasLtMatrixLayoutDestroy)                                                                 \
    X(cublasLtMatrixLayoutSetAttribute)                                                            \
    X(cublasLtMatmulPreferenceCreate)                                                              \
    X(cublasLtMatmulPreferenceDestroy)                                                             \
    X(cublasLtMatmulPreferenceSetAttribute)                                                        \
    X(cublasLtMatmulAlgoGetHeuristic)                                                              \
    X(cublasLtMatmulAlgoConfigGetAttribute)                                                        \
    X(cublasLtMatmulAlgoCapGetAttribute)

#define CUDA_DNN_FUNCTIONS(X)                                                                      \
    X(cudnnCreate)                                                                                 \
    X(cudnnDestroy)                                                                                \
    X(cudnnSetStream)                                                                              \
    X(cudnnGetVersion)                                                                             \
    X(cudnnGetErrorString)                                                                         \
    X(cudnnGetLastErrorString)                                                                     \
    X(cudnnBackendCreateDescriptor)                                                                \
    X(cudnnBackendDestroyDescriptor)                                                               \
    X(cudnnBackendSetAttribute)                                                                    \
    X(cudnnBackendGetAttribute)                                                                    \
    X(cudnnBackendFinalize)                                                                        \
    X(cudnnBackendExecute)

struct nvml_device; /* NVML's own */

struct nvml_utilisation {
    unsigned device, memory; /* percent of the last sampling period that each was busy */
};

struct nvml_memory {
    unsigned long long total_bytes, free_bytes, used_bytes;
};

/* Each returns 0 when it worked. The sensor 0 is the chip; power is in milliwatts. */
#define CUDA_NVML_FUNCTIONS(X)                                                                     \
    X(nvmlInit_v2, (void))                                                                         \
    X(nvmlShutdown, (void))                                                                        \
    X(nvmlDeviceGetHandleByPciBusId_v2, (const char *pci_bus_id, struct nvml_device **device))     \
    X(nvmlDeviceGetUtilizationRates, (struct nvml_device *, struct nvml_utilisation *))            \
    X(nvmlDeviceGetPowerUsage, (struct nvml_device *, unsigned *milliwatts))                       \
    X(nvmlDeviceGetTemperature, (struct nvml_device *, int sensor, unsigned *celsius))             \
    X(nvmlDeviceGetMemoryInfo, (struct nvml_device *, struct nvml_memory *))

/* NOLINTBEGIN(bugprone-macro-parentheses): members are declared. */
#define CUDA_MEMBER(name) __typeof__(name) *name;
#define CUDA_NVML_MEMBER(name, arguments) int(*name) arguments;
/* NOLINTEND(bugprone-macro-parentheses) */

struct blas_functions {
    CUDA_BLAS_FUNCTIONS(CUDA_MEMBER)
};

struct dnn_functions {
    CUDA_DNN_FUNCTIONS(CUDA_MEMBER)
};

struct nvml_functions {
    CUDA_NVML_FUNCTIONS(CUDA_NVML_MEMBER)
};

#undef CUDA_MEMBER
#undef CUDA_NVML_MEMBER

/* Read-only once open, by any number of threads. */
struct cuda_libraries {
    void *blas_library, *dnn_library, *nvml_library; /* of dlopen; NULL: not there */
    struct blas_functions blas;
    struct dnn_functions dnn;   /* only where has_dnn */
    struct nvml_functions nvml; /* only where has_nvml */
    bool has_dnn, has_nvml;
    char missing[768]; /* what is missing and what that costs, for people; "": nothing */
};

/* Looks where the loader looks, then in $CUDA_HOME/lib64, /usr/local/cuda/lib64 and
 * /usr/lib/x86_64-linux-gnu. ERROR_BACKEND when there is no cuBLASLt; nothing is open then. */
MUST_CHECK bool cuda_libraries_open(struct cuda_libraries *libraries, struct error *err);
/* NULL is fine, and so is a zeroed struct. Nothing made with the tables may be left. */
void cuda_libraries_close(struct cuda_libraries *libraries);

#endif
