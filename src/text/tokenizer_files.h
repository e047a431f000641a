/* The files of a tokenizer folder, in memory.
 *
 * Readers take them from here and not from disk, so that tests can hand them anything.
 */
#ifndef TEXT_TOKENIZER_FILES_H
#define TEXT_TOKENIZER_FILES_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "base/attributes.h"
#include "base/error.h"

#define TOKENIZER_FILE_BYTES_MAX (64u << 20)

enum tokenizer_file_kind {
    TOKENIZER_VOCAB,         /* vocab.json */
    TOKENIZER_MERGES,        /* merges.txt */
    TOKENIZER_SPIECE,        /* spiece.model */
    TOKENIZER_JSON,          /* tokenizer.json */
    TOKENIZER_CONFIG,        /* tokenizer_config.json */
    TOKENIZER_SPECIAL_NAMES, /* special_tokens_map.json */
    TOKENIZER_FILE_KINDS
};

struct tokenizer_file {
    char *path;           /* for messages; there also when the file is not */
    unsigned char *bytes; /* NULL: the folder has no such file */
    size_t size;
};

struct tokenizer_files {
    struct tokenizer_file file[TOKENIZER_FILE_KINDS];
};

/* Reads the `count` files of `wanted` that `directory` has. Free with tokenizer_files_finish, also
 * after a failure. */
MUST_CHECK bool tokenizer_files_read(struct tokenizer_files *files, const char *directory,
                                     const enum tokenizer_file_kind *wanted, size_t count,
                                     struct error *err);
void tokenizer_files_finish(struct tokenizer_files *files);

/* Refuses a file that begins with a byte order mark. */
MUST_CHECK bool tokenizer_file_check_start(const struct tokenizer_file *file, struct error *err);

/* *out = the file's JSON object, or NULL when there is no such file. Free with json_decref. */
MUST_CHECK bool tokenizer_file_json(json_t **out, const struct tokenizer_file *file,
                                    struct error *err);

/* The JSON files that every kind of tokenizer reads. */
struct tokenizer_settings {
    json_t *tokenizer, *config, *names; /* NULL: no such file */
    const char *tokenizer_path, *config_path, *names_path;
    const char *vocabulary_path; /* where the ids come from */
};

/* `vocabulary` is the file that has the ids when there is no tokenizer.json. Borrows the paths.
 * Free with tokenizer_settings_finish, also after a failure. */
MUST_CHECK bool tokenizer_settings_read(struct tokenizer_settings *settings,
                                        const struct tokenizer_files *files,
                                        enum tokenizer_file_kind vocabulary, struct error *err);
void tokenizer_settings_finish(struct tokenizer_settings *settings);

#endif
