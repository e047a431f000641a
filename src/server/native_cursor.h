/* The opaque texts of the native API: cursors of lists and numbers of events. Any thread.
 */
#ifndef SERVER_NATIVE_CURSOR_H
#define SERVER_NATIVE_CURSOR_H

#include <stdbool.h>
#include <stdint.h>

/* A place in the history, by the sequence of the last job before it. */
#define NATIVE_CURSOR_BYTES 24
void native_cursor_write(char cursor[NATIVE_CURSOR_BYTES], int64_t sequence);
/* False: not a cursor of ours. */
bool native_cursor_read(int64_t *sequence, const char *cursor);

/* "<boot>-<number>": event numbers start again with each front, which `boot` tells apart. */
#define NATIVE_BOOT_BYTES 17
#define NATIVE_EVENT_ID_BYTES 40
void native_boot_draw(char boot[NATIVE_BOOT_BYTES]);
void native_event_id_write(char id[NATIVE_EVENT_ID_BYTES], const char *boot, uint64_t number);
/* False: of another front, number 0 (nothing was seen yet, so nothing is known of what was missed),
 * or no id at all: the client has to load everything anew. */
bool native_event_id_read(uint64_t *number, const char *boot, const char *id);

/* A decimal number without sign, spaces or anything after it. */
bool native_digits_read(uint64_t *out, const char *text);
/* 32 hexadecimal digits, as all ids are. */
bool native_is_id(const char *text);

#endif
