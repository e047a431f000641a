/* Lists of users: --api-auth's text and htpasswd's file. */
#ifndef SERVER_PASSWORD_FILE_H
#define SERVER_PASSWORD_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attributes.h"
#include "base/error.h"

#define PASSWORD_USERS_MAX 10000
#define PASSWORD_FILE_BYTES_MAX (4 << 20)

struct password_user {
    char name[65];
    char secret[192]; /* a hash in crypt's form, or the password itself */
    bool is_hash;
};
/* Start it zeroed; free with password_list_finish. */
struct password_list {
    struct password_user *users;
    size_t count, capacity;
};
void password_list_finish(struct password_list *list);

MUST_CHECK bool password_list_read_pairs(struct password_list *list, const char *pairs,
                                         struct error *err);
/* Errors name the line. Hashes that are easily undone ({SHA}, $apr1$, DES, plain text) are refused.
 */
MUST_CHECK bool password_list_read_file(struct password_list *list, const char *path,
                                        struct error *err);
/* The first of this name, or NULL. */
const struct password_user *password_list_find(const struct password_list *list, const char *name);

#endif
