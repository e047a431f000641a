/* Whole files: reading small ones with a limit, and writing so that nobody ever sees half of one.
 */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"

/* Reads all of `path` into *out, followed by a NUL that *out_size does not count. Refuses anything
 * but a regular file, and files larger than `limit` bytes. The caller frees *out. */
MUST_CHECK bool file_read(unsigned char **out, size_t *out_size, const char *path, size_t limit,
                          struct error *err);

/* A file being written under a temporary name beside `path`, which appears at `path` only when it
 * is complete and on disk. */
struct file_writer;

/* Fails with ERROR_IO, also when `path` is there but not a regular file. */
MUST_CHECK bool file_writer_create(struct file_writer **out, const char *path, struct error *err);
MUST_CHECK bool file_writer_append(struct file_writer *writer, const void *bytes, size_t size,
                                   struct error *err);
/* At a place of the file, whatever was written elsewhere; what lies before it reads as zeros until
 * it is written. */
MUST_CHECK bool file_writer_put(struct file_writer *writer, size_t offset, const void *bytes,
                                size_t size, struct error *err);
/* Makes the file `size` bytes long and has the disk promise them, where the file system can: a full
 * disk is found here and not in the middle. */
MUST_CHECK bool file_writer_reserve(struct file_writer *writer, size_t size, struct error *err);
/* The file is for its owner alone (mode 0600), whatever the umask allows. */
MUST_CHECK bool file_writer_keep_private(struct file_writer *writer, struct error *err);
/* Syncs, renames to `path` (replacing what was there) and frees the writer, also when it fails. */
MUST_CHECK bool file_writer_commit(struct file_writer *writer, struct error *err);
/* Removes the temporary file and frees the writer. NULL is fine. */
void file_writer_abandon(struct file_writer *writer);

/* file_writer in one call. */
MUST_CHECK bool file_write(const char *path, const void *bytes, size_t size, struct error *err);

/* True when `path` is an existing directory / regular file. */
bool file_is_directory(const char *path);
bool file_is_regular(const char *path);

/* Joins with one '/'. NULL when memory is short; the caller frees it. */
char *file_join(const char *directory, const char *name);

#endif
