/* Writes the tensors of a plan: quantises or copies them in batches of rows, on all threads, while
 * the batch before is hashed and written. The result does not depend on the number of threads.
 */
#ifndef CONVERT_TENSOR_WRITER_H
#define CONVERT_TENSOR_WRITER_H

#include <stdatomic.h>
#include <stdbool.h>

#include <jansson.h>

#include "base/attributes.h"
#include "base/error.h"
#include "convert/convert_plan.h"
#include "convert/quantise.h"
#include "weights/safetensors.h"

struct tensor_writer;

/* threads: 0 takes one for each CPU. Borrows `plan`, whose layers are given their errors. Free with
 * tensor_writer_destroy. */
MUST_CHECK bool tensor_writer_create(struct tensor_writer **out, struct convert_plan *plan,
                                     const struct quantise_ops *ops, int threads,
                                     const struct convert_callbacks *callbacks, struct error *err);
void tensor_writer_destroy(struct tensor_writer *writer); /* NULL is fine */

/* Puts all tensors of `file` into `out`, which declares them, and enters their hashes into
 * `manifest` under the file's name. Fails with ERROR_BAD_FILE when a weight is not finite, naming
 * it, and with ERROR_CANCELLED. */
MUST_CHECK bool tensor_writer_put(struct tensor_writer *writer, const struct plan_file *file,
                                  struct safetensors_writer *out, json_t *manifest,
                                  struct error *err);

#endif
