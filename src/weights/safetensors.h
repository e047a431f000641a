/* safetensors: reading by memory map, and writing.
 *
 * Layout: u64 header length, JSON header, data (model.md, section 3.6). Every number of the header
 * is hostile: nothing is believed before the whole header has been checked.
 */
#ifndef WEIGHTS_SAFETENSORS_H
#define WEIGHTS_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "tensor/dtype.h"

#define SAFETENSORS_HEADER_BYTES_MAX 100000000u /* the format's; we read at most 8 MiB of it */
#define SAFETENSORS_MAX_RANK 8
#define SAFETENSORS_NAME_BYTES_MAX 512

/* What the file says; types that we never compute with are kept so that files having them open.
 * Types unknown to us (F4, C64, ...) are SAFETENSORS_DTYPE_COUNT: only their offsets are checked.
 */
enum safetensors_dtype {
    SAFETENSORS_F64,
    SAFETENSORS_F32,
    SAFETENSORS_F16,
    SAFETENSORS_BF16,
    SAFETENSORS_F8_E4M3,
    SAFETENSORS_F8_E5M2,
    SAFETENSORS_F8_E8M0,
    SAFETENSORS_I64,
    SAFETENSORS_I32,
    SAFETENSORS_I16,
    SAFETENSORS_I8,
    SAFETENSORS_U64,
    SAFETENSORS_U32,
    SAFETENSORS_U16,
    SAFETENSORS_U8,
    SAFETENSORS_BOOL,
    SAFETENSORS_DTYPE_COUNT
};

struct safetensors_entry {
    const char *name; /* NUL-terminated, owned by the file */
    enum safetensors_dtype dtype;
    const char *dtype_name; /* as the file writes it: for messages about types unknown to us */
    int rank;
    int64_t dim[SAFETENSORS_MAX_RANK];
    const unsigned char *data; /* in the mapping; may be unaligned */
    size_t bytes;
};

struct safetensors_file;

/* Maps and checks the file. Free with safetensors_close. */
MUST_CHECK bool safetensors_open(struct safetensors_file **out, const char *path,
                                 struct error *err);
/* The same over memory that the caller keeps: for tests and fuzzing. `name` goes into messages. */
MUST_CHECK bool safetensors_open_memory(struct safetensors_file **out, const void *bytes,
                                        size_t size, const char *name, struct error *err);
/* One more owner: the file is unmapped when all of them have closed it. Returns `file`. */
struct safetensors_file *safetensors_retain(struct safetensors_file *file);
void safetensors_close(struct safetensors_file *file); /* NULL is fine */

/* The file's beginning up to the tensors' data: all that is not in a tensor. */
void safetensors_header(const struct safetensors_file *file, const void **bytes, size_t *size);
const char *safetensors_path(const struct safetensors_file *file);
size_t safetensors_count(const struct safetensors_file *file);
/* Entries are sorted by name. */
const struct safetensors_entry *safetensors_entry_at(const struct safetensors_file *file,
                                                     size_t index);
const struct safetensors_entry *safetensors_find(const struct safetensors_file *file,
                                                 const char *name); /* NULL: none */
/* A value of "__metadata__"; NULL: none. */
const char *safetensors_metadata(const struct safetensors_file *file, const char *key);
/* Tells the system that the pages of the whole file, or of one entry, are not needed for now. */
void safetensors_release_pages(const struct safetensors_file *file);
void safetensors_release_entry(const struct safetensors_file *file,
                               const struct safetensors_entry *entry);

/* Our dtype for the file's; false for those that no op computes with. */
bool safetensors_to_dtype(enum dtype *out, enum safetensors_dtype dtype);
enum safetensors_dtype safetensors_from_dtype(enum dtype dtype);
size_t safetensors_dtype_size(enum safetensors_dtype dtype);      /* bytes of one element */
const char *safetensors_dtype_name(enum safetensors_dtype dtype); /* "F32", "BF16", ... */

/* Writing: declare every tensor, then append the data of each in the order of declaration, or put
 * it in any order. The file appears under its name only when safetensors_writer_commit succeeds. */
struct safetensors_writer;

MUST_CHECK bool safetensors_writer_create(struct safetensors_writer **out, const char *path,
                                          struct error *err);
/* rank 0 to SAFETENSORS_MAX_RANK. */
MUST_CHECK bool safetensors_writer_declare(struct safetensors_writer *writer, const char *name,
                                           enum safetensors_dtype dtype, int rank,
                                           const int64_t *dim, struct error *err);
/* Once data has come, only a value of the same length can take the place of one that is there. */
MUST_CHECK bool safetensors_writer_metadata(struct safetensors_writer *writer, const char *key,
                                            const char *value, struct error *err);
/* Bytes of the next tensors, in pieces of any size. The first call ends the declarations. */
MUST_CHECK bool safetensors_writer_append(struct safetensors_writer *writer, const void *bytes,
                                          size_t size, struct error *err);
/* Bytes of any tensors by their place in the data, each once: the first tensor declared begins at
 * 0, each other where the one before it ends. The first call ends the declarations and has the disk
 * promise the room for all of them. Not together with append. */
MUST_CHECK bool safetensors_writer_put(struct safetensors_writer *writer, size_t offset,
                                       const void *bytes, size_t size, struct error *err);
/* Fails when fewer bytes came than were declared. Frees the writer in any case. */
MUST_CHECK bool safetensors_writer_commit(struct safetensors_writer *writer, struct error *err);
void safetensors_writer_abandon(struct safetensors_writer *writer); /* NULL is fine */

#endif
