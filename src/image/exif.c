#include "image/exif.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "image/image_bytes.h"
#include "image/image_text.h"

#define TAG_IMAGE_DESCRIPTION 0x010e
#define TAG_EXIF_DIRECTORY 0x8769
#define TAG_USER_COMMENT 0x9286

#define TYPE_BYTE 1
#define TYPE_ASCII 2
#define TYPE_LONG 4
#define TYPE_UNDEFINED 7

#define HEADER_BYTES 8
#define ENTRY_BYTES 12
#define CODE_BYTES 8 /* of the character code before a UserComment */

static const char code_unicode[CODE_BYTES] = "UNICODE";
static const char code_ascii[CODE_BYTES] = "ASCII\0\0";

/* A directory is a count, its entries and the offset of the next directory. */
static size_t directory_bytes(size_t entry_count)
{
    return 2 + ENTRY_BYTES * entry_count + 4;
}

/* The value lies at `value`, except for a single LONG, which is `value`. */
static void write_entry(unsigned char *entry, uint32_t tag, uint32_t type, size_t count,
                        size_t value)
{
    write_be16(entry, tag);
    write_be16(entry + 2, type);
    write_be32(entry + 4, (uint32_t)count);
    write_be32(entry + 8, (uint32_t)value);
}

/* An ASCII value ends with NUL; one of up to 4 bytes would have to lie inside the entry. */
static size_t ascii_bytes(const char *text)
{
    size_t bytes = strlen(text) + 1;

    return bytes < 5 ? 5 : bytes;
}

/* Layout: header, first directory, EXIF directory, description, comment; each at an even offset. */
bool exif_format(unsigned char **out, size_t *out_size, const struct image_metadata *metadata,
                 struct error *err)
{
    size_t description_bytes = metadata->json ? ascii_bytes(metadata->json) : 0;
    size_t entry_count = (metadata->json ? 1u : 0u) + (metadata->infotext ? 1u : 0u);
    size_t exif_at = HEADER_BYTES + directory_bytes(entry_count);
    size_t description_at = exif_at + (metadata->infotext ? directory_bytes(1) : 0);
    size_t comment_at = size_round_up(description_at + description_bytes, 2);
    size_t utf16_bytes = 0, size;
    unsigned char *utf16 = NULL, *block, *entry;

    if (metadata->infotext && !image_text_to_utf16be(&utf16, &utf16_bytes, metadata->infotext, err))
        return false;
    size = comment_at + (metadata->infotext ? CODE_BYTES + utf16_bytes : 0);
    block = calloc(1, size);
    if (!block) {
        free(utf16);
        return error_set(err, ERROR_NO_MEMORY, "EXIF block of %zu bytes", size);
    }

    memcpy(block, "MM\0*\0\0\0\10", HEADER_BYTES);
    write_be16(block + HEADER_BYTES, (uint32_t)entry_count);
    entry = block + HEADER_BYTES + 2;
    if (metadata->json) {
        write_entry(entry, TAG_IMAGE_DESCRIPTION, TYPE_ASCII, description_bytes, description_at);
        memcpy(block + description_at, metadata->json, strlen(metadata->json));
        entry += ENTRY_BYTES;
    }
    if (metadata->infotext) {
        write_entry(entry, TAG_EXIF_DIRECTORY, TYPE_LONG, 1, exif_at);
        write_be16(block + exif_at, 1);
        write_entry(block + exif_at + 2, TAG_USER_COMMENT, TYPE_UNDEFINED, CODE_BYTES + utf16_bytes,
                    comment_at);
        memcpy(block + comment_at, code_unicode, CODE_BYTES);
        memcpy(block + comment_at + CODE_BYTES, utf16, utf16_bytes);
    }
    free(utf16);
    *out = block;
    *out_size = size;
    return true;
}

struct tiff {
    const unsigned char *bytes;
    size_t size;
    bool is_big_endian;
};

static uint32_t tiff_u16(const struct tiff *tiff, size_t at)
{
    return (tiff->is_big_endian ? read_be16 : read_le16)(tiff->bytes + at);
}

static uint32_t tiff_u32(const struct tiff *tiff, size_t at)
{
    return (tiff->is_big_endian ? read_be32 : read_le32)(tiff->bytes + at);
}

static bool tiff_open(struct tiff *out, const unsigned char *bytes, size_t size)
{
    if (size < HEADER_BYTES)
        return false;
    out->bytes = bytes;
    out->size = size;
    out->is_big_endian = memcmp(bytes, "MM\0*", 4) == 0;
    return out->is_big_endian || memcmp(bytes, "II*\0", 4) == 0;
}

/* *entry = the offset of the entry with this tag in the directory at `at`. */
static bool find_entry(size_t *entry, const struct tiff *tiff, size_t at, uint32_t tag)
{
    size_t count, room;

    if (at > tiff->size || tiff->size - at < 2)
        return false;
    count = tiff_u16(tiff, at);
    room = (tiff->size - at - 2) / ENTRY_BYTES;
    for (size_t i = 0; i < count && i < room; i++) {
        *entry = at + 2 + ENTRY_BYTES * i;
        if (tiff_u16(tiff, *entry) == tag)
            return true;
    }
    return false;
}

/* The bytes of an entry whose type counts bytes. */
static bool entry_bytes(const unsigned char **out, size_t *out_size, const struct tiff *tiff,
                        size_t entry)
{
    uint32_t type = tiff_u16(tiff, entry + 2);
    size_t count = tiff_u32(tiff, entry + 4);
    size_t at = count <= 4 ? entry + 8 : tiff_u32(tiff, entry + 8);

    if (type != TYPE_BYTE && type != TYPE_ASCII && type != TYPE_UNDEFINED)
        return false;
    if (count > IMAGE_TEXT_BYTES_MAX || at > tiff->size || count > tiff->size - at)
        return false;
    *out = tiff->bytes + at;
    *out_size = count;
    return true;
}

/* UTF-16 has the byte order of the block. Writers of little-endian blocks do not agree on that, so
 * there a byte order mark decides. */
static bool decode_utf16(char **out, const struct tiff *tiff, const unsigned char *bytes,
                         size_t size, struct error *err)
{
    bool has_mark = !tiff->is_big_endian && size >= 2 &&
                    (read_be16(bytes) == 0xfeff || read_be16(bytes) == 0xfffe);

    if (!has_mark)
        return image_text_from_utf16(out, bytes, size, tiff->is_big_endian, err);
    return image_text_from_utf16(out, bytes + 2, size - 2, bytes[0] == 0xfe, err);
}

static bool decode_comment(char **out, const struct tiff *tiff, const unsigned char *bytes,
                           size_t size, struct error *err)
{
    if (size < CODE_BYTES)
        return true;
    if (memcmp(bytes, code_ascii, CODE_BYTES) == 0)
        return image_text_from_utf8(out, bytes + CODE_BYTES, size - CODE_BYTES, err);
    if (memcmp(bytes, code_unicode, CODE_BYTES) == 0)
        return decode_utf16(out, tiff, bytes + CODE_BYTES, size - CODE_BYTES, err);
    return true;
}

bool exif_parse(char **infotext, char **json, const unsigned char *bytes, size_t size,
                struct error *err)
{
    struct tiff tiff;
    const unsigned char *value;
    size_t value_size, first, entry;

    if (!tiff_open(&tiff, bytes, size))
        return true;
    first = tiff_u32(&tiff, 4);
    /* Cameras describe pictures too; only a JSON object is ours. */
    if (!*json && find_entry(&entry, &tiff, first, TAG_IMAGE_DESCRIPTION) &&
        entry_bytes(&value, &value_size, &tiff, entry) && value_size > 0 && value[0] == '{' &&
        !image_text_from_utf8(json, value, value_size, err))
        return false;
    if (!*infotext && find_entry(&entry, &tiff, first, TAG_EXIF_DIRECTORY) &&
        find_entry(&entry, &tiff, tiff_u32(&tiff, entry + 8), TAG_USER_COMMENT) &&
        entry_bytes(&value, &value_size, &tiff, entry))
        return decode_comment(infotext, &tiff, value, value_size, err);
    return true;
}
