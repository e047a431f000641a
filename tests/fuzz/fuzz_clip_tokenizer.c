/* CLIP tokenizer: files from anywhere, then a text. Whatever was accepted gives ids of the
 * vocabulary, and padded ids in the agreed form.
 *
 * Input: vocab.json, merges.txt, tokenizer.json and tokenizer_config.json, each after its size in
 * two bytes (little endian; 0: no such file), then the text.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/clip_tokenizer.h"
#include "tokenizer_input.h"

#define IDS_MAX 4096

static void check_ids(const struct clip_tokenizer *tokenizer, const int32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        require(ids[i] >= 0 && ids[i] < clip_tokenizer_vocabulary_size(tokenizer));
}

static void check_padded(const struct clip_tokenizer *tokenizer, const char *text, size_t size,
                         const int32_t *ids, size_t count)
{
    int32_t padded[CLIP_TOKENS];
    size_t cut, kept = count < CLIP_TOKENS - 2 ? count : CLIP_TOKENS - 2;

    require(clip_tokenizer_encode_padded(tokenizer, text, size, padded, &cut, NULL));
    check_ids(tokenizer, padded, CLIP_TOKENS);
    require(cut == count - kept);
    require(memcmp(padded + 1, ids, kept * sizeof *ids) == 0);
    require(padded[kept + 1] == clip_tokenizer_eos(tokenizer));
    for (size_t i = kept + 2; i < CLIP_TOKENS; i++)
        require(padded[i] == padded[CLIP_TOKENS - 1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct tokenizer_files files = small_folder();
    const uint8_t *end = bytes + size, *at = bytes;
    struct clip_tokenizer *tokenizer;
    static int32_t ids[IDS_MAX];
    struct error err = {0};
    size_t count;

    at = take_file(&files, TOKENIZER_VOCAB, at, end);
    at = take_file(&files, TOKENIZER_MERGES, at, end);
    at = take_file(&files, TOKENIZER_JSON, at, end);
    at = take_file(&files, TOKENIZER_CONFIG, at, end);
    if (clip_tokenizer_create_from_files(&tokenizer, &files, "!", &err)) {
        const char *text = (const char *)at;
        size_t text_size = (size_t)(end - at);

        if (clip_tokenizer_encode(tokenizer, text, text_size, ids, IDS_MAX, &count, &err)) {
            check_ids(tokenizer, ids, count < IDS_MAX ? count : IDS_MAX);
            check_padded(tokenizer, text, text_size, ids, count);
        }
        clip_tokenizer_destroy(tokenizer);
    } else {
        require(err.code != ERROR_NONE && err.message[0] != '\0');
    }
    tokenizer_files_finish(&files);
    return 0;
}
