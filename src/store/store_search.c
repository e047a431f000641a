/* Searching prompts: words that all have to occur somewhere, with case and width folded away. Any
 * part of a word will do, since Chinese and Japanese do not separate theirs. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "store/store_private.h"

bool store_fold(char **out, const char *text, struct error *err)
{
    utf8proc_uint8_t *folded = NULL;
    utf8proc_ssize_t length =
        utf8proc_map((const utf8proc_uint8_t *)text, 0, &folded,
                     UTF8PROC_NULLTERM | UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT |
                         UTF8PROC_CASEFOLD | UTF8PROC_IGNORE);

    *out = (char *)folded;
    if (length >= 0)
        return true;
    if (length == UTF8PROC_ERROR_NOMEM || !(*out = strdup(text)))
        return error_set(err, ERROR_NO_MEMORY, "a prompt of %zu bytes", strlen(text));
    for (char *c = *out; *c; c++)
        if (*c >= 'A' && *c <= 'Z')
            *c = (char)(*c + ('a' - 'A'));
    return true;
}

/* Folding has made one space of the wide ones. */
#define SPACES " \t\n\r\v\f"

bool store_has_words(const char *folded_text, const char *folded_search)
{
    size_t text_length = strlen(folded_text);

    for (const char *word = folded_search + strspn(folded_search, SPACES); *word;) {
        size_t length = strcspn(word, SPACES);

        if (!memmem(folded_text, text_length, word, length))
            return false;
        word += length;
        word += strspn(word, SPACES);
    }
    return true;
}
