#include "server/picture_text.h"

#include <errno.h>
#include <sodium.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VARIANT sodium_base64_VARIANT_ORIGINAL
#define PICTURE_FILE_BYTES_MAX ((size_t)1 << 30)

char *picture_text_encode(const void *bytes, size_t size)
{
    size_t room;
    char *text;

    if (size > SIZE_MAX / 2)
        return NULL;
    room = sodium_base64_ENCODED_LEN(size, VARIANT);
    text = malloc(room);
    if (text)
        sodium_bin2base64(text, room, bytes, size, VARIANT);
    return text;
}

json_t *picture_text_json(const void *bytes, size_t size)
{
    char *text = picture_text_encode(bytes, size);
    json_t *json = text ? json_string_nocheck(text) : NULL;

    free(text);
    return json;
}

/* All of a file; NULL: it cannot be read. The caller frees it. */
static unsigned char *read_file(int fd, size_t *size)
{
    struct stat status;
    unsigned char *bytes;
    size_t used = 0;

    if (fstat(fd, &status) != 0 || status.st_size <= 0 ||
        (uint64_t)status.st_size > PICTURE_FILE_BYTES_MAX)
        return NULL;
    bytes = malloc((size_t)status.st_size);
    while (bytes && used < (size_t)status.st_size) {
        ssize_t got = read(fd, bytes + used, (size_t)status.st_size - used);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            free(bytes);
            return NULL;
        }
        used += (size_t)got;
    }
    *size = used;
    return bytes;
}

json_t *picture_text_stored(struct hub *hub, const struct store_picture *picture)
{
    int fd = hub_open_file(hub, picture->path);
    unsigned char *bytes;
    size_t size = 0;
    json_t *json;

    if (fd < 0)
        return NULL;
    bytes = read_file(fd, &size);
    close(fd);
    json = bytes ? picture_text_json(bytes, size) : NULL;
    free(bytes);
    return json;
}
