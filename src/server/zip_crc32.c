#include <stdbool.h>
#include <threads.h>

#include "server/zip_stream.h"

#define SLICES 4

/* tables[k][b]: the remainder of byte b with k zero bytes after it. */
static uint32_t tables[SLICES][256];
static once_flag tables_once = ONCE_FLAG_INIT;

static void make_tables(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;

        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1)));
        tables[0][byte] = crc;
    }
    for (int slice = 1; slice < SLICES; slice++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t before = tables[slice - 1][byte];

            tables[slice][byte] = (before >> 8) ^ tables[0][before & 0xff];
        }
}

uint32_t zip_crc32(uint32_t crc, const void *bytes, size_t size)
{
    const unsigned char *at = bytes;

    call_once(&tables_once, make_tables);
    crc = ~crc;
    for (; size >= SLICES; size -= SLICES, at += SLICES) {
        crc ^=
            (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
        crc = tables[3][crc & 0xff] ^ tables[2][crc >> 8 & 0xff] ^ tables[1][crc >> 16 & 0xff] ^
              tables[0][crc >> 24];
    }
    for (; size > 0; size--)
        crc = (crc >> 8) ^ tables[0][(crc ^ *at++) & 0xff];
    return ~crc;
}
