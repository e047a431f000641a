/* Infotexts back to their parts, as AUTOMATIC1111's own reader takes them apart. Pure functions. */
#ifndef SERVER_A1111_INFOTEXT_H
#define SERVER_A1111_INFOTEXT_H

#include <jansson.h>

/* An object of texts: "Prompt", "Negative prompt", and what the last line has when at least three
 * pairs are in it; "1024x768" becomes "<Key>-1" and "<Key>-2". What is absent gets the reader's
 * defaults. NULL when memory is short. */
json_t *a1111_infotext_parse(const char *text);

#endif
