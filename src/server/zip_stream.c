#include "server/zip_stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOCAL_BYTES 30
#define CENTRAL_BYTES 46
#define END_BYTES 22
#define RECORD_BYTES_MAX (CENTRAL_BYTES + ZIP_NAME_BYTES)
#define VERSION_2_0 20

struct entry {
    struct zip_file file;
    uint32_t crc, size, offset;
    bool is_in;
};

struct zip_stream {
    struct entry *entries;
    size_t count;
    int (*open)(void *context, size_t index);
    void *context;
    enum { AT_FILE, IN_FILE, AT_DIRECTORY, AT_END, IS_DONE } state;
    size_t next;                            /* entry, of files and then of the directory */
    int fd;                                 /* of the file that is sent; -1: none */
    uint32_t left;                          /* bytes of it that are not sent */
    uint64_t written;                       /* of the archive, with `record` */
    uint64_t directory;                     /* where it starts */
    uint32_t in_archive;                    /* files */
    unsigned char record[RECORD_BYTES_MAX]; /* a header that is being sent */
    size_t record_size, record_sent;
};

bool zip_stream_create(struct zip_stream **out, const struct zip_file *files, size_t count,
                       int (*open)(void *context, size_t index), void *context, struct error *err)
{
    struct zip_stream *stream = calloc(1, sizeof *stream);

    if (!stream)
        return error_set(err, ERROR_NO_MEMORY, "archive");
    stream->fd = -1;
    stream->entries = calloc(count > 0 ? count : 1, sizeof *stream->entries);
    if (!stream->entries || count > UINT16_MAX) {
        zip_stream_destroy(stream);
        return error_set(err, ERROR_NO_MEMORY, "archive of %zu files", count);
    }
    for (size_t i = 0; i < count; i++) {
        stream->entries[i].file = files[i];
        stream->entries[i].file.name[ZIP_NAME_BYTES - 1] = '\0';
    }
    stream->count = count;
    stream->open = open;
    stream->context = context;
    *out = stream;
    return true;
}

void zip_stream_destroy(struct zip_stream *stream)
{
    if (!stream)
        return;
    if (stream->fd >= 0)
        close(stream->fd);
    free(stream->entries);
    free(stream);
}

static unsigned char *put_u16(unsigned char *at, uint32_t value)
{
    at[0] = (unsigned char)value;
    at[1] = (unsigned char)(value >> 8);
    return at + 2;
}

static unsigned char *put_u32(unsigned char *at, uint32_t value)
{
    return put_u16(put_u16(at, value & 0xffff), value >> 16);
}

/* MS-DOS: two seconds' steps from 1980 to 2107. */
static uint32_t dos_time(int64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm parts;

    if (!gmtime_r(&seconds, &parts) || parts.tm_year < 80 || parts.tm_year > 207)
        return 1u << 21 | 1u << 16; /* the first of January 1980 */
    return (uint32_t)(parts.tm_year - 80) << 25 | (uint32_t)(parts.tm_mon + 1) << 21 |
           (uint32_t)parts.tm_mday << 16 | (uint32_t)parts.tm_hour << 11 |
           (uint32_t)parts.tm_min << 5 | (uint32_t)parts.tm_sec / 2;
}

/* What the header in front of a file and its line in the directory share: from the version needed
 * to the length of the extra field. */
static unsigned char *put_facts(unsigned char *at, const struct entry *entry)
{
    at = put_u16(at, VERSION_2_0);
    at = put_u16(at, 0); /* flags */
    at = put_u16(at, 0); /* stored */
    at = put_u32(at, dos_time(entry->file.modified_ms));
    at = put_u32(at, entry->crc);
    at = put_u32(at, entry->size);
    at = put_u32(at, entry->size);
    at = put_u16(at, (uint32_t)strlen(entry->file.name));
    return put_u16(at, 0);
}

static void end_record(struct zip_stream *stream, const unsigned char *end)
{
    stream->record_size = (size_t)(end - stream->record);
    stream->record_sent = 0;
    stream->written += stream->record_size;
}

static unsigned char *put_name(unsigned char *at, const struct entry *entry)
{
    size_t length = strlen(entry->file.name);

    memcpy(at, entry->file.name, length);
    return at + length;
}

static void start_local(struct zip_stream *stream, const struct entry *entry)
{
    unsigned char *at = put_u32(stream->record, 0x04034b50);

    end_record(stream, put_name(put_facts(at, entry), entry));
}

static void start_central(struct zip_stream *stream, const struct entry *entry)
{
    unsigned char *at = put_u32(stream->record, 0x02014b50);

    at = put_facts(put_u16(at, VERSION_2_0), entry);
    at = put_u16(at, 0); /* length of the comment */
    at = put_u16(at, 0); /* disk */
    at = put_u16(at, 0); /* internal and external attributes */
    at = put_u32(at, 0);
    at = put_u32(at, entry->offset);
    end_record(stream, put_name(at, entry));
}

static void start_end(struct zip_stream *stream)
{
    uint64_t size = stream->written - stream->directory;
    unsigned char *at = put_u32(stream->record, 0x06054b50);

    at = put_u32(at, 0); /* this disk and the directory's */
    at = put_u16(at, stream->in_archive);
    at = put_u16(at, stream->in_archive);
    at = put_u32(at, (uint32_t)size);
    at = put_u32(at, (uint32_t)stream->directory);
    end_record(stream, put_u16(at, 0));
}

static ssize_t read_some(int fd, void *to, size_t room)
{
    ssize_t got;

    do
        got = read(fd, to, room);
    while (got < 0 && errno == EINTR);
    return got;
}

/* Checksum and size of the whole file, and back to its start. */
static bool measure(int fd, struct entry *entry)
{
    unsigned char bytes[16384];
    uint64_t size = 0;
    ssize_t got;

    while ((got = read_some(fd, bytes, sizeof bytes)) > 0) {
        entry->crc = zip_crc32(entry->crc, bytes, (size_t)got);
        size += (uint64_t)got;
        if (size > UINT32_MAX)
            return false;
    }
    entry->size = (uint32_t)size;
    return got == 0 && lseek(fd, 0, SEEK_SET) == 0;
}

/* Bytes that the directory will take, at most. */
static uint64_t directory_bytes(const struct zip_stream *stream)
{
    return (uint64_t)stream->count * RECORD_BYTES_MAX + END_BYTES;
}

/* False: the archive cannot go on. */
static bool start_file(struct zip_stream *stream)
{
    struct entry *entry = &stream->entries[stream->next];

    stream->fd = stream->open(stream->context, stream->next);
    stream->next++;
    if (stream->fd < 0)
        return true;
    if (!measure(stream->fd, entry) ||
        stream->written + LOCAL_BYTES + ZIP_NAME_BYTES + entry->size + directory_bytes(stream) >
            UINT32_MAX)
        return false;
    entry->offset = (uint32_t)stream->written;
    entry->is_in = true;
    stream->in_archive++;
    start_local(stream, entry);
    stream->written += entry->size;
    stream->left = entry->size;
    stream->state = IN_FILE;
    return true;
}

static void start_next_line(struct zip_stream *stream)
{
    while (stream->next < stream->count && !stream->entries[stream->next].is_in)
        stream->next++;
    if (stream->next < stream->count) {
        start_central(stream, &stream->entries[stream->next]);
        stream->next++;
        return;
    }
    start_end(stream);
    stream->state = AT_END;
}

/* Decides what comes after a record or a file that is sent. False: the archive cannot go on. */
static bool step(struct zip_stream *stream)
{
    switch (stream->state) {
    case AT_FILE:
        if (stream->next < stream->count)
            return start_file(stream);
        stream->directory = stream->written;
        stream->next = 0;
        stream->state = AT_DIRECTORY;
        return true;
    case IN_FILE: /* and nothing of it is left */
        close(stream->fd);
        stream->fd = -1;
        stream->state = AT_FILE;
        return true;
    case AT_DIRECTORY:
        start_next_line(stream);
        return true;
    case AT_END:
    case IS_DONE:
        stream->state = IS_DONE;
        return true;
    }
    return false;
}

static size_t send_record(struct zip_stream *stream, char *to, size_t room)
{
    size_t size = stream->record_size - stream->record_sent;

    size = size < room ? size : room;
    memcpy(to, stream->record + stream->record_sent, size);
    stream->record_sent += size;
    return size;
}

ssize_t zip_stream_read(struct zip_stream *stream, char *to, size_t room)
{
    size_t done = 0;

    while (done < room && stream->state != IS_DONE) {
        if (stream->record_sent < stream->record_size) {
            done += send_record(stream, to + done, room - done);
        } else if (stream->state == IN_FILE && stream->left > 0) {
            size_t want = stream->left < room - done ? stream->left : room - done;
            ssize_t got = read_some(stream->fd, to + done, want);

            if (got <= 0) /* it got shorter, or the disk fails */
                return -1;
            done += (size_t)got;
            stream->left -= (uint32_t)got;
        } else if (!step(stream)) {
            return -1;
        }
    }
    return (ssize_t)done;
}
