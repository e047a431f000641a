/* Arena: a bump allocator over one block of memory that somebody else owns.
 *
 * It never grows and never touches the memory, so the block may lie on a device. An arena without a
 * block (base NULL) only counts: planning runs once on such an arena to learn the size, then again
 * on the real one. Belongs to one thread.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"

#define ARENA_ALIGN 64 /* a cache line, and the widest SIMD register */

struct arena {
    unsigned char *base; /* borrowed; NULL: this arena only counts */
    size_t size;         /* SIZE_MAX / 2 when it only counts */
    size_t used;
    size_t peak; /* the most that was ever in use */
};

/* Over the `size` bytes at `base`, borrowed and aligned to ARENA_ALIGN; or, with base NULL, an
 * arena that only counts. */
void arena_init(struct arena *arena, void *base, size_t size);

/* *out = memory for count * elem_size bytes, aligned to ARENA_ALIGN; false when the bytes do not
 * fit or the product overflows. In a counting arena *out is never to be read or written. */
MUST_CHECK bool arena_alloc(void **out, struct arena *arena, size_t count, size_t elem_size);

/* Everything allocated after the mark was taken is free again after the release. */
size_t arena_mark(const struct arena *arena);
void arena_release(struct arena *arena, size_t mark);

#endif
