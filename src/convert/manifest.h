/* Manifest: the hashes by which `sd35 verify` tells a converted model from a damaged one.
 *
 *   {"version": 1, "made_by": "sd35 0.1.0", "hash": "blake2b-256",
 *    "files": {"transformer/diffusion_pytorch_model.safetensors":
 *                  {"bytes": N, "header": "<hash>", "tensors": {"<name>": "<hash>", ...}},
 *              "model_index.json": {"bytes": N, "hash": "<hash>"}, ...}}
 *
 * Tensors are hashed apart, so that a damaged one can be named, and all of them at a time. A header
 * is everything before the tensors' data. BLAKE2b (RFC 7693) is fast without instructions of its
 * own and can be checked by `b2sum -l 256`.
 */
#ifndef CONVERT_MANIFEST_H
#define CONVERT_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>
#include <sodium.h>

#include "base/attributes.h"
#include "base/error.h"

#define MANIFEST_FILE "manifest.json"
#define MANIFEST_HASH "blake2b-256"
#define MANIFEST_HASH_BYTES 32
#define MANIFEST_TEXT_BYTES (2 * MANIFEST_HASH_BYTES + 1)

/* A hash that grows. */
struct manifest_hash {
    crypto_generichash_state state;
};
void manifest_hash_start(struct manifest_hash *hash);
void manifest_hash_add(struct manifest_hash *hash, const void *bytes, size_t size);
void manifest_hash_end(struct manifest_hash *hash, char text[MANIFEST_TEXT_BYTES]);
void manifest_hash_of(char text[MANIFEST_TEXT_BYTES], const void *bytes, size_t size);

/* Where the manifest of a model lies: in its folder, or beside its file. The caller frees it; NULL
 * when memory is short. */
char *manifest_path(const char *model);

/* What belongs to a model beside its file, "x.safetensors": "x.manifest.json". */
char *manifest_path_beside(const char *model, const char *name);

/* An empty manifest; NULL when memory is short. */
json_t *manifest_create(const char *made_by);
/* Of a file whose header is added later. */
MUST_CHECK bool manifest_add_tensor(json_t *manifest, const char *file, const char *tensor,
                                    const char *hash, struct error *err);
/* Reads the header of the safetensors file at `path` and enters it as `file`. */
MUST_CHECK bool manifest_add_header(json_t *manifest, const char *file, const char *path,
                                    struct error *err);
/* Any other file. */
MUST_CHECK bool manifest_add_file(json_t *manifest, const char *file, const void *bytes,
                                  size_t size, struct error *err);

/* Checks that it is one that we can read. */
MUST_CHECK bool manifest_read(json_t **out, const char *path, struct error *err);

#endif
