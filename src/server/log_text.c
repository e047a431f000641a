#include "server/log_text.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_BYTES_MAX 20 /* readers of JSON refuse integers of more than 64 bits */

void log_text_put(struct log_text *text, const char *bytes, size_t size)
{
    if (size > text->room - text->used) {
        text->is_cut = true;
        return;
    }
    memcpy(text->to + text->used, bytes, size);
    text->used += size;
}

void log_text_format(struct log_text *text, const char *format, ...)
{
    char bytes[256];
    va_list args;
    int size;

    va_start(args, format);
    size = vsnprintf(bytes, sizeof bytes, format, args);
    va_end(args);
    if (size > 0)
        log_text_put(text, bytes, strlen(bytes));
}

/* Length of the well-formed UTF-8 character at `at`; 0: there is none (RFC 3629). */
static size_t character_bytes(const unsigned char *at, uint32_t *codepoint)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length = at[0] < 0x80   ? 1
                    : at[0] < 0xc0 ? 0
                    : at[0] < 0xe0 ? 2
                    : at[0] < 0xf0 ? 3
                    : at[0] < 0xf8 ? 4
                                   : 0;
    uint32_t value = length == 1 ? at[0] : at[0] & (0x7fu >> length);

    for (size_t i = 1; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        value = value << 6 | (at[i] & 0x3fu);
    }
    if (length == 0 || value < least[length] || value > 0x10ffff ||
        (value >= 0xd800 && value < 0xe000))
        return 0;
    *codepoint = value;
    return length;
}

/* Characters that a terminal or a viewer acts on: controls, line and paragraph separators, and
 * those that turn the direction of writing around. */
static bool is_acting(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x200e || c == 0x200f || c == 0x61c ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

/* The escaped form of the character at `at`, in JSON's words; returns how many bytes it took. A
 * byte that is not UTF-8 is \ufffd in JSON, which cannot hold it, and \xNN in text. */
static size_t escape(char out[16], const unsigned char *at, bool is_json)
{
    uint32_t c = 0;
    size_t length = character_bytes(at, &c);

    if (length == 0) {
        snprintf(out, 16, is_json ? "\\ufffd" : "\\x%02x", at[0]);
        return 1;
    }
    if (c == '"' || c == '\\')
        snprintf(out, 16, "\\%c", (int)c);
    else if (c == '\n' || c == '\r' || c == '\t')
        snprintf(out, 16, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
    else if (is_acting(c))
        snprintf(out, 16, "\\u%04x", c);
    else
        snprintf(out, 16, "%.*s", (int)length, (const char *)at);
    return length;
}

/* The value between quotes, cut where the room ends: the closing quote always fits. */
static void put_quoted(struct log_text *text, const char *value, bool is_json)
{
    const unsigned char *at = (const unsigned char *)value;

    log_text_put(text, "\"", 1);
    while (*at) {
        char escaped[16];

        at += escape(escaped, at, is_json);
        if (strlen(escaped) + 1 > text->room - text->used) {
            text->is_cut = true;
            break;
        }
        log_text_put(text, escaped, strlen(escaped));
    }
    log_text_put(text, "\"", 1);
}

/* JSON's grammar of numbers (RFC 8259, section 6), which has no nan and no leading zero. */
static bool is_json_number(const char *at)
{
    at += *at == '-';
    if (!isdigit((unsigned char)*at))
        return false;
    at += *at == '0' ? 1 : strspn(at, "0123456789");
    if (*at == '.') {
        if (!isdigit((unsigned char)*++at))
            return false;
        at += strspn(at, "0123456789");
    }
    if (*at == 'e' || *at == 'E') {
        at++;
        at += *at == '+' || *at == '-';
        if (!isdigit((unsigned char)*at))
            return false;
        at += strspn(at, "0123456789");
    }
    return *at == '\0';
}

/* Whether a field with this key may begin: the key, its marks and two quotes fit. */
static bool has_room(struct log_text *text, const char *key)
{
    if (strlen(key) + 8 <= text->room - text->used)
        return true;
    text->is_cut = true;
    return false;
}

void log_text_member(struct log_text *text, const char *key, const char *value, bool is_number)
{
    if (!value)
        value = "";
    if (!has_room(text, key))
        return;
    if (text->used > 0 && text->to[text->used - 1] != '{')
        log_text_put(text, ",", 1);
    put_quoted(text, key, true);
    log_text_put(text, ":", 1);
    if (is_number && strlen(value) <= NUMBER_BYTES_MAX && is_json_number(value) &&
        strlen(value) + 2 <= text->room - text->used)
        log_text_put(text, value, strlen(value));
    else
        put_quoted(text, value, true);
}

static bool is_plain(const char *value)
{
    if (!*value)
        return false;
    for (; *value; value++)
        if (!isalnum((unsigned char)*value) && !strchr("-_.:/+@,%~*", *value))
            return false;
    return true;
}

void log_text_pair(struct log_text *text, const char *key, const char *value)
{
    if (!value)
        value = "";
    if (!has_room(text, key))
        return;
    log_text_put(text, " ", 1);
    log_text_put(text, key, strlen(key));
    log_text_put(text, "=", 1);
    if (is_plain(value) && strlen(value) + 2 <= text->room - text->used)
        log_text_put(text, value, strlen(value));
    else
        put_quoted(text, value, false);
}

size_t log_text_end(struct log_text *text, bool is_json)
{
    text->room += LOG_TEXT_END_BYTES;
    if (text->is_cut)
        log_text_format(text, is_json ? ",\"is_cut\":true" : " is_cut=true");
    log_text_put(text, is_json ? "}\n" : "\n", is_json ? 2 : 1);
    return text->used;
}
