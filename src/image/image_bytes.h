/* Numbers inside picture files. The caller knows that the bytes are there. */
#ifndef IMAGE_IMAGE_BYTES_H
#define IMAGE_IMAGE_BYTES_H

#include <stdint.h>

static inline uint32_t read_be16(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] << 8 | bytes[1];
}

static inline uint32_t read_be32(const unsigned char *bytes)
{
    return read_be16(bytes) << 16 | read_be16(bytes + 2);
}

static inline uint32_t read_le16(const unsigned char *bytes)
{
    return (uint32_t)bytes[1] << 8 | bytes[0];
}

static inline uint32_t read_le32(const unsigned char *bytes)
{
    return read_le16(bytes + 2) << 16 | read_le16(bytes);
}

static inline void write_be16(unsigned char *bytes, uint32_t value)
{
    bytes[0] = (unsigned char)(value >> 8);
    bytes[1] = (unsigned char)value;
}

static inline void write_be32(unsigned char *bytes, uint32_t value)
{
    write_be16(bytes, value >> 16);
    write_be16(bytes + 2, value);
}

#endif
