/* ZIP, made while it is sent: files as they are (pictures do not get smaller), sizes and checksums
 * in front of each, so that readers of streams can follow. APPNOTE.TXT 6.3.10 without ZIP64: 65535
 * files and 4 GiB at most.
 *
 * Belongs to one thread at a time. Each file is read twice, for its checksum and for its bytes.
 */
#ifndef SERVER_ZIP_STREAM_H
#define SERVER_ZIP_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/attributes.h"
#include "base/error.h"

#define ZIP_NAME_BYTES 96

struct zip_file {
    char name[ZIP_NAME_BYTES]; /* plain ASCII, no folders */
    int64_t modified_ms;       /* since 1970; told in UTC */
};

struct zip_stream;

/* Copies the list. `open` gives a file's descriptor, which the stream then owns; -1: the file is
 * left out. */
MUST_CHECK bool zip_stream_create(struct zip_stream **out, const struct zip_file *files,
                                  size_t count, int (*open)(void *context, size_t index),
                                  void *context, struct error *err);
/* The next bytes of the archive: how many, 0 at the end, -1: a file could not be read or the
 * archive would be too large. */
ssize_t zip_stream_read(struct zip_stream *stream, char *to, size_t room);
void zip_stream_destroy(struct zip_stream *stream); /* NULL is fine */

/* CRC-32 of ISO 3309 (polynomial 0x04C11DB7, reflected), of these bytes after those that gave
 * `crc`; 0 at first. */
uint32_t zip_crc32(uint32_t crc, const void *bytes, size_t size);

#endif
