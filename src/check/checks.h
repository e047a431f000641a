/* The checks themselves: each looks at one thing that a server needs, as that server would, and
 * adds what it found. None of them downloads, changes or keeps anything.
 *
 * `root` is "" but for tests, which have a tree with /dev, /proc and the like of their own.
 */
#ifndef CHECK_CHECKS_H
#define CHECK_CHECKS_H

#include <stdbool.h>

#include "check/findings.h"
#include "pipeline/pipeline.h"

/* Whether this process runs in a container, as far as files and Kubernetes' variables tell. */
bool check_is_in_container(const char *root);

/* What GPUs a server's workers would take. */
struct gpu_check {
    const char *root;
    const char *const *devices; /* as given, NULL at the end; none: "auto" */
    const char *cpu_level, *precision;
    bool opens; /* each GPU, which takes a second; else only what the driver shows */
};
/* The GPUs that "auto" stands for: those that are new enough. */
struct gpu_list {
    int count, index[64];
};
/* Only whether there are such devices at all. */
void check_device_names(struct findings *findings, const char *const *devices);
/* Asks the plugin in processes of their own. *draws_on_cpu: some worker would. */
void check_gpus(struct findings *findings, const struct gpu_check *check, struct gpu_list *list,
                bool *draws_on_cpu);

/* The CPU, where it draws. `threads` 0: one for each. */
void check_cpu(struct findings *findings, const char *level, int threads);

void check_shared_memory(struct findings *findings, const char *root);

/* Makes the folder where it is missing, writes and removes a file, and removes the folder that it
 * made. `reserve_bytes` should stay free. `syncs`: waits for the disk, too. */
void check_outputs(struct findings *findings, const char *root, const char *folder,
                   double reserve_bytes, bool syncs);

/* Binds the port for a moment. */
void check_port(struct findings *findings, const char *host, int port);

/* Opens the files as a worker does, on the CPU, and where that fails, looks for what downloads
 * leave behind. Nothing big is read. `draws_on_cpu`: a picture of the
 * usual size must fit into memory, too. */
void check_model(struct findings *findings, const char *root,
                 const struct pipeline_options *options, bool draws_on_cpu);
/* Only whether something can be read there: adds what is wrong, and is false then. */
bool check_model_path(struct findings *findings, const char *path);

#endif
