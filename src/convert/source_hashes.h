/* SHA-256 of the files that a model is converted from, computed beside the conversion.
 *
 * It is the hash that model hubs publish, so it says which model this was. One file is one chain of
 * blocks that cannot be divided; several files are hashed at a time.
 */
#ifndef CONVERT_SOURCE_HASHES_H
#define CONVERT_SOURCE_HASHES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"

struct source_hashes;

#define SOURCE_HASH_TEXT_BYTES 65 /* hexadecimal, and a NUL */

/* Starts hashing the files, large ones first, so that none is left over at the end. Borrows the
 * paths. Free with source_hashes_destroy. */
MUST_CHECK bool source_hashes_create(struct source_hashes **out, const char *const *paths,
                                     size_t count, int thread_count, struct error *err);
/* Stops what is still going on. NULL is fine. */
void source_hashes_destroy(struct source_hashes *hashes);

/* Waits up to `seconds` for the hash of file i: *out = its text, which the hashes own, or NULL when
 * it is not ready yet. Fails when the file could not be read. */
MUST_CHECK bool source_hashes_wait(const char **out, struct source_hashes *hashes, size_t i,
                                   double seconds, struct error *err);

/* Bytes hashed so far, and in all. */
void source_hashes_progress(struct source_hashes *hashes, size_t *done, size_t *total);

#endif
