#include "random_tokenizers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "random_files.h"

#define BYTES 256
#define SPECIALS 2
#define T5_SPECIALS 4 /* <pad> </s> <unk> and the space mark */

static const struct {
    const char *left, *right;
} merges[] = {
    {"t", "h"}, {"th", "e</w>"}, {"i", "n"}, {"a", "n"},      {"o", "n</w>"},
    {"r", "e"}, {"c", "a"},      {"p", "h"}, {"ca", "t</w>"}, {"in", "g</w>"},
};

int random_tokenizers_clip_size(void)
{
    return 2 * BYTES + (int)COUNT_OF(merges) + SPECIALS;
}

int random_tokenizers_t5_size(void)
{
    return T5_SPECIALS + ('~' - '!' + 1);
}

/* Byte-level BPE writes every byte as a visible character: itself where it is one, else a character
 * from U+0100 on. Visible ones come first in the vocabulary. */
static bool is_visible(int byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* The UTF-8 of the i-th byte symbol, in the order of the vocabulary. */
static void byte_symbol(char *out, size_t size, int i, const char *ending)
{
    int visible = 0, hidden = 0, code = 0;

    for (int byte = 0; byte < BYTES; byte++)
        visible += is_visible(byte);
    for (int byte = 0; byte < BYTES; byte++) {
        int place = is_visible(byte) ? byte : 0x100 + hidden;

        hidden += !is_visible(byte);
        if (!is_visible(byte) && visible + hidden - 1 == i)
            code = place;
    }
    if (i < visible)
        for (int byte = 0, at = 0; byte < BYTES; byte++)
            if (is_visible(byte) && at++ == i)
                code = byte;
    if (code < 0x80)
        snprintf(out, size, "%c%s", code, ending);
    else
        snprintf(out, size, "%c%c%s", 0xc0 | code >> 6, 0x80 | (code & 0x3f), ending);
}

static json_t *clip_vocabulary_json(int vocabulary)
{
    json_t *json = json_object();
    char symbol[16];

    for (int i = 0; i < 2 * BYTES; i++) {
        byte_symbol(symbol, sizeof symbol, i % BYTES, i < BYTES ? "" : "</w>");
        json_object_set_new(json, symbol, json_integer(i));
    }
    for (size_t i = 0; i < COUNT_OF(merges); i++) {
        snprintf(symbol, sizeof symbol, "%s%s", merges[i].left, merges[i].right);
        json_object_set_new(json, symbol, json_integer(2 * BYTES + (int)i));
    }
    json_object_set_new(json, "<|startoftext|>", json_integer(vocabulary - 2));
    json_object_set_new(json, "<|endoftext|>", json_integer(vocabulary - 1));
    return json;
}

static bool write_merges(const char *folder, struct error *err)
{
    char text[512] = "#version: 0.2\n";
    char *path = file_join(folder, "merges.txt");
    bool is_good;

    for (size_t i = 0; i < COUNT_OF(merges); i++) {
        size_t used = strlen(text);

        snprintf(text + used, sizeof text - used, "%s %s\n", merges[i].left, merges[i].right);
    }
    is_good = path ? file_write(path, text, strlen(text), err)
                   : error_set(err, ERROR_NO_MEMORY, "'%s'", folder);
    free(path);
    return is_good;
}

static bool write_clip(const char *parent, const char *name, const char *pad, int vocabulary,
                       struct error *err)
{
    char *folder = file_join(parent, name);
    bool is_good;

    if (!folder)
        return error_set(err, ERROR_NO_MEMORY, "'%s'", parent);
    is_good =
        random_make_folder(folder, err) &&
        random_write_json(folder, "vocab.json", clip_vocabulary_json(vocabulary), err) &&
        write_merges(folder, err) &&
        random_write_json(folder, "tokenizer_config.json",
                          json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:i}", "tokenizer_class",
                                    "CLIPTokenizer", "bos_token", "<|startoftext|>", "eos_token",
                                    "<|endoftext|>", "unk_token", "<|endoftext|>", "pad_token", pad,
                                    "do_lower_case", 1, "model_max_length", 77),
                          err) &&
        random_write_json(folder, "special_tokens_map.json",
                          json_pack("{s:s, s:s, s:s, s:s}", "bos_token", "<|startoftext|>",
                                    "eos_token", "<|endoftext|>", "unk_token", "<|endoftext|>",
                                    "pad_token", pad),
                          err);
    free(folder);
    return is_good;
}

static json_t *t5_pieces(void)
{
    json_t *pieces = json_pack("[[s,f],[s,f],[s,f],[s,f]]", "<pad>", 0.0, "</s>", 0.0, "<unk>", 0.0,
                               "\xe2\x96\x81", -2.0);

    for (int c = '!'; c <= '~'; c++) {
        const char text[2] = {(char)c, '\0'};

        json_array_append_new(pieces, json_pack("[s,f]", text, -4.0 - (c - '!') / 16.0));
    }
    return pieces;
}

static json_t *t5_special(int id, const char *name)
{
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", name,
                     "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
}

static json_t *t5_json(void)
{
    json_t *mark = json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement",
                             "\xe2\x96\x81", "prepend_scheme", "always", "split", 1);
    json_t *after =
        json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}], s:[], s:{s:{s:s, s:[i], s:[s]}}}",
                  "type", "TemplateProcessing", "single", "Sequence", "id", "A", "type_id", 0,
                  "SpecialToken", "id", "</s>", "type_id", 0, "pair", "special_tokens", "</s>",
                  "id", "</s>", "ids", 1, "tokens", "</s>");

    return json_pack("{s:s, s:n, s:n, s:[o, o, o], s:n, s:O, s:o, s:o, s:{s:s, s:i, s:o, s:b}}",
                     "version", "1.0", "truncation", "padding", "added_tokens",
                     t5_special(0, "<pad>"), t5_special(1, "</s>"), t5_special(2, "<unk>"),
                     "normalizer", "pre_tokenizer", mark, "post_processor", after, "decoder", mark,
                     "model", "type", "Unigram", "unk_id", 2, "vocab", t5_pieces(), "byte_fallback",
                     0);
}

static bool write_t5(const char *parent, struct error *err)
{
    char *folder = file_join(parent, "tokenizer_3");
    bool is_good;

    if (!folder)
        return error_set(err, ERROR_NO_MEMORY, "'%s'", parent);
    is_good = random_make_folder(folder, err) &&
              random_write_json(folder, "tokenizer.json", t5_json(), err) &&
              random_write_json(folder, "tokenizer_config.json",
                                json_pack("{s:s, s:s, s:s, s:s, s:i}", "tokenizer_class",
                                          "T5TokenizerFast", "eos_token", "</s>", "unk_token",
                                          "<unk>", "pad_token", "<pad>", "model_max_length", 512),
                                err);
    free(folder);
    return is_good;
}

bool random_tokenizers_write(const char *folder, int clip_vocabulary, bool with_t5,
                             struct error *err)
{
    return write_clip(folder, "tokenizer", "<|endoftext|>", clip_vocabulary, err) &&
           write_clip(folder, "tokenizer_2", "!", clip_vocabulary, err) &&
           (!with_t5 || write_t5(folder, err));
}
