/* The machine: its CPU and its shared memory. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/backend.h"
#include "backend/cpu/cpu_features.h"
#include "base/machine_limits.h"
#include "check/checks.h"

#define MEBIBYTE 1048576.0
#define SHM_USUAL_MIB 64.0 /* what Docker gives */

void check_cpu(struct findings *findings, const char *level, int threads)
{
    const struct backend_options options = {
        .device = "cpu", .cpu_level = level, .threads = threads};
    struct backend *backend;
    struct error err;

    if (!backend_open(&backend, &options, &err)) {
        findings_add(findings, FINDING_FAIL, CHECK_CPU_LEVEL_UNKNOWN, "message", err.message, NULL);
        return;
    }
    findings_add(findings, FINDING_OK, CHECK_CPU_DRAWS, "description", backend->description, NULL);
    if (!(cpu_features_detect() & CPU_AVX2))
        findings_add(findings, FINDING_NOTE, CHECK_CPU_UNSUPPORTED, NULL);
    backend_close(backend);
}

/* What pictures travel in: see worker_output.c. */
static bool can_share_memory(void)
{
    int fd = memfd_create("sd35-check", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    bool works = fd >= 0 && write(fd, "", 1) == 1;
    int number = errno;

    if (fd >= 0)
        close(fd);
    errno = number;
    return works;
}

void check_shared_memory(struct findings *findings, const char *root)
{
    struct machine_limits limits;
    char mib[32];
    double size;

    machine_limits_read(&limits, *root ? root : NULL);
    size = limits.shm_bytes == MACHINE_UNLIMITED ? 0 : (double)limits.shm_bytes / MEBIBYTE;
    snprintf(mib, sizeof mib, "%.0f", size);
    if (!can_share_memory())
        findings_add(findings, FINDING_FAIL, CHECK_SHM_REFUSED, "message", strerror(errno), NULL);
    else if (size < SHM_USUAL_MIB)
        findings_add(findings, FINDING_NOTE, CHECK_SHM_SMALL, "mib", mib, NULL);
    else
        findings_add(findings, FINDING_OK, CHECK_SHM_ENOUGH, "mib", mib, NULL);
}
