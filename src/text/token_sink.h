/* Where an encoder puts its ids: keeps the first `capacity` and counts them all. */
#ifndef TEXT_TOKEN_SINK_H
#define TEXT_TOKEN_SINK_H

#include <stddef.h>
#include <stdint.h>

struct token_sink {
    int32_t *ids; /* borrowed; may be NULL when capacity is 0 */
    size_t capacity;
    size_t count;
};

static inline void token_sink_push(struct token_sink *sink, int32_t id)
{
    if (sink->count < sink->capacity)
        sink->ids[sink->count] = id;
    sink->count++;
}

#endif
