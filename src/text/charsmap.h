/* SentencePiece's normalisation table ("precompiled_charsmap"): strings and what replaces them, in
 * a Darts double-array trie (Aoe 1989; the unit layout is that of darts-clone).
 *
 * The whole trie is walked once when it is read, so that a table with an offset that leads outside
 * is refused then. Never changed by use.
 */
#ifndef TEXT_CHARSMAP_H
#define TEXT_CHARSMAP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"
#include "text/text_buffer.h"

struct charsmap;

MUST_CHECK bool charsmap_create(struct charsmap **out, const unsigned char *bytes, size_t size,
                                struct error *err);
void charsmap_destroy(struct charsmap *map); /* NULL is fine */

/* Appends the text, which is valid UTF-8, with what the table has for its characters. */
MUST_CHECK bool charsmap_apply(struct text_buffer *out, const struct charsmap *map,
                               const char *text, size_t size, struct error *err);

#endif
