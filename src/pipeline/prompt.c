/* A prompt: its tokens, and the embeddings of the latest ones. */
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "pipeline/pipeline_private.h"

bool prompt_tokenize(struct prompt_tokens *out, const struct pipeline *pipeline,
                     const char *const texts[3], int t5_tokens, struct error *err)
{
    size_t cut;

    memset(out, 0, sizeof *out);
    for (int i = 0; i < CLIP_COUNT; i++) {
        if (!clip_tokenizer_encode_padded(pipeline->clip_tokenizer[i], texts[i], strlen(texts[i]),
                                          out->clip[i], &cut, err))
            return false;
        out->cut_clip = (int32_t)max_i64(out->cut_clip, (int64_t)cut);
    }
    out->t5_count = t5_tokens;
    if (!pipeline->t5)
        return true;
    if (!t5_tokenizer_encode_padded(pipeline->t5_tokenizer, texts[2], strlen(texts[2]), out->t5,
                                    (size_t)t5_tokens, &cut, err))
        return false;
    out->cut_t5 = (int32_t)cut;
    return true;
}

/* --- The store --- */

struct entry {
    struct prompt_tokens tokens;
    struct embedding *embedding; /* NULL: free */
    uint64_t used;               /* when, in finds and adds */
};

struct prompt_store {
    uint64_t now;
    int capacity;
    struct entry entries[];
};

bool prompt_store_create(struct prompt_store **out, int capacity, struct error *err)
{
    *out = calloc(1, sizeof **out + (size_t)capacity * sizeof(struct entry));
    if (!*out)
        return error_set(err, ERROR_NO_MEMORY, "prompts");
    (*out)->capacity = capacity;
    return true;
}

void embedding_release(struct embedding *embedding)
{
    if (embedding && --embedding->users == 0)
        free(embedding);
}

void prompt_store_destroy(struct prompt_store *store)
{
    for (int i = 0; store && i < store->capacity; i++)
        embedding_release(store->entries[i].embedding);
    free(store);
}

struct embedding *prompt_store_find(struct prompt_store *store, const struct prompt_tokens *tokens)
{
    for (int i = 0; i < store->capacity; i++) {
        struct entry *entry = &store->entries[i];

        if (!entry->embedding || memcmp(&entry->tokens, tokens, sizeof *tokens) != 0)
            continue;
        entry->used = ++store->now;
        entry->embedding->users++;
        return entry->embedding;
    }
    return NULL;
}

void prompt_store_add(struct prompt_store *store, const struct prompt_tokens *tokens,
                      struct embedding *embedding)
{
    struct entry *oldest = store->entries;

    if (store->capacity == 0)
        return;
    for (int i = 1; i < store->capacity; i++) /* free ones were never used */
        if (store->entries[i].used < oldest->used)
            oldest = &store->entries[i];
    embedding_release(oldest->embedding);
    embedding->users++;
    *oldest = (struct entry){.tokens = *tokens, .embedding = embedding, .used = ++store->now};
}
