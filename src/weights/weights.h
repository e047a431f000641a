/* Weights: the tensors of one component (transformer, VAE, a text encoder), wherever they are
 * stored.
 *
 * A component's tensors come from one or more memory-mapped safetensors files, in one of several
 * naming layouts. Code asks by canonical name ("block.7.image.q"); the table in weights/names.c is
 * the only place that knows what checkpoints call them. Nothing is copied but small vectors: a
 * tensor's data points into the mapped file, may be unaligned, and is read-only.
 *
 * Belongs to one thread while loading; afterwards tensors may be read by any number of threads.
 */
#ifndef WEIGHTS_WEIGHTS_H
#define WEIGHTS_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/attributes.h"
#include "base/error.h"
#include "tensor/tensor.h"
#include "weights/safetensors.h"

enum component {
    COMPONENT_TRANSFORMER,
    COMPONENT_VAE,
    COMPONENT_CLIP_L,
    COMPONENT_CLIP_G,
    COMPONENT_T5,
    COMPONENT_COUNT,
};

const char *component_name(enum component component); /* "transformer", "VAE", "CLIP-L", ... */

struct weights;

enum component weights_component(const struct weights *weights);
const char *weights_path(const struct weights *weights); /* what to call it in messages */

/* The bytes of all tensors as stored, and of those that a weight_loader handed out to be read whole
 * (linears and vectors, not tables that are looked up by row). */
size_t weights_stored_bytes(const struct weights *weights);
size_t weights_loaded_bytes(const struct weights *weights);

/* Tells the system that the mapped pages are not needed for now: resident memory shrinks, the next
 * read brings them back from the page cache or the disk. */
void weights_release_pages(const struct weights *weights);

/* True when the component has a tensor of this canonical name, suffix included:
 * weights_has(w, "block.%d.image.q2.weight", 3). */
bool weights_has(const struct weights *weights, const char *format, ...) PRINTF_LIKE(2, 3);

/* The shape of a tensor by canonical name, as a loader would hand it out (a third of a fused qkv is
 * [d, d]). False, with rank 0, when there is none or its dimensions are not from 1 to 2^31 - 1. */
bool weights_shape(const struct weights *weights, int *rank, int64_t dim[TENSOR_MAX_RANK],
                   const char *format, ...) PRINTF_LIKE(4, 5);

/* Values from the component's config.json; `fallback` when there is no such file or key, or the
 * value is of another kind. */
int64_t weights_config_integer(const struct weights *weights, const char *key, int64_t fallback);
double weights_config_number(const struct weights *weights, const char *key, double fallback);
const char *weights_config_text(const struct weights *weights, const char *key,
                                const char *fallback);

/* All of it; NULL: there is none. Borrowed. */
const json_t *weights_config(const struct weights *weights);

/* What a loader hands out, as it is stored: for converting and checking a model tensor by tensor.
 */
enum weights_use {
    WEIGHTS_LINEAR, /* a matrix that activations are multiplied with */
    WEIGHTS_CONV,
    WEIGHTS_VECTOR, /* a bias, a norm */
    WEIGHTS_TABLE,  /* looked up by row */
};

struct weights_tensor {
    const char *name; /* canonical, suffix included */
    enum weights_use use;
    struct tensor view; /* of the file, or of a copy that lives as long as the weights */
    bool has_scale;     /* FP8 with factors */
    const struct safetensors_file *file;
    const struct safetensors_entry *entry; /* the view may be a part of it */
};

/* Calls `tensor` for each tensor that a loader hands out from now on and `problem` with a sentence
 * for each one that it cannot. Either may be NULL. NULL for `observer` ends it; borrows it. */
struct weights_observer {
    void (*tensor)(void *context, const struct weights_tensor *tensor);
    void (*problem)(void *context, const char *problem);
    void *context;
};
void weights_observe(struct weights *weights, const struct weights_observer *observer);

/* Linears that loaders hand out from now on get to_8_bits where the rule of keep_rule.h says FP8,
 * unless the component has FP8 tensors already: somebody chose then what stays in 16 bits. */
void weights_quantise(struct weights *weights);

/* The tensors of the component that are stored, whether a loader asks for them or not. */
size_t weights_stored_count(const struct weights *weights);
const struct safetensors_entry *weights_stored_at(const struct weights *weights, size_t index,
                                                  const struct safetensors_file **file);

/* Collects tensors for a model and every complaint about them, so that one load names the first
 * five missing or misshapen tensors and not just one. */
#define WEIGHT_LOADER_NAMED_MAX 5

struct weight_loader {
    struct weights *weights; /* borrowed */
    int problem_count;
    bool has_other_problem; /* one that is neither a missing tensor nor a wrong shape */
    bool out_of_memory;
    char problems[ERROR_MESSAGE_BYTES];
};

void weight_loader_init(struct weight_loader *loader, struct weights *weights);

/* "<name>.weight" [n, k], its FP8 scale if it has one, and "<name>.bias" [n]. A missing bias is a
 * problem only when `with_bias`. `name` is canonical. Leaves *out without data on a problem.
 * weights_quantise decides about to_8_bits. */
void weight_loader_linear(struct weight_loader *loader, struct linear *out, int64_t n, int64_t k,
                          bool with_bias, const char *name_format, ...) PRINTF_LIKE(6, 7);

/* "<name>.weight" [n, c, kernel, kernel] and "<name>.bias" [n]. With kernel 1, a stored [n, c] is
 * taken as well. */
void weight_loader_conv(struct weight_loader *loader, struct linear *out, int64_t n, int64_t c,
                        int64_t kernel, const char *name_format, ...) PRINTF_LIKE(6, 7);

/* The tensor of this full canonical name ("block.3.image.q_norm.weight"), [n], as an aligned f32
 * copy that lives as long as the weights. */
void weight_loader_vector(struct weight_loader *loader, struct tensor *out, int64_t n,
                          const char *name_format, ...) PRINTF_LIKE(4, 5);

/* A table that is looked up by row, as stored: [rows, columns]; leading dimensions of 1 in the file
 * are dropped. */
void weight_loader_table(struct weight_loader *loader, struct tensor *out, int64_t rows,
                         int64_t columns, const char *name_format, ...) PRINTF_LIKE(5, 6);

/* False with ERROR_BAD_FILE when there was a problem: "transformer in 'PATH': 7 of its tensors are
 * missing or have the wrong shape: 'joint_blocks.0...weight' is missing; '...' is [2, 3], not
 * [4, 3]; ... and 2 more". Names are those of the file's own layout. With problems of another kind
 * (an unknown type, a scale of 0) it says "7 of its tensors cannot be used". */
MUST_CHECK bool weight_loader_finish(struct weight_loader *loader, struct error *err);

#endif
