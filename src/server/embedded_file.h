/* Embedded files: what cmake/embed.cmake makes of the page and the documentation. Constant, so any
 * thread may read them.
 *
 *   extern const struct embedded_file page_files[];
 *   extern const size_t page_files_count;
 */
#ifndef SERVER_EMBEDDED_FILE_H
#define SERVER_EMBEDDED_FILE_H

#include <stddef.h>

struct embedded_file {
    const char *name; /* below its folder: "icons/star.svg" */
    const char *type; /* for Content-Type */
    const char *etag; /* 32 hexadecimal digits of the content's SHA-256, in the quotes of HTTP */
    const unsigned char *bytes;
    size_t size;
};

#endif
