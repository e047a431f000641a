/* Whatever is accepted as a cursor, an event's id or a number is what we would have written. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/native_cursor.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check(int holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const char boot[] = "0123456789abcdef";
    char text[64], cursor[NATIVE_CURSOR_BYTES], id[NATIVE_EVENT_ID_BYTES];
    uint64_t number;
    int64_t sequence;

    if (size >= sizeof text)
        return 0;
    memcpy(text, bytes, size);
    text[size] = '\0';
    if (native_cursor_read(&sequence, text)) {
        native_cursor_write(cursor, sequence);
        check(sequence > 0 && strcmp(cursor, text) == 0);
    }
    if (native_event_id_read(&number, boot, text)) {
        native_event_id_write(id, boot, number);
        check(number > 0 && strncmp(text, id, strlen(boot) + 1) == 0);
        check(strtoull(text + strlen(boot) + 1, NULL, 10) == number);
    }
    if (native_is_id(text))
        check(strlen(text) == 32 && !strpbrk(text, "/.%"));
    return 0;
}
