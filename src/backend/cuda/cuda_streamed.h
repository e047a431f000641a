/* Weights that visit the device: groups of them lie ready in the host's pinned memory, and the
 * device has two slots, one for the group that is entered and one that the next is copied to
 * meanwhile, on a stream of its own.
 *
 * What lies in the slots is known as it will be when the stream gets there. A recording knows it as
 * of its own beginning: it finds its first group in the first slot, where replaying puts it before
 * the launch unless it is there already, and leaves its last `next` in a slot for whoever comes
 * then.
 */
#ifndef BACKEND_CUDA_CUDA_STREAMED_H
#define BACKEND_CUDA_CUDA_STREAMED_H

#include "backend/cuda/cuda_stream.h"

#define STREAMED_SLOTS 2

struct streamed_state {
    size_t group[STREAMED_SLOTS]; /* STREAMED_NONE: nothing known */
    int entered;                  /* the slot of the group that is entered; -1: none */
};

/* What a recording has of it. */
struct streamed_recording {
    struct streamed_weights *streamed; /* NULL: it entered no group */
    size_t first;
    struct streamed_state after;
};

bool cuda_weights_stream(struct stream *stream, struct streamed_weights **out,
                         const struct weight_request *requests, const size_t *group_end,
                         size_t group_count, struct error *err);
void cuda_weights_enter(struct stream *stream, struct streamed_weights *streamed, size_t group,
                        size_t next);
void cuda_weights_unstream(struct stream *stream, struct streamed_weights *streamed);
void cuda_weights_stream_bytes(const struct weight_request *requests, const size_t *group_end,
                               size_t group_count, size_t *device_bytes, size_t *host_bytes);

/* After a capture began, and before it ends. */
void streamed_record_begin(struct stream *stream);
void streamed_record_end(struct stream *stream, struct streamed_recording *recording);
/* Before and after the launch of what was captured. */
void streamed_replay_begin(struct stream *stream, const struct streamed_recording *recording);
void streamed_replay_end(const struct streamed_recording *recording);

#endif
