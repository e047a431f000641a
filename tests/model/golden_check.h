/* Golden check: every stage of a model against what the reference implementation computed.
 *
 * The files of this program each check a group of stages; this is what they share. Tensors lie in
 * memory that the device and the host both see, so that only two things differ from device to
 * device: the type of activations, and that the host waits before it reads what ops have written.
 */
#ifndef TESTS_MODEL_GOLDEN_CHECK_H
#define TESTS_MODEL_GOLDEN_CHECK_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attributes.h"
#include "pipeline/pipeline_private.h"
#include "weights/safetensors.h"

/* Largest relative errors, ||got - want|| / ||want||. */
struct limits {
    double text;     /* what encoders make of a prompt */
    double forward;  /* of the transformer: blocks, velocity */
    double vae;      /* decoded, encoded */
    double pipeline; /* a whole pipeline's latents */
    double picture;  /* of 255 levels, at the 99.9th percentile */
};

struct check {
    struct pipeline *pipeline;
    struct safetensors_file *expected;
    json_t *cases;
    const char *model_directory;
    struct limits limits;
    bool is_fp8;              /* a converted model: only its velocities are compared */
    bool has_fp8_activations; /* what goes into its FP8 layers is rounded, by devices or for them */
    int checked, failed, skipped;
};

/* One line, and the count. ok is error <= limit, so NaN fails. */
void check_report(struct check *check, double error, double limit, const char *format, ...)
    PRINTF_LIKE(4, 5);
void check_skip(struct check *check, const char *format, ...) PRINTF_LIKE(2, 3);
/* A stage that could not even run. */
void check_broken(struct check *check, const struct error *err, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* The expected tensor, contiguous f32 (I32 by value), in memory as below; rank 0 when the bundle
 * has none of this name. */
struct tensor check_expected(struct check *check, const char *format, ...) PRINTF_LIKE(2, 3);

/* A tensor of zeros that ops and the host can use, never freed. */
struct tensor check_zeros(struct check *check, enum dtype dtype, int rank, const int64_t *dim);

/* A contiguous copy of x, any strides, as ops take it: f. */
struct tensor check_activation(struct check *check, const struct tensor *x);

/* A contiguous copy of x, any strides, on any side, as the host reads it: f32, and it is all there.
 * Where ops have failed, says so. */
struct tensor check_result(struct check *check, const struct tensor *x);

/* ||got - want|| / ||want||; got f32 contiguous on the host, of as many elements. */
double relative_error(const struct tensor *got, const struct tensor *want);

/* Compares what ops wrote and reports under the expected tensor's name. */
void check_stage(struct check *check, double limit, const struct tensor *got, const char *format,
                 ...) PRINTF_LIKE(4, 5);

/* Device memory for a plan: measured by the caller's counting arena, never freed. */
struct arena check_arena(struct check *check, size_t bytes);

void check_tokens(struct check *check, const char *tokens_path);
void check_text(struct check *check);
void check_transformer(struct check *check);
void check_vae(struct check *check);
void check_schedules(struct check *check);
void check_noise(struct check *check);
void check_pipelines(struct check *check);

#endif
