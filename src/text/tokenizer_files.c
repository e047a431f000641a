#include "text/tokenizer_files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

static const char *const file_names[TOKENIZER_FILE_KINDS] = {
    [TOKENIZER_VOCAB] = "vocab.json",
    [TOKENIZER_MERGES] = "merges.txt",
    [TOKENIZER_SPIECE] = "spiece.model",
    [TOKENIZER_JSON] = "tokenizer.json",
    [TOKENIZER_CONFIG] = "tokenizer_config.json",
    [TOKENIZER_SPECIAL_NAMES] = "special_tokens_map.json",
};

bool tokenizer_files_read(struct tokenizer_files *files, const char *directory,
                          const enum tokenizer_file_kind *wanted, size_t count, struct error *err)
{
    *files = (struct tokenizer_files){0};
    for (size_t i = 0; i < count; i++) {
        struct tokenizer_file *file = &files->file[wanted[i]];

        file->path = file_join(directory, file_names[wanted[i]]);
        if (!file->path)
            return error_set(err, ERROR_NO_MEMORY, "reading '%s'", directory);
        if (access(file->path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR))
            continue;
        if (!file_read(&file->bytes, &file->size, file->path, TOKENIZER_FILE_BYTES_MAX, err))
            return false;
    }
    return true;
}

void tokenizer_files_finish(struct tokenizer_files *files)
{
    for (size_t i = 0; i < TOKENIZER_FILE_KINDS; i++) {
        free(files->file[i].path);
        free(files->file[i].bytes);
    }
    *files = (struct tokenizer_files){0};
}

bool tokenizer_file_check_start(const struct tokenizer_file *file, struct error *err)
{
    if (file->size >= 3 && memcmp(file->bytes, "\xEF\xBB\xBF", 3) == 0)
        return error_set(err, ERROR_BAD_FILE, "'%s' begins with a byte order mark", file->path);
    return true;
}

bool tokenizer_file_json(json_t **out, const struct tokenizer_file *file, struct error *err)
{
    json_error_t why;
    json_t *root;

    if (!file->bytes) {
        *out = NULL;
        return true;
    }
    if (!tokenizer_file_check_start(file, err))
        return false;
    root = json_loadb((const char *)file->bytes, file->size, JSON_REJECT_DUPLICATES, &why);
    /* The library says what is wrong with a text, and nothing at all when memory is short. */
    if (!root && (json_error_code(&why) == json_error_out_of_memory || why.text[0] == '\0'))
        return error_set(err, ERROR_NO_MEMORY, "reading '%s'", file->path);
    if (!root)
        return error_set(err, ERROR_BAD_FILE, "'%s' is not JSON: line %d: %s", file->path, why.line,
                         why.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(err, ERROR_BAD_FILE, "'%s' is not a JSON object", file->path);
    }
    *out = root;
    return true;
}

bool tokenizer_settings_read(struct tokenizer_settings *settings,
                             const struct tokenizer_files *files,
                             enum tokenizer_file_kind vocabulary, struct error *err)
{
    const struct tokenizer_file *tokenizer = &files->file[TOKENIZER_JSON];
    const struct tokenizer_file *config = &files->file[TOKENIZER_CONFIG];
    const struct tokenizer_file *names = &files->file[TOKENIZER_SPECIAL_NAMES];

    *settings = (struct tokenizer_settings){
        .tokenizer_path = tokenizer->path,
        .config_path = config->path,
        .names_path = names->path,
        .vocabulary_path = tokenizer->bytes ? tokenizer->path : files->file[vocabulary].path,
    };
    return tokenizer_file_json(&settings->tokenizer, tokenizer, err) &&
           tokenizer_file_json(&settings->config, config, err) &&
           tokenizer_file_json(&settings->names, names, err);
}

void tokenizer_settings_finish(struct tokenizer_settings *settings)
{
    json_decref(settings->tokenizer);
    json_decref(settings->config);
    json_decref(settings->names);
    *settings = (struct tokenizer_settings){0};
}
