/* backend_cuda.so: the op table for NVIDIA GPUs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/choice_folder.h"
#include "backend/cuda/cuda_nvml.h"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/cuda_stream.h"
#include "backend/cuda/cuda_streamed.h"
#include "backend/cuda/cuda_weights.h"
#include "backend/plugin_library.h"

#define CAPABILITY_MIN 80 /* BF16 */
#define CAPABILITY_FP8 89

struct cuda_device cuda_device;

/* --- Finding the device --- */

static bool fail_runtime(struct error *err, cudaError_t status)
{
    int driver = 0;

    switch (status) {
    case cudaErrorNoDevice:
        return error_set(err, ERROR_BACKEND, "there is no NVIDIA GPU here");
    case cudaErrorInsufficientDriver:
        (void)cudaDriverGetVersion(&driver);
        if (driver == 0)
            return error_set(err, ERROR_BACKEND, "there is no NVIDIA driver here");
        return error_set(err, ERROR_BACKEND,
                         "the NVIDIA driver is too old: it knows CUDA %d.%d, and %d.%d is needed",
                         driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                         CUDART_VERSION % 1000 / 10);
    default:
        return error_set(err, ERROR_BACKEND, "CUDA does not start: %s (%s)",
                         cudaGetErrorString(status), cudaGetErrorName(status));
    }
}

static enum plugin_trouble trouble_of(cudaError_t status, int driver)
{
    if (status == cudaSuccess || status == cudaErrorNoDevice)
        return PLUGIN_FINE;
    if (status != cudaErrorInsufficientDriver)
        return PLUGIN_BROKEN;
    return driver == 0 ? PLUGIN_NO_DRIVER : PLUGIN_OLD_DRIVER;
}

static void find_devices(struct plugin_devices *devices, struct error *err)
{
    int count = 0, major;
    cudaError_t status = cudaGetDeviceCount(&count);

    *devices = (struct plugin_devices){.needed_version = CUDART_VERSION};
    (void)cudaDriverGetVersion(&devices->driver_version);
    devices->trouble = trouble_of(status, devices->driver_version);
    if (devices->trouble == PLUGIN_BROKEN)
        (void)fail_runtime(err, status);
    if (status != cudaSuccess)
        return;
    devices->count = count < PLUGIN_DEVICES_MAX ? count : PLUGIN_DEVICES_MAX;
    for (int i = 0; i < devices->count; i++)
        devices->is_usable[i] =
            cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i) == cudaSuccess &&
            10 * major >= CAPABILITY_MIN;
}

/* For tests of the ways of older GPUs: SD35_FORCE_CC=80 makes any GPU one of capability 8.0. */
static bool force_capability(int *capability, struct error *err)
{
    const char *text = getenv("SD35_FORCE_CC");
    char *end;
    long value;

    if (!text || !*text)
        return true;
    value = strtol(text, &end, 10);
    if (*end || value < CAPABILITY_MIN || value > *capability)
        return error_set(err, ERROR_BAD_REQUEST,
                         "SD35_FORCE_CC: '%.32s' is not a number from %d to this GPU's %d", text,
                         CAPABILITY_MIN, *capability);
    *capability = (int)value;
    return true;
}

static bool find_device(struct cuda_device *device, int index, struct error *err)
{
    struct cudaDeviceProp properties;
    int count = 0;
    cudaError_t status = cudaGetDeviceCount(&count);

    if (status != cudaSuccess)
        return fail_runtime(err, status);
    if (index >= count)
        return error_set(err, ERROR_BACKEND, "there is no GPU %d: this machine has %d", index,
                         count);
    status = cudaSetDevice(index);
    if (status == cudaSuccess)
        status = cudaGetDeviceProperties(&properties, index);
    if (status == cudaSuccess)
        status = cudaFree(NULL); /* makes the context, where a broken device shows */
    if (status != cudaSuccess)
        return fail_runtime(err, status);
    device->index = index;
    device->capability = 10 * properties.major + properties.minor;
    device->multiprocessors = properties.multiProcessorCount;
    snprintf(device->name, sizeof device->name, "%s", properties.name);
    if (device->capability < CAPABILITY_MIN)
        return error_set(err, ERROR_BACKEND,
                         "GPU %d (%s) has compute capability %d.%d, at least 8.0 is needed", index,
                         properties.name, properties.major, properties.minor);
    return force_capability(&device->capability, err);
}

static void find_driver_functions(struct cuda_device *device)
{
    enum cudaDriverEntryPointQueryResult result;

    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &device->encode_tiled, 12000,
                                         cudaEnableDefault, &result) != cudaSuccess ||
        result != cudaDriverEntryPointSuccess) {
        (void)cudaGetLastError();
        device->encode_tiled = NULL;
    }
}

static bool choose_precision(struct cuda_device *device, const char *name, struct error *err)
{
    bool has_fp8 = device->capability >= CAPABILITY_FP8;

    device->f = DTYPE_BF16;
    device->allows_fp8 = has_fp8;
    if (!name || strcmp(name, "auto") == 0)
        return true;
    if (strcmp(name, "fp8") == 0)
        return has_fp8 || error_set(err, ERROR_BAD_REQUEST,
                                    "precision fp8: %s does not multiply in FP8; 'auto' keeps FP8 "
                                    "weights and multiplies in 16 bits",
                                    device->name);
    device->allows_fp8 = false;
    if (strcmp(name, "bf16") == 0)
        return true;
    device->f = strcmp(name, "fp16") == 0 ? DTYPE_F16 : DTYPE_F32;
    if (device->f == DTYPE_F16 || strcmp(name, "f32") == 0)
        return true;
    return error_set(err, ERROR_BAD_REQUEST,
                     "precision '%.32s' is not one of: auto, fp8, bf16, fp16, f32", name);
}

static void add_notice(struct backend *backend, const char *text)
{
    size_t used = strlen(backend->notice);

    snprintf(backend->notice + used, sizeof backend->notice - used, "%s%s", used ? "; " : "", text);
}

static void describe(struct backend *backend, const struct cuda_device *device)
{
    const char *kind = device->allows_fp8        ? "FP8 and BF16"
                       : device->f == DTYPE_BF16 ? "BF16"
                       : device->f == DTYPE_F16  ? "FP16"
                                                 : "F32";

    snprintf(backend->description, sizeof backend->description, "%.90s, %s", device->name, kind);
    if (device->libraries.missing[0])
        snprintf(backend->notice, sizeof backend->notice, "%.500s", device->libraries.missing);
    else if (device->capability < CAPABILITY_FP8)
        snprintf(backend->notice, sizeof backend->notice,
                 "%.90s does not multiply in FP8: FP8 weights stay so in memory and are turned to "
                 "16 bits layer by layer",
                 device->name);
}

static void cuda_device_health(struct device_health *health)
{
    struct gpu_reading reading;

    (void)gpu_monitor_read(cuda_device.monitor, &reading);
    *health = (struct device_health){
        .utilisation_percent = reading.utilisation_percent,
        .temperature_celsius = reading.temperature_celsius,
        .power_watts = reading.power_watts < 0 ? -1 : (double)reading.power_watts,
    };
}

static void open_monitor(struct cuda_device *device)
{
    char pci_bus_id[32];

    if (cudaDeviceGetPCIBusId(pci_bus_id, sizeof pci_bus_id, device->index) == cudaSuccess)
        device->monitor = gpu_monitor_create(&device->libraries, pci_bus_id);
    else
        (void)cudaGetLastError();
}

static void fill_table(struct backend_ops *ops, const struct cuda_device *device)
{
    *ops = (struct backend_ops){
        .name = "cuda",
        .activation_dtype = device->f,
        .stream_create = cuda_stream_create,
        .stream_destroy = cuda_stream_destroy,
        .stream_finish = cuda_stream_finish,
        .stream_watch = cuda_stream_watch,
        .memory_alloc = cuda_memory_alloc,
        .memory_free = cuda_memory_free,
        .upload = cuda_upload,
        .download = cuda_download,
        .scratch_bytes = cuda_scratch_bytes,
        .branch = cuda_branch,
        .join = cuda_join,
        .record_begin = cuda_record_begin,
        .record_end = cuda_record_end,
        .replay = cuda_replay,
        .recording_free = cuda_recording_free,
        .weights_hold = cuda_weights_hold,
        .weights_drop = cuda_weights_drop,
        .weights_bytes = cuda_weights_bytes,
        .weights_stream = cuda_weights_stream,
        .weights_enter = cuda_weights_enter,
        .weights_unstream = cuda_weights_unstream,
        .weights_stream_bytes = cuda_weights_stream_bytes,
        .memory_info = cuda_memory_info,
        .device_health = cuda_device_health,
        .avoid_8_bits = cuda_avoid_8_bits,
        .check_finite = cuda_check_finite,
        .linear_input = cuda_linear_input,
        .linear = cuda_linear,
        .linears = cuda_linears,
        .normed_qkv = cuda_normed_qkv,
        .gelu_linear = cuda_gelu_linear,
        .attention = cuda_attention,
        .conv2d = cuda_conv2d,
        .group_stats = cuda_group_stats,
        .group_norm = cuda_group_norm,
    };
    cuda_ops_fill(ops);
    if (device->capability == 90) /* where products take factors of rows and columns */
        ops->gated_linear = cuda_gated_linear;
}

static bool plugin_open(struct backend *backend, int index, const char *precision,
                        struct error *err)
{
    char notice[400];

    cuda_device = (struct cuda_device){0};
    if (!find_device(&cuda_device, index, err) || !choose_precision(&cuda_device, precision, err) ||
        !cuda_libraries_open(&cuda_device.libraries, err))
        return false;
    find_driver_functions(&cuda_device);
    cuda_device.choice_folder = choice_folder_find(notice, sizeof notice);
    open_monitor(&cuda_device);
    fill_table(&backend->ops, &cuda_device);
    describe(backend, &cuda_device);
    if (*notice)
        add_notice(backend, notice);
    return true;
}

static void plugin_close(void)
{
    gpu_monitor_destroy(cuda_device.monitor);
    cuda_device.monitor = NULL;
    free(cuda_device.choice_folder);
    cuda_device.choice_folder = NULL;
    cuda_libraries_close(&cuda_device.libraries);
}

/* --- For tests --- */

static void *shared_alloc(size_t bytes)
{
    void *memory = NULL;

    if (cudaMallocManaged(&memory, bytes, cudaMemAttachGlobal) != cudaSuccess) {
        (void)cudaGetLastError();
        return NULL;
    }
    return memory;
}

static void shared_free(void *memory)
{
    cudaFree(memory);
}

static void forget_weights(struct stream *stream)
{
    weight_store_forget(stream->weights);
}

backend_plugin_function sd35_backend_plugin;

/* The one symbol that leaves the shared object. */
__attribute__((visibility("default"))) const struct backend_plugin *sd35_backend_plugin(void)
{
    static const struct backend_plugin plugin = {
        .abi = BACKEND_PLUGIN_ABI,
        .ops_size = sizeof(struct backend_ops),
        .name = "cuda",
        .open = plugin_open,
        .close = plugin_close,
        .find_devices = find_devices,
        .shared_alloc = shared_alloc,
        .shared_free = shared_free,
        .forget_weights = forget_weights,
    };

    return &plugin;
}
