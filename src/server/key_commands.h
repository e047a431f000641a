/* Keys of a store: adding, listing and revoking them, for `sd35 keys` and the API alike. */
#ifndef SERVER_KEY_COMMANDS_H
#define SERVER_KEY_COMMANDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "store/store.h"

#define KEY_TEXT_BYTES 64
#define KEY_RATE_MAX 100000 /* jobs a minute */
#define KEY_DAYS_MAX 36500
#define KEY_ALL_SCOPES 15u

struct key_request {
    const char *name;
    const char *scopes;      /* "generate,read"; NULL: these two */
    int32_t jobs_per_minute; /* 0: no limit */
    int32_t days;            /* until it expires; 0: never */
};

/* "generate,read,metrics,admin", each at most once. */
MUST_CHECK bool key_read_scopes(uint32_t *scopes, const char *text, struct error *err);
void key_write_scopes(char text[64], uint32_t scopes);

/* Draws a key: `text` is shown once and never kept. ERROR_BAD_REQUEST names what is wrong. */
MUST_CHECK bool key_make(char text[KEY_TEXT_BYTES], struct store_key *out,
                         const struct key_request *request, int64_t now_ms, struct error *err);
/* ["generate", "read"]; new reference. */
json_t *key_scopes_to_json(uint32_t scopes);
/* {"name", "prefix", "scopes", "jobs_per_minute", "created", "expires", "revoked"}, times in
 * seconds since 1970 or null; new reference. */
json_t *key_to_json(const struct store_key *key);

int64_t key_now_ms(void); /* the wall clock */

#endif
