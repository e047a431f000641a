#include "base/arena.h"

#include <assert.h>
#include <stdint.h>

#include "base/size.h"

void arena_init(struct arena *arena, void *base, size_t size)
{
    *arena = (struct arena){.base = base, .size = base ? size : SIZE_MAX / 2};
}

bool arena_alloc(void **out, struct arena *arena, size_t count, size_t elem_size)
{
    size_t bytes, end;

    if (!size_mul(&bytes, count, elem_size) || !size_add(&bytes, bytes, ARENA_ALIGN - 1))
        return false;
    bytes &= ~(size_t)(ARENA_ALIGN - 1);
    if (!size_add(&end, arena->used, bytes) || end > arena->size)
        return false;
    /* A counting arena hands out offsets from an address that is never used. */
    *out = (void *)((uintptr_t)arena->base + arena->used);
    arena->used = end;
    if (end > arena->peak)
        arena->peak = end;
    return true;
}

size_t arena_mark(const struct arena *arena)
{
    return arena->used;
}

void arena_release(struct arena *arena, size_t mark)
{
    assert(mark <= arena->used);
    arena->used = mark;
}
