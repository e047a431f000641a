/* Tokenizer files small enough to read here, for tests that need no published vocabulary. */
#ifndef TESTS_SUPPORT_SMALL_VOCABULARIES_H
#define TESTS_SUPPORT_SMALL_VOCABULARIES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_files.h"

static const char *const small_file_paths[TOKENIZER_FILE_KINDS] = {
    [TOKENIZER_VOCAB] = "folder/vocab.json",
    [TOKENIZER_MERGES] = "folder/merges.txt",
    [TOKENIZER_SPIECE] = "folder/spiece.model",
    [TOKENIZER_JSON] = "folder/tokenizer.json",
    [TOKENIZER_CONFIG] = "folder/tokenizer_config.json",
    [TOKENIZER_SPECIAL_NAMES] = "folder/special_tokens_map.json",
};

/* In exactly as many bytes as there are, so that a sanitizer sees who reads past them. */
static inline void *small_copy(const void *bytes, size_t size)
{
    void *copy = malloc(size ? size : 1);

    if (!copy)
        abort();
    return size ? memcpy(copy, bytes, size) : copy;
}

/* A folder without files. Free with tokenizer_files_finish. */
static inline struct tokenizer_files small_folder(void)
{
    struct tokenizer_files files = {0};

    for (size_t i = 0; i < TOKENIZER_FILE_KINDS; i++)
        files.file[i].path = small_copy(small_file_paths[i], strlen(small_file_paths[i]) + 1);
    return files;
}

static inline void small_put(struct tokenizer_files *files, enum tokenizer_file_kind kind,
                             const void *bytes, size_t size)
{
    free(files->file[kind].bytes);
    files->file[kind].bytes = small_copy(bytes, size);
    files->file[kind].size = size;
}

static inline void small_put_text(struct tokenizer_files *files, enum tokenizer_file_kind kind,
                                  const char *text)
{
    small_put(files, kind, text, strlen(text));
}

/* --- CLIP --- */

#define SMALL_CLIP_VOCAB                                                                           \
    "{\"l\":0,\"o\":1,\"w\":2,\"e\":3,\"r\":4,\"s\":5,\"t\":6,\"i\":7,\"d\":8,\"n\":9,\"lo\":10,"  \
    "\"l</w>\":11,\"w</w>\":12,\"r</w>\":13,\"t</w>\":14,\"low</w>\":15,\"er</w>\":16,"            \
    "\"<unk>\":17,\"<|startoftext|>\":18,\"<|endoftext|>\":19,\"!\":20,\"!</w>\":21,\"ll\":22,"    \
    "\"o</w>\":23,\"a\":24,\"aa\":25,\"aaaa\":26,\"a</w>\":27}"
#define SMALL_CLIP_MERGES "#version: 0.2\nl o\nlo w</w>\ne r</w>\nl l\na a\naa aa\n"

static const char small_clip_json[] =
    "{\"added_tokens\":[],\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</"
    "w>\",\"unk_token\":"
    "\"<unk>\",\"vocab\":" SMALL_CLIP_VOCAB
    ",\"merges\":[\"l o\",[\"lo\",\"w</w>\"],\"e r</w>\",[\"l\",\"l\"],\"a a\",\"aa aa\"]}}";
static const char small_clip_config[] =
    "{\"bos_token\":\"<|startoftext|>\",\"eos_token\":{\"content\":\"<|endoftext|>\"},"
    "\"unk_token\":\"<unk>\",\"pad_token\":{\"content\":\"!\"},\"added_tokens_decoder\":{"
    "\"18\":{\"content\":\"<|startoftext|>\",\"normalized\":true},"
    "\"19\":{\"content\":\"<|endoftext|>\",\"normalized\":false},"
    "\"20\":{\"content\":\"!\",\"normalized\":false}}}";

/* vocab.json, merges.txt and tokenizer_config.json. */
static inline struct tokenizer_files small_clip_folder(void)
{
    struct tokenizer_files files = small_folder();

    small_put_text(&files, TOKENIZER_VOCAB, SMALL_CLIP_VOCAB);
    small_put_text(&files, TOKENIZER_MERGES, SMALL_CLIP_MERGES);
    small_put_text(&files, TOKENIZER_CONFIG, small_clip_config);
    return files;
}

/* --- T5 --- */

#define SMALL_MARK "\xE2\x96\x81" /* U+2581, the space of pieces */

static const struct small_piece {
    const char *text;
    float score;
    int type; /* 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte */
} small_pieces[] = {
    {"<pad>", 0, 3},
    {"</s>", 0, 3},
    {"<unk>", 0, 2},
    {SMALL_MARK, -2, 1},
    {SMALL_MARK "he", -5, 1},
    {"llo", -4, 1},
    {"l", -3, 1},
    {"o", -3, 1},
    {"h", -3, 1},
    {"e", -3, 1},
    {SMALL_MARK "hello", -9.5F, 1},
    {"a", -4, 1},
    {"aa", -8, 1},
    {"\xC3\xA9", -5, 1},
    {"@@", 0, 4},
    {"x", -1, 5},
    {"<0x41>", 0, 6},
    {"helloo", -30, 1},
};

/* A growing string of bytes. */
struct small_bytes {
    unsigned char *bytes;
    size_t size;
};

static inline void small_append(struct small_bytes *to, const void *bytes, size_t size)
{
    to->bytes = realloc(to->bytes, to->size + size + 1);
    if (!to->bytes)
        abort();
    if (size > 0)
        memcpy(to->bytes + to->size, bytes, size);
    to->size += size;
}

static inline void small_append_u32(struct small_bytes *to, uint32_t value)
{
    for (int shift = 0; shift < 32; shift += 8) {
        unsigned char byte = (unsigned char)(value >> shift & 0xFF);

        small_append(to, &byte, 1);
    }
}

static inline void small_append_varint(struct small_bytes *to, uint64_t value)
{
    do {
        unsigned char byte = (unsigned char)((value & 0x7F) | (value > 0x7F ? 0x80 : 0));

        small_append(to, &byte, 1);
        value >>= 7;
    } while (value > 0);
}

/* A protobuf field that is a string, bytes or a message. */
static inline void small_append_field(struct small_bytes *to, unsigned number, const void *bytes,
                                      size_t size)
{
    small_append_varint(to, number << 3 | 2);
    small_append_varint(to, size);
    small_append(to, bytes, size);
}

static inline void small_append_piece(struct small_bytes *to, const char *text, float score,
                                      int type)
{
    struct small_bytes piece = {0};
    uint32_t bits;

    memcpy(&bits, &score, sizeof bits);
    small_append_field(&piece, 1, text, strlen(text));
    small_append_varint(&piece, 2 << 3 | 5);
    small_append_u32(&piece, bits);
    if (type != 1) { /* the default is not written */
        small_append_varint(&piece, 3 << 3 | 0);
        small_append_varint(&piece, (uint64_t)type);
    }
    small_append_field(to, 1, piece.bytes, piece.size);
    free(piece.bytes);
}

/* A normalisation table with the keys "A" (becomes "a") and tab (becomes a space). The root's
 * children lie at 256 ^ byte, and the values at 512 and 513. */
enum { SMALL_UNITS = 514, SMALL_UNIT_A = 256 ^ 'A', SMALL_UNIT_TAB = 256 ^ '\t' };

static inline struct small_bytes small_charsmap(void)
{
    struct small_bytes map = {0};
    const uint32_t value_bit = UINT32_C(1) << 31, has_value = 1U << 8;

    small_append_u32(&map, SMALL_UNITS * 4);
    for (uint32_t i = 0; i < SMALL_UNITS; i++) {
        uint32_t unit = 0;

        if (i == 0)
            unit = 256U << 10;
        if (i == SMALL_UNIT_A)
            unit = (uint32_t)(SMALL_UNIT_A ^ 512) << 10 | has_value | 'A';
        if (i == SMALL_UNIT_TAB)
            unit = (uint32_t)(SMALL_UNIT_TAB ^ 513) << 10 | has_value | '\t';
        if (i == 512)
            unit = value_bit | 0;
        if (i == 513)
            unit = value_bit | 2;
        small_append_u32(&map, unit);
    }
    small_append(&map, "a\0 \0", 4);
    return map;
}

/* spiece.model of small_pieces; `map` is its normalisation table, or NULL. */
static inline struct small_bytes small_spiece(const struct small_bytes *map)
{
    struct small_bytes model = {0}, normalizer = {0};

    for (size_t i = 0; i < sizeof small_pieces / sizeof *small_pieces; i++)
        small_append_piece(&model, small_pieces[i].text, small_pieces[i].score,
                           small_pieces[i].type);
    small_append_field(&model, 2, "\x18\x03", 2); /* trainer_spec: model_type unigram */
    small_append_field(&normalizer, 1, "nmt_nfkc", 8);
    if (map)
        small_append_field(&normalizer, 2, map->bytes, map->size);
    small_append_field(&model, 3, normalizer.bytes, normalizer.size);
    free(normalizer.bytes);
    return model;
}

static inline struct tokenizer_files small_t5_folder(void)
{
    struct tokenizer_files files = small_folder();
    struct small_bytes map = small_charsmap();
    struct small_bytes model = small_spiece(&map);

    small_put(&files, TOKENIZER_SPIECE, model.bytes, model.size);
    free(model.bytes);
    free(map.bytes);
    return files;
}

static inline char *small_base64(const struct small_bytes *from)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *text = malloc(from->size / 3 * 4 + 8), *at = text;

    if (!text)
        abort();
    for (size_t i = 0; i < from->size; i += 3) {
        size_t left = from->size - i;
        uint32_t bits = (uint32_t)from->bytes[i] << 16;

        bits |= left > 1 ? (uint32_t)from->bytes[i + 1] << 8 : 0;
        bits |= left > 2 ? (uint32_t)from->bytes[i + 2] : 0;
        *at++ = digits[bits >> 18];
        *at++ = digits[bits >> 12 & 63];
        *at++ = left > 1 ? digits[bits >> 6 & 63] : '=';
        *at++ = left > 2 ? digits[bits & 63] : '=';
    }
    *at = '\0';
    return text;
}

/* tokenizer.json with the same pieces, an added token 18 "<extra_id_0>", and the table `base64`
 * unless that is NULL. The caller frees it. */
static inline char *small_t5_json(const char *base64)
{
    char *json = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&json, &size);

    if (!out)
        abort();
    fprintf(out, "{\"added_tokens\":[{\"id\":0,\"content\":\"<pad>\"},"
                 "{\"id\":1,\"content\":\"</s>\"},{\"id\":2,\"content\":\"<unk>\"},"
                 "{\"id\":18,\"content\":\"<extra_id_0>\"}],\"normalizer\":");
    if (base64)
        fprintf(out,
                "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Precompiled\","
                "\"precompiled_charsmap\":\"%s\"},{\"type\":\"Strip\"}]}",
                base64);
    else
        fprintf(out, "null");
    fprintf(out, ",\"model\":{\"type\":\"Unigram\",\"unk_id\":2,\"vocab\":[");
    for (size_t i = 0; i < sizeof small_pieces / sizeof *small_pieces; i++) {
        /* The form cannot say "unused": such pieces get a score that nothing can win with. */
        double score = small_pieces[i].type > 4 ? -1000 : (double)small_pieces[i].score;

        fprintf(out, "%s[\"%s\",%.9g]", i > 0 ? "," : "", small_pieces[i].text, score);
    }
    fprintf(out, "]}}");
    if (fclose(out) != 0)
        abort();
    return json;
}

#endif
