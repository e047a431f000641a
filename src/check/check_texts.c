#include "check/check_texts.h"

#include <stdlib.h>
#include <string.h>

enum language language_of_environment(void)
{
    static const char *const names[] = {"SD35_LANG", "LC_ALL", "LC_MESSAGES", "LANG"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);

        if (value && *value)
            return strncmp(value, "zh", 2) == 0 ? LANGUAGE_CHINESE : LANGUAGE_ENGLISH;
    }
    return LANGUAGE_ENGLISH;
}

#define LICENCE "https://huggingface.co/stabilityai/stable-diffusion-3.5-large"
#define DOWNLOAD_ALONE                                                                             \
    "hf download stabilityai/stable-diffusion-3.5-large --local-dir "                              \
    "models/stable-diffusion-3.5-large"
#define DOWNLOAD "hf auth login && " DOWNLOAD_ALONE
#define MOUNT "-v \"$PWD/models:/app/models\""

static const struct check_text texts[CHECK_ROW_COUNT] = {
    [CHECK_GPU_FOUND] = {"gpu",
                         "gpu_found",
                         {"{count} NVIDIA GPU(s) that can be used",
                          "有 {count} 块可用的 NVIDIA GPU"},
                         {NULL, NULL}},
    [CHECK_GPU_OPENED] = {"gpu",
                          "gpu_found",
                          {"GPU {index}: {name}", "GPU {index}：{name}"},
                          {NULL, NULL}},
    [CHECK_GPU_NOT_ASKED] = {"gpu",
                             "gpu_not_asked",
                             {"no GPU is asked for", "未要求使用 GPU"},
                             {NULL, NULL}},
    [CHECK_GPU_NONE] = {"gpu",
                        "gpu_none",
                        {"there is no NVIDIA GPU in this machine", "这台机器上没有 NVIDIA GPU"},
                        {"draw on the CPU, much more slowly, and say so with: --device cpu",
                         "用 CPU 生成（慢得多），并明确指定：--device cpu"}},
    [CHECK_GPU_NONE_IN_CONTAINER] =
        {"gpu",
         "gpu_none",
         {"no GPU was given to this container: it has no /dev/nvidiactl",
          "没有把 GPU 分配给这个容器：容器里没有 /dev/nvidiactl"},
         {"docker run --gpus all ...   (podman: --device nvidia.com/gpu=all; Kubernetes: "
          "resources.limits: nvidia.com/gpu: 1; without a GPU: --device cpu)",
          "docker run --gpus all ...   （podman：--device nvidia.com/gpu=all；Kubernetes："
          "resources.limits: nvidia.com/gpu: 1；不用 GPU：--device cpu）"}},
    [CHECK_GPU_DRIVER_MISSING] =
        {"gpu",
         "gpu_driver_missing",
         {"there is an NVIDIA card in this machine, but its driver is not loaded",
          "这台机器上有 NVIDIA 显卡，但驱动没有加载"},
         {"on the host: sudo apt install nvidia-driver   (Ubuntu: sudo ubuntu-drivers install), "
          "then sudo reboot",
          "在宿主机上运行：sudo apt install nvidia-driver   （Ubuntu：sudo ubuntu-drivers "
          "install），然后 sudo reboot"}},
    [CHECK_GPU_TOOLKIT_MISSING] =
        {"gpu",
         "gpu_toolkit_missing",
         {"the GPU's device nodes are in this container, but the driver's library libcuda.so.1 is "
          "not: the NVIDIA Container Toolkit, which brings it in, is missing, or was told to leave "
          "it out",
          "容器里有 GPU 的设备节点，却没有驱动库 libcuda.so.1：负责放入它的 NVIDIA Container "
          "Toolkit 没有安装，或者被设置为不放入"},
         {"on the host: sudo apt install nvidia-container-toolkit && sudo nvidia-ctk runtime "
          "configure --runtime=docker && sudo systemctl restart docker, then: docker run --gpus "
          "all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility ...",
          "在宿主机上运行：sudo apt install nvidia-container-toolkit && sudo nvidia-ctk runtime "
          "configure --runtime=docker && sudo systemctl restart docker，然后：docker run --gpus "
          "all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility ..."}},
    [CHECK_GPU_LIBRARY_MISSING] =
        {"gpu",
         "gpu_library_missing",
         {"the NVIDIA driver is loaded, but its library libcuda.so.1 is not installed",
          "NVIDIA 驱动已加载，但没有安装驱动库 libcuda.so.1"},
         {"sudo apt install libcuda1   (Ubuntu: libnvidia-compute-NNN, NNN being the driver's "
          "version in /proc/driver/nvidia/version)",
          "sudo apt install libcuda1   （Ubuntu：libnvidia-compute-NNN，NNN 是 "
          "/proc/driver/nvidia/version 里的驱动版本）"}},
    [CHECK_GPU_WSL] =
        {"gpu",
         "gpu_wsl",
         {"this is WSL (there is /dev/dxg), but the driver's library libcuda.so.1 is not here",
          "这是 WSL（有 /dev/dxg），但没有驱动库 libcuda.so.1"},
         {"install NVIDIA's driver in Windows (none inside WSL), run 'wsl --update' there, and "
          "start a container with: docker run --gpus all ...",
          "在 Windows 里安装 NVIDIA 驱动（不要装在 WSL 里面），在 Windows 里运行 'wsl "
          "--update'；容器用 docker run --gpus all ... 启动"}},
    [CHECK_GPU_DRIVER_OLD] =
        {"gpu",
         "gpu_driver_old",
         {"the NVIDIA driver is too old: it knows CUDA {found}, and {needed} is needed",
          "NVIDIA 驱动太旧：它支持到 CUDA {found}，而这里需要 {needed}"},
         {"on the host: sudo apt update && sudo apt install cuda-drivers   (NVIDIA's repository; "
          "Ubuntu: sudo ubuntu-drivers install), then sudo reboot; nvidia-smi must show CUDA "
          "{needed} or higher",
          "在宿主机上运行：sudo apt update && sudo apt install cuda-drivers   （NVIDIA "
          "的软件源；Ubuntu：sudo ubuntu-drivers install），然后 sudo reboot；nvidia-smi "
          "应显示 CUDA {needed} 或更高"}},
    [CHECK_GPU_BACKEND_MISSING] =
        {"gpu",
         "gpu_backend_missing",
         {"this program cannot use GPUs: {message}", "这个程序不能使用 GPU：{message}"},
         {"build it where nvcc 13 is: cmake --preset release && cmake --build --preset release; "
          "without a GPU: --device cpu",
          "在装有 nvcc 13 的机器上编译：cmake --preset release && cmake --build --preset "
          "release；不用 GPU：--device cpu"}},
    [CHECK_GPU_HIDDEN] =
        {"gpu",
         "gpu_hidden",
         {"the driver shows no GPU: CUDA_VISIBLE_DEVICES is '{value}'",
          "驱动没有列出任何 GPU：CUDA_VISIBLE_DEVICES 是 '{value}'"},
         {"unset CUDA_VISIBLE_DEVICES   (or name GPUs that there are: CUDA_VISIBLE_DEVICES=0)",
          "unset CUDA_VISIBLE_DEVICES   （或者写存在的 GPU：CUDA_VISIBLE_DEVICES=0）"}},
    [CHECK_GPU_TOO_OLD] = {"gpu",
                           "gpu_too_old",
                           {"GPU {index} is older than Ampere (compute capability 8.0) and cannot "
                            "be used",
                            "GPU {index} 早于 Ampere（计算能力 8.0），不能使用"},
                           {"take another GPU, or: --device cpu",
                            "换一块 GPU，或者：--device cpu"}},
    [CHECK_GPU_NO_SUCH] = {"gpu",
                           "gpu_missing",
                           {"there is no GPU {index}: {count} can be seen, counted from 0",
                            "没有 GPU {index}：一共能看到 {count} 块，从 0 开始编号"},
                           {"--device cuda:0   (nvidia-smi -L lists them)",
                            "--device cuda:0   （nvidia-smi -L 可列出所有 GPU）"}},
    [CHECK_GPU_FAILED] =
        {"gpu",
         "gpu_failed",
         {"the GPU cannot be used: {message}", "GPU 不能使用：{message}"},
         {"nvidia-smi   (it tells more; after an update of the driver, reboot the host or make the "
          "container anew)",
          "nvidia-smi   （可查看详情；如果刚更新过驱动，请重启宿主机或重新创建容器）"}},
    [CHECK_GPU_PROBE_DIED] =
        {"gpu",
         "gpu_probe_died",
         {"the NVIDIA driver gave no answer: the process that asked it {how}",
          "NVIDIA 驱动没有回应：查询它的进程{how}"},
         {"nvidia-smi; sudo dmesg | grep -i nvrm   (they tell more), then sudo reboot",
          "nvidia-smi; sudo dmesg | grep -i nvrm   （可查看详情），然后 sudo reboot"}},
    [CHECK_DEVICE_UNKNOWN] = {"gpu",
                              "device_unknown",
                              {"there is no device '{device}'", "没有名为 '{device}' 的设备"},
                              {"--device auto   (or cpu, cuda, cuda:1, ..., ref)",
                               "--device auto   （或 cpu、cuda、cuda:1……、ref）"}},
    [CHECK_CPU_DRAWS] = {"cpu",
                         "cpu_draws",
                         {"pictures are drawn on the CPU: {description}",
                          "图片由 CPU 生成：{description}"},
                         {NULL, NULL}},
    [CHECK_CPU_UNSUPPORTED] =
        {"cpu",
         "cpu_unsupported",
         {"this CPU has no AVX2: pictures are drawn by the slow reference, hundreds of times more "
          "slowly",
          "这个 CPU 不支持 AVX2：图片由缓慢的参考实现生成，要慢几百倍"},
         {"use a machine with AVX2 (in a virtual machine, pass the host's CPU through: -cpu host), "
          "or an NVIDIA GPU",
          "换用支持 AVX2 的机器（虚拟机请直通宿主机 CPU：-cpu host），或使用 NVIDIA GPU"}},
    [CHECK_CPU_LEVEL_UNKNOWN] = {"cpu",
                                 "cpu_unsupported",
                                 {"{message}", "{message}"},
                                 {"--cpu-level auto", "--cpu-level auto"}},
    [CHECK_SHM_ENOUGH] =
        {"shm",
         "shm_enough",
         {"pictures go between processes in memfds; /dev/shm ({mib} MiB) is not needed",
          "图片通过 memfd 在进程间传递，不需要 /dev/shm（{mib} MiB）"},
         {NULL, NULL}},
    [CHECK_SHM_SMALL] =
        {"shm",
         "shm_small",
         {"/dev/shm has only {mib} MiB. sd35 does not need it, on one GPU or on many, because "
          "pictures go between its processes in memfds; other programs in the container may",
          "/dev/shm 只有 {mib} MiB。无论用一块还是多块 GPU，sd35 都不需要它，因为图片通过 memfd "
          "在进程间传递；但容器里的其他程序可能需要"},
         {"nothing for sd35; for other programs: docker run --shm-size=1g ...",
          "sd35 无需处理；其他程序需要时：docker run --shm-size=1g ..."}},
    [CHECK_SHM_REFUSED] =
        {"shm",
         "shm_refused",
         {"the system refuses shared memory (memfd_create: {message}), in which pictures go "
          "between processes",
          "系统拒绝提供共享内存（memfd_create：{message}），而图片要通过它在进程间传递"},
         {"let memfd_create through your seccomp profile, or leave out --security-opt seccomp=... "
          "(Docker's own profile allows it): docker run ...",
          "在 seccomp 配置里放行 memfd_create，或去掉 --security-opt seccomp=...（Docker "
          "自带的配置允许它）：docker run ..."}},
    [CHECK_OUTPUTS_WRITABLE] = {"outputs",
                                "outputs_writable",
                                {"'{folder}' can be written, {gib} GiB free",
                                 "'{folder}' 可以写入，剩余 {gib} GiB"},
                                {NULL, NULL}},
    [CHECK_OUTPUTS_NOT_WRITABLE] =
        {"outputs",
         "outputs_not_writable",
         {"'{path}' cannot be written by user {user}: it belongs to {owner} with mode {mode}",
          "用户 {user} 不能写入 '{path}'：它属于 {owner}，权限是 {mode}"},
         {"sudo chown -R {user} {folder!}   (or start sd35 as its owner, or take another folder "
          "with --outputs-dir)",
          "sudo chown -R {user} {folder!}   （或以其所有者的身份启动 sd35，或用 --outputs-dir "
          "换一个文件夹）"}},
    [CHECK_OUTPUTS_NOT_WRITABLE_IN_CONTAINER] =
        {"outputs",
         "outputs_not_writable",
         {"'{path}' cannot be written by user {user} of this container: it belongs to {owner} with "
          "mode {mode}",
          "容器里的用户 {user} 不能写入 '{path}'：它属于 {owner}，权限是 {mode}"},
         {"docker run {option} ...   (the owner of the volume), or on the host: sudo chown -R "
          "{user} the folder that is mounted at {folder!}",
          "docker run {option} ...   （用卷的所有者运行），或在宿主机上对挂载到 {folder!} "
          "的文件夹运行：sudo chown -R {user} 文件夹"}},
    [CHECK_OUTPUTS_READ_ONLY] =
        {"outputs",
         "outputs_read_only",
         {"'{path}' lies on a file system that is mounted read-only",
          "'{path}' 所在的文件系统以只读方式挂载"},
         {"docker run -v \"$PWD/outputs:{folder}\" ...   (without :ro, and also with --read-only), "
          "or: sudo mount -o remount,rw the file system",
          "docker run -v \"$PWD/outputs:{folder}\" ...   （不要加 :ro；使用 --read-only "
          "时也需要这个卷），或用 sudo mount -o remount,rw 重新挂载该文件系统"}},
    [CHECK_OUTPUTS_NO_FOLDER] = {"outputs",
                                 "outputs_no_folder",
                                 {"'{folder}' cannot be made into a folder: {message}",
                                  "不能建立文件夹 '{folder}'：{message}"},
                                 {"mkdir -p {folder!}   (or another folder with --outputs-dir)",
                                  "mkdir -p {folder!}   （或用 --outputs-dir 换一个文件夹）"}},
    [CHECK_OUTPUTS_FULL] =
        {"outputs",
         "outputs_full",
         {"the disk of '{folder}' has {mib} MiB free, less than the reserve of {reserve} MiB: "
          "requests are refused until there is more",
          "'{folder}' 所在磁盘只剩 {mib} MiB，少于保留的 {reserve} "
          "MiB：腾出空间之前，请求会被拒绝"},
         {"free some room (df -h {folder!}), or lower the reserve: --disk-reserve 64",
          "腾出一些空间（df -h {folder!}），或降低保留量：--disk-reserve 64"}},
    [CHECK_OUTPUTS_FAILED] = {"outputs",
                              "outputs_failed",
                              {"writing into '{folder}' fails: {message}",
                               "写入 '{folder}' 失败：{message}"},
                              {"look at the disk: df -h {folder!}; sudo dmesg | tail",
                               "检查磁盘：df -h {folder!}; sudo dmesg | tail"}},
    [CHECK_OUTPUTS_IN_USE] =
        {"outputs",
         "outputs_in_use",
         {"another sd35 server works on '{folder}'", "另一个 sd35 服务器正在使用 '{folder}'"},
         {"stop it, or give this one a folder of its own: --outputs-dir {folder!}-2",
          "停止那个服务器，或给这个服务器单独的文件夹：--outputs-dir {folder!}-2"}},
    [CHECK_PORT_FREE] = {"port",
                         "port_free",
                         {"port {port} of {host} is free", "{host} 的端口 {port} 空闲"},
                         {NULL, NULL}},
    [CHECK_PORT_TAKEN] =
        {"port",
         "port_taken",
         {"port {port} of {host} is taken by {owner}", "{host} 的端口 {port} 已被 {owner} 占用"},
         {"--port {other}   (with a port mapping of Docker, change its left side alone: -p "
          "{other}:{port})",
          "--port {other}   （若使用 Docker 的端口映射，只改左边：-p {other}:{port}）"}},
    [CHECK_PORT_PRIVILEGED] =
        {"port",
         "port_privileged",
         {"ports below {first} are for root alone: this user may not take {port}",
          "{first} 以下的端口只供 root 使用：当前用户不能使用 {port}"},
         {"--port 7860   (with Docker: -p {port}:7860), or: sudo sysctl "
          "net.ipv4.ip_unprivileged_port_start={port}",
          "--port 7860   （Docker：-p {port}:7860），或：sudo sysctl "
          "net.ipv4.ip_unprivileged_port_start={port}"}},
    [CHECK_HOST_NOT_HERE] = {"port",
                             "host_not_here",
                             {"no interface of this machine has the address {host}",
                              "这台机器的网卡都没有地址 {host}"},
                             {"--host 0.0.0.0   (ip -brief address lists the addresses)",
                              "--host 0.0.0.0   （ip -brief address 可列出所有地址）"}},
    [CHECK_HOST_UNKNOWN] = {"port",
                            "host_unknown",
                            {"{message}", "{message}"},
                            {"--host 0.0.0.0   (all of IPv4; '::' with IPv6, too)",
                             "--host 0.0.0.0   （所有 IPv4 地址；'::' 还包括 IPv6）"}},
    [CHECK_PORT_FAILED] = {"port",
                           "port_failed",
                           {"listening on {host}, port {port}: {message}",
                            "监听 {host} 的端口 {port}：{message}"},
                           {"--host 127.0.0.1 --port 7861", "--host 127.0.0.1 --port 7861"}},
    [CHECK_MODEL_FOUND] = {"model",
                           "model_found",
                           {"'{path}' is {variant} ({types})", "'{path}' 是 {variant}（{types}）"},
                           {NULL, NULL}},
    [CHECK_MODEL_NOT_FOUND] = {"model",
                               "model_missing",
                               {"{message}", "找不到模型：{message}"},
                               {"hf auth login && " DOWNLOAD_ALONE
                                " (its licence is accepted at " LICENCE
                                "), or without any: --model demo",
                                "hf auth login && " DOWNLOAD_ALONE "（先在 " LICENCE
                                " 接受许可协议），或不用下载：--model demo"}},
    [CHECK_MODEL_MISSING] = {"model",
                             "model_missing",
                             {"there is no model at '{path}'", "'{path}' 处没有模型"},
                             {"accept the licence at " LICENCE ", then: " DOWNLOAD
                              "; in a container, mount it: " MOUNT " and --model "
                              "stable-diffusion-3.5-large",
                              "先在 " LICENCE " 接受许可协议，然后运行：" DOWNLOAD
                              "；在容器里请挂载：" MOUNT
                              "，并使用 --model stable-diffusion-3.5-large"}},
    [CHECK_MODEL_UNREADABLE] = {"model",
                                "model_unreadable",
                                {"user {user} may not read '{path}': {message}",
                                 "用户 {user} 不能读取 '{path}'：{message}"},
                                {"sudo chmod -R a+rX {path!}", "sudo chmod -R a+rX {path!}"}},
    [CHECK_MODEL_GATED] =
        {"model",
         "model_gated",
         {"'{path}' is not the model: the download was refused, because the licence is not "
          "accepted or no token was sent",
          "'{path}' 不是模型本身：下载被拒绝了，因为没有接受许可协议，或者没有提供令牌"},
         {"log in at " LICENCE " and accept the licence, then: " DOWNLOAD
          "   (sd35 itself downloads nothing)",
          "登录 " LICENCE " 并接受许可协议，然后运行：" DOWNLOAD "   （sd35 本身不下载任何东西）"}},
    [CHECK_MODEL_PARTLY_DOWNLOADED] =
        {"model",
         "model_incomplete",
         {"the download has not come to its end: there is '{path}'", "下载没有完成：还有 '{path}'"},
         {"run the same 'hf download' again: it goes on where it stopped, e.g. " DOWNLOAD,
          "再次运行同样的 'hf download'，会从中断处继续，例如：" DOWNLOAD}},
    [CHECK_MODEL_POINTERS] = {"model",
                              "model_incomplete",
                              {"'{path}' is a pointer of Git LFS, not the weights themselves",
                               "'{path}' 只是 Git LFS 的指针，不是权重本身"},
                              {"git lfs install && git -C {folder!} lfs pull",
                               "git lfs install && git -C {folder!} lfs pull"}},
    [CHECK_MODEL_SHARDS_MISSING] =
        {"model",
         "model_incomplete",
         {"{missing} of {count} weight files of '{path}' are missing, such as '{shard}'",
          "'{path}' 的 {count} 个权重文件缺了 {missing} 个，例如 '{shard}'"},
         {"run the same 'hf download' again: it brings what is missing, e.g. " DOWNLOAD,
          "再次运行同样的 'hf download'，会补上缺少的文件，例如：" DOWNLOAD}},
    [CHECK_MODEL_PART_MISSING] =
        {"model",
         "model_incomplete",
         {"a part of the model has no weights: '{path}' holds no .safetensors file",
          "模型的一部分没有权重：'{path}' 里没有 .safetensors 文件"},
         {"run the same 'hf download' again: it brings what is missing, e.g. " DOWNLOAD,
          "再次运行同样的 'hf download'，会补上缺少的文件，例如：" DOWNLOAD}},
    [CHECK_MODEL_DAMAGED] =
        {"model",
         "model_damaged",
         {"the model cannot be used: {message}", "模型不能使用：{message}"},
         {"sd35 verify {path!}   (it checks every file), then download again what is wrong",
          "sd35 verify {path!}   （检查每个文件），然后重新下载有问题的文件"}},
    [CHECK_MEMORY_ENOUGH] = {"memory",
                             "memory_enough",
                             {"a picture takes {need} GiB, and there are {limit} GiB",
                              "生成一张图片需要 {need} GiB，共有 {limit} GiB"},
                             {NULL, NULL}},
    [CHECK_MEMORY_SMALL] =
        {"memory",
         "memory_small",
         {"a picture takes {need} GiB, and this machine has {limit} GiB: it is drawn very slowly, "
          "or the server is killed for it",
          "生成一张图片需要 {need} GiB，而这台机器只有 {limit} "
          "GiB：会非常慢，或者服务器因此被系统终止"},
         {"sd35 convert --model-path {path!} --output-path {path!}-fp8   (half the memory), or "
          "leave "
          "out the largest part: --without-t5",
          "sd35 convert --model-path {path!} --output-path {path!}-fp8   "
          "（内存减半），或不用最大的部分：--without-t5"}},
    [CHECK_MEMORY_SMALL_IN_CONTAINER] =
        {"memory",
         "memory_small",
         {"a picture takes {need} GiB, and this container may use {limit} GiB: it is drawn very "
          "slowly, or the server is killed for it",
          "生成一张图片需要 {need} GiB，而这个容器只能用 {limit} "
          "GiB：会非常慢，或者服务器因此被系统终止"},
         {"docker run --memory={whole}g ...   (or half of it with a model that 'sd35 convert' "
          "made, "
          "or less with --without-t5)",
          "docker run --memory={whole}g ...   （用 'sd35 convert' 转换过的模型只需一半，或用 "
          "--without-t5 减少）"}},
};

const struct check_text *check_text(enum check_row row)
{
    return &texts[row];
}
