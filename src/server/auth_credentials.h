/* The header Authorization, taken apart. */
#ifndef SERVER_AUTH_CREDENTIALS_H
#define SERVER_AUTH_CREDENTIALS_H

#define AUTH_TEXT_BYTES 256 /* of a key, a user's name or a password, each with its NUL */

struct auth_credentials {
    enum auth_scheme {
        AUTH_SCHEME_NONE, /* no header, an empty one, or one with nothing in it */
        AUTH_SCHEME_BEARER,
        AUTH_SCHEME_BASIC,
        AUTH_SCHEME_BAD,
    } scheme;
    char key[AUTH_TEXT_BYTES];
    char user[AUTH_TEXT_BYTES], password[AUTH_TEXT_BYTES];
};

/* RFC 6750 and RFC 7617. NULL: there is no header. */
void auth_read_credentials(struct auth_credentials *out, const char *header);

#endif
