/* Choices that were made by timing, kept in a file so that the next start makes the same ones.
 *
 * A set of records, each a kind, a key and a value; the bytes of both mean something to the caller
 * alone. It lies in memory, and the file is what processes agree on: saving reads it again, adds
 * what it lacks and replaces it as a whole, so that nobody ever sees half of one.
 *
 * A file counts only for the identity that it was written under (which GPU, which libraries) and
 * only when its checksum holds; any other is as good as none. It is read where it was written, so
 * its numbers have this machine's byte order. No file can do harm in here, but values come from
 * outside all the same: the caller has each checked before it is used.
 *
 * Belongs to one thread at a time. Any number of processes may share a file.
 */
#ifndef BACKEND_CUDA_CHOICE_FILE_H
#define BACKEND_CUDA_CHOICE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"

#define CHOICE_FILE_BYTES_MAX ((size_t)4 << 20)
#define CHOICE_RECORDS_MAX 8192
#define CHOICE_PART_BYTES_MAX 2048 /* of a key, a value and an identity */

struct choice_file;

/* Reads the identity's file in `folder`, if there is one. folder NULL: choices live only in memory.
 * Copies both. Fails only with ERROR_NO_MEMORY. */
MUST_CHECK bool choice_file_create(struct choice_file **out, const char *folder,
                                   const char *identity, struct error *err);
void choice_file_destroy(struct choice_file *file); /* saves nothing; NULL is fine */

/* The value of that key, until something is added; NULL when there is none. */
const void *choice_file_find(const struct choice_file *file, uint32_t kind, const void *key,
                             size_t key_size, size_t *value_size);
/* Keeps a value, in place of what the key had; it counts as new even where it is the same, so that
 * the file tells by its date when something was chosen last. The oldest records go when there are
 * too many; when memory is short, or a size is not from 1 to CHOICE_PART_BYTES_MAX, nothing is
 * kept. */
void choice_file_add(struct choice_file *file, uint32_t kind, const void *key, size_t key_size,
                     const void *value, size_t value_size);

/* Writes the file, mode 0600, when there is something new. What another process wrote meanwhile
 * stays, but for values that were replaced here. After a failure nothing is tried until there is
 * something new again. The result may be ignored. */
bool choice_file_save(struct choice_file *file, struct error *err);

const char *choice_file_path(const struct choice_file *file); /* NULL: only in memory */

#endif
