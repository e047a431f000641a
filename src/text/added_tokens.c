#include "text/added_tokens.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct added_token {
    char *content;
    int32_t id;
    bool is_normalised;
    size_t order; /* later ones win */
};

static void drop_list(struct added_tokens *tokens)
{
    for (size_t i = 0; i < tokens->count; i++)
        free(tokens->list[i].content);
    free(tokens->list);
    tokens->list = NULL;
    tokens->count = 0;
    tokens->capacity = 0;
}

void added_tokens_finish(struct added_tokens *tokens)
{
    drop_list(tokens);
    vocabulary_finish(&tokens->raw);
    vocabulary_finish(&tokens->normalised);
}

static bool grow(struct added_tokens *tokens, struct error *err)
{
    size_t capacity = tokens->capacity ? tokens->capacity * 2 : 16;
    struct added_token *list;

    if (tokens->count < tokens->capacity)
        return true;
    if (tokens->count >= VOCABULARY_ENTRIES_MAX)
        return error_set(err, ERROR_BAD_FILE, "there are more than %d added tokens",
                         VOCABULARY_ENTRIES_MAX);
    list = realloc(tokens->list, capacity * sizeof *list);
    if (!list)
        return error_set(err, ERROR_NO_MEMORY, "%zu added tokens", capacity);
    tokens->list = list;
    tokens->capacity = capacity;
    return true;
}

bool added_tokens_add(struct added_tokens *tokens, const char *content, int64_t id,
                      bool is_normalised, struct error *err)
{
    char *copy;

    if (id < 0 || id >= VOCABULARY_ENTRIES_MAX)
        return error_set(err, ERROR_BAD_FILE, "an added token has the id %lld, outside 0 to %d",
                         (long long)id, VOCABULARY_ENTRIES_MAX - 1);
    if (!grow(tokens, err))
        return false;
    copy = strdup(content);
    if (!copy)
        return error_set(err, ERROR_NO_MEMORY, "an added token of %zu bytes", strlen(content));
    tokens->list[tokens->count] =
        (struct added_token){copy, (int32_t)id, is_normalised, tokens->count};
    tokens->count++;
    return true;
}

static bool add_json(struct added_tokens *tokens, const json_t *token, int64_t id,
                     struct error *err)
{
    const char *content = json_string_value(json_object_get(token, "content"));

    if (!content)
        return error_set(err, ERROR_BAD_FILE, "the added token with id %lld has no content",
                         (long long)id);
    return added_tokens_add(tokens, content, id, json_is_true(json_object_get(token, "normalized")),
                            err);
}

static bool read_list(struct added_tokens *tokens, const json_t *list, struct error *err)
{
    if (!list || json_is_null(list))
        return true;
    if (!json_is_array(list))
        return error_set(err, ERROR_BAD_FILE, "added_tokens is not a list");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *token = json_array_get(list, i);
        const json_t *id = json_object_get(token, "id");

        if (!json_is_integer(id))
            return error_set(err, ERROR_BAD_FILE, "added token %zu has no whole number as id", i);
        if (!add_json(tokens, token, json_integer_value(id), err))
            return false;
    }
    return true;
}

/* An object from ids, written as text, to tokens. */
static bool read_decoder(struct added_tokens *tokens, const json_t *decoder, struct error *err)
{
    if (!decoder || json_is_null(decoder))
        return true;
    if (!json_is_object(decoder))
        return error_set(err, ERROR_BAD_FILE, "added_tokens_decoder is not an object");
    for (void *at = json_object_iter((json_t *)decoder); at;
         at = json_object_iter_next((json_t *)decoder, at)) {
        const char *key = json_object_iter_key(at);
        char *end;
        long long id;

        errno = 0;
        id = strtoll(key, &end, 10);
        if (errno != 0 || end == key || *end != '\0')
            return error_set(err, ERROR_BAD_FILE, "an id in added_tokens_decoder is no number");
        if (!add_json(tokens, json_object_iter_value(at), id, err))
            return false;
    }
    return true;
}

bool added_tokens_read(struct added_tokens *tokens, const struct tokenizer_settings *settings,
                       struct error *err)
{
    const json_t *list = json_object_get(settings->tokenizer, "added_tokens");
    const json_t *decoder = json_object_get(settings->config, "added_tokens_decoder");

    if (!read_list(tokens, list, err))
        return error_in(err, "'%s'", settings->tokenizer_path);
    if (!read_decoder(tokens, decoder, err))
        return error_in(err, "'%s'", settings->config_path);
    return true;
}

static const struct added_token *find_in_list(const struct added_tokens *tokens,
                                              const char *content)
{
    for (size_t i = tokens->count; i-- > 0;) {
        if (strcmp(tokens->list[i].content, content) == 0)
            return &tokens->list[i];
    }
    return NULL;
}

/* What the settings say about a role: a string, or an object with the string as "content". */
static const json_t *find_entry(const struct tokenizer_settings *settings, const char *key,
                                const char **path)
{
    const json_t *entry = json_object_get(settings->config, key);

    *path = settings->config_path;
    if (entry && !json_is_null(entry))
        return entry;
    entry = json_object_get(settings->names, key);
    *path = settings->names_path;
    if (entry && !json_is_null(entry))
        return entry;
    *path = settings->vocabulary_path;
    return NULL;
}

bool added_tokens_take_role(struct added_tokens *tokens, int32_t *id,
                            const struct tokenizer_settings *settings,
                            const struct token_role *role, const struct vocabulary *vocabulary,
                            struct error *err)
{
    const char *path;
    const json_t *entry = find_entry(settings, role->key, &path);
    const json_t *text = json_is_object(entry) ? json_object_get(entry, "content") : entry;
    const char *content = entry ? json_string_value(text) : role->fallback;
    const struct added_token *known;
    bool is_normalised = role->fallback_normalised;

    *id = -1;
    if (!content && !entry)
        return true;
    if (!content)
        return error_set(err, ERROR_BAD_FILE, "'%s': %s is not the text of a token", path,
                         role->key);
    known = find_in_list(tokens, content);
    *id = known ? known->id : vocabulary_find(vocabulary, content, strlen(content));
    if (*id < 0)
        return error_set(err, ERROR_BAD_FILE, "'%s': the %s '%s' is not in the vocabulary", path,
                         role->key, content);
    if (known || (!entry && role->fallback_is_no_token))
        return true;
    if (entry)
        is_normalised = json_is_true(json_object_get(entry, "normalized"));
    return added_tokens_add(tokens, content, *id, is_normalised, err);
}

static int compare_tokens(const void *a, const void *b)
{
    const struct added_token *left = a, *right = b;
    int order = strcmp(left->content, right->content);

    if (order != 0)
        return order;
    return (left->order > right->order) - (left->order < right->order);
}

/* Of tokens given more than once only the last stays. */
static bool drop_repeated(struct added_tokens *tokens, struct error *err)
{
    size_t kept = 0;

    if (tokens->count > 0)
        qsort(tokens->list, tokens->count, sizeof *tokens->list, compare_tokens);
    for (size_t i = 0; i < tokens->count; i++) {
        struct added_token *last = kept > 0 ? &tokens->list[kept - 1] : NULL;
        struct added_token *token = &tokens->list[i];

        if (!last || strcmp(last->content, token->content) != 0) {
            struct added_token moved = *token;

            token->content = NULL;
            tokens->list[kept++] = moved;
            continue;
        }
        if (last->id != token->id)
            return error_set(err, ERROR_BAD_FILE, "an added token has two ids, %d and %d",
                             (int)last->id, (int)token->id);
        last->is_normalised = token->is_normalised;
        free(token->content);
        token->content = NULL;
    }
    tokens->count = kept;
    return true;
}

/* Whether the token is the vocabulary's own, or has an id that nobody else has. */
static bool check_id(const struct added_token *token, const struct vocabulary *vocabulary,
                     bool *taken, struct error *err)
{
    int32_t known = vocabulary_find(vocabulary, token->content, strlen(token->content));

    if (known >= 0 && known != token->id)
        return error_set(err, ERROR_BAD_FILE,
                         "an added token has the id %d, but %d in the vocabulary", (int)token->id,
                         (int)known);
    if (known < 0 && taken[token->id])
        return error_set(err, ERROR_BAD_FILE, "two tokens have the id %d", (int)token->id);
    taken[token->id] = true;
    return true;
}

static bool check_ids(const struct added_tokens *tokens, const struct vocabulary *vocabulary,
                      struct error *err)
{
    bool *taken = calloc(VOCABULARY_ENTRIES_MAX, sizeof *taken);
    bool ok = true;

    if (!taken)
        return error_set(err, ERROR_NO_MEMORY, "the added tokens");
    for (size_t i = 0; i < vocabulary->count; i++)
        taken[vocabulary->entries[i].id] = true;
    for (size_t i = 0; ok && i < tokens->count; i++)
        ok = check_id(&tokens->list[i], vocabulary, taken, err);
    free(taken);
    return ok;
}

static bool index_token(struct added_tokens *tokens, const struct added_token *token,
                        added_tokens_normaliser normalise, struct error *err)
{
    struct text_buffer content = {.limit = TEXT_NORMALISED_BYTES_MAX};
    bool ok;

    if (!token->is_normalised || !normalise)
        return vocabulary_add(&tokens->raw, token->content, strlen(token->content), token->id, err);
    ok = normalise(&content, token->content, strlen(token->content), err) &&
         vocabulary_add(&tokens->normalised, content.bytes, content.size, token->id, err);
    text_buffer_finish(&content);
    return ok;
}

bool added_tokens_sort(struct added_tokens *tokens, const struct vocabulary *vocabulary,
                       added_tokens_normaliser normalise, struct error *err)
{
    if (!drop_repeated(tokens, err) || !check_ids(tokens, vocabulary, err))
        return false;
    for (size_t i = 0; i < tokens->count; i++) {
        if (!index_token(tokens, &tokens->list[i], normalise, err))
            return false;
    }
    drop_list(tokens);
    return vocabulary_sort(&tokens->raw, err) && vocabulary_sort(&tokens->normalised, err);
}

/* A text as a sequence of tokens and stretches. */
struct walk {
    const struct vocabulary *tokens;
    const char *text;
    size_t size;
    size_t at;
};

/* The next token, or a stretch of text with *id = -1; false at the end. */
static bool next_part(struct walk *walk, const char **stretch, size_t *length, int32_t *id)
{
    size_t end = walk->at, token = 0;

    if (walk->at == walk->size)
        return false;
    *id = -1;
    while (end < walk->size) {
        token = vocabulary_longest(walk->tokens, walk->text + end, walk->size - end, id);
        if (token > 0)
            break;
        end++;
    }
    if (end > walk->at) { /* the stretch before the token goes first */
        *id = -1;
        token = end - walk->at;
    }
    *stretch = walk->text + walk->at;
    *length = token;
    walk->at += token;
    return true;
}

bool added_tokens_split(const struct vocabulary *tokens, const char *text, size_t size,
                        struct token_sink *sink, added_tokens_stretch encode, void *context,
                        struct error *err)
{
    struct walk walk = {tokens, text, size, 0};
    const char *stretch;
    size_t length;
    int32_t id;

    while (next_part(&walk, &stretch, &length, &id)) {
        if (id >= 0)
            token_sink_push(sink, id);
        else if (!encode(context, stretch, length, err))
            return false;
    }
    return true;
}
