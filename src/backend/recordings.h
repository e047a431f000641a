/* Recordings: ops that are enqueued again and again are recorded by a device and then replayed.
 *
 * The first time of a key, the ops run one by one, which loads and tunes what there is to. The
 * second time they are recorded, and from then on replayed. A recording that does not come about
 * costs time only: the ops run one by one again, and that is recorded anew after twice as many such
 * runs. So a first time that was cancelled half way, which left something to be loaded, needs no
 * care, and a device that cannot record something is not asked for it every time. Hosts, which
 * record nothing, run ops one by one always.
 *
 * A recording holds the addresses of weights and the types that were chosen for it, and scratch of
 * its stream: all calls are for one stream, and recordings_finish comes before the weights are
 * dropped and whenever avoid_8_bits changes its mind.
 */
#ifndef BACKEND_RECORDINGS_H
#define BACKEND_RECORDINGS_H

#include <stddef.h>
#include <stdint.h>

#include "backend/backend.h"

#define RECORDINGS_MAX 8
#define RECORDINGS_KEY_BYTES 256

/* Zeroed when empty. */
struct recordings {
    struct recordings_entry {
        unsigned char key[RECORDINGS_KEY_BYTES];
        size_t key_bytes;            /* 0: an empty entry */
        struct recording *recording; /* NULL: none yet */
        uint64_t plain_runs;         /* one by one */
        uint64_t last_use;
    } entries[RECORDINGS_MAX];
    uint64_t uses;
};

/* Does what enqueue(context) enqueues on `stream`, which is the same ops for the same key: nothing
 * that they depend on is left out of it but what lies in the device's memory. They may run twice
 * for one call, and upload nothing. Keys are compared as bytes, so they have no holes or are zeroed
 * first, and have 1 to RECORDINGS_KEY_BYTES bytes. The entry that was not used for longest makes
 * room for a new key. */
void recordings_run(struct recordings *recordings, const struct backend_ops *ops,
                    struct stream *stream, const void *key, size_t key_bytes,
                    void (*enqueue)(void *context), void *context);

/* Frees all recordings; what is left is empty and can be used again. */
void recordings_finish(struct recordings *recordings, const struct backend_ops *ops);

#endif
