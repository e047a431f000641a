#include "backend/recordings.h"

#include <assert.h>
#include <string.h>

static struct recordings_entry *find_entry(struct recordings *recordings, const void *key,
                                           size_t key_bytes)
{
    for (int i = 0; i < RECORDINGS_MAX; i++) {
        struct recordings_entry *entry = &recordings->entries[i];

        if (entry->key_bytes == key_bytes && memcmp(entry->key, key, key_bytes) == 0)
            return entry;
    }
    return NULL;
}

/* An empty entry for the key, that of the oldest use if all are taken. Empty ones were never used,
 * so they are the oldest. */
static struct recordings_entry *take_entry(struct recordings *recordings,
                                           const struct backend_ops *ops, const void *key,
                                           size_t key_bytes)
{
    struct recordings_entry *oldest = &recordings->entries[0];

    for (int i = 1; i < RECORDINGS_MAX; i++)
        if (recordings->entries[i].last_use < oldest->last_use)
            oldest = &recordings->entries[i];
    ops->recording_free(oldest->recording);
    *oldest = (struct recordings_entry){.key_bytes = key_bytes};
    memcpy(oldest->key, key, key_bytes);
    return oldest;
}

/* After 1, 2, 4, 8 .. runs one by one. */
static bool is_to_be_recorded(const struct recordings_entry *entry)
{
    uint64_t runs = entry->plain_runs;

    return runs > 0 && (runs & (runs - 1)) == 0;
}

void recordings_run(struct recordings *recordings, const struct backend_ops *ops,
                    struct stream *stream, const void *key, size_t key_bytes,
                    void (*enqueue)(void *context), void *context)
{
    struct recordings_entry *entry;

    assert(key_bytes > 0 && key_bytes <= RECORDINGS_KEY_BYTES);
    if (!ops->record_begin) {
        enqueue(context);
        return;
    }
    entry = find_entry(recordings, key, key_bytes);
    if (!entry)
        entry = take_entry(recordings, ops, key, key_bytes);
    entry->last_use = ++recordings->uses;
    if (!entry->recording && is_to_be_recorded(entry)) {
        ops->record_begin(stream);
        enqueue(context);
        entry->recording = ops->record_end(stream);
    }
    if (entry->recording) {
        ops->replay(stream, entry->recording);
        return;
    }
    enqueue(context);
    entry->plain_runs++;
}

void recordings_finish(struct recordings *recordings, const struct backend_ops *ops)
{
    for (int i = 0; i < RECORDINGS_MAX; i++)
        if (recordings->entries[i].recording)
            ops->recording_free(recordings->entries[i].recording);
    *recordings = (struct recordings){0};
}
