#include "server/password_file.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "server/auth_rules.h"

void password_list_finish(struct password_list *list)
{
    if (list->users)
        sodium_memzero(list->users, list->capacity * sizeof *list->users);
    free(list->users);
    *list = (struct password_list){0};
}

static bool make_room(struct password_list *list, struct error *err)
{
    size_t capacity = list->capacity ? 2 * list->capacity : 8;
    struct password_user *users;

    if (list->count < list->capacity)
        return true;
    if (list->count >= PASSWORD_USERS_MAX)
        return error_set(err, ERROR_BAD_REQUEST, "there are more than %d users",
                         PASSWORD_USERS_MAX);
    users = calloc(capacity, sizeof *users);
    if (!users)
        return error_set(err, ERROR_NO_MEMORY, "the users");
    if (list->count > 0)
        memcpy(users, list->users, list->count * sizeof *users);
    if (list->users)
        sodium_memzero(list->users, list->capacity * sizeof *users);
    free(list->users);
    list->users = users;
    list->capacity = capacity;
    return true;
}

/* "name:secret" of `length` bytes. Messages show no secret. */
static bool add_user(struct password_list *list, const char *text, size_t length, bool is_hash,
                     struct error *err)
{
    const char *colon = memchr(text, ':', length);
    size_t name_length = colon ? (size_t)(colon - text) : 0;
    size_t secret_length = colon ? length - name_length - 1 : 0;
    struct password_user *user;

    if (!colon)
        return error_set(err, ERROR_BAD_REQUEST, "a user is written name:password");
    if (!make_room(list, err))
        return false;
    user = &list->users[list->count];
    *user = (struct password_user){.is_hash = is_hash};
    if (name_length >= sizeof user->name || secret_length >= sizeof user->secret)
        return error_set(err, ERROR_BAD_REQUEST, "a name or password is too long");
    memcpy(user->name, text, name_length);
    memcpy(user->secret, colon + 1, secret_length);
    if (!auth_name_is_valid(user->name))
        return error_set(err, ERROR_BAD_REQUEST,
                         "a user's name has 1 to 64 letters, digits and '._@+-'");
    if (secret_length == 0)
        return error_set(err, ERROR_BAD_REQUEST, "'%s' has no password", user->name);
    if (password_list_find(list, user->name))
        return error_set(err, ERROR_BAD_REQUEST, "'%s' is there twice", user->name);
    list->count++;
    return true;
}

bool password_list_read_pairs(struct password_list *list, const char *pairs, struct error *err)
{
    for (const char *at = pairs; *at;) {
        size_t length = strcspn(at, ",");

        if (!add_user(list, at, length, false, err))
            return error_in(err, "--api-auth");
        at += length;
        at += *at == ',';
    }
    return true;
}

static bool is_strong_hash(const char *hash)
{
    static const char *const forms[] = {"$2y$", "$2b$", "$2a$", "$5$", "$6$", "$y$"};

    for (size_t i = 0; i < COUNT_OF(forms); i++)
        if (strncmp(hash, forms[i], strlen(forms[i])) == 0)
            return true;
    return false;
}

static bool read_line(struct password_list *list, const char *line, size_t length,
                      struct error *err)
{
    if (length > 0 && line[length - 1] == '\r')
        length--;
    if (length == 0 || *line == '#')
        return true;
    if (memchr(line, '\0', length))
        return error_set(err, ERROR_BAD_FILE, "a zero byte");
    if (!add_user(list, line, length, true, err))
        return false;
    if (!is_strong_hash(list->users[list->count - 1].secret))
        return error_set(err, ERROR_BAD_FILE,
                         "the hash of '%s' is too weak: make it with htpasswd -B",
                         list->users[list->count - 1].name);
    return true;
}

bool password_list_read_file(struct password_list *list, const char *path, struct error *err)
{
    unsigned char *bytes;
    const char *at;
    size_t size;
    int line = 1;
    bool ok = true;

    if (!file_read(&bytes, &size, path, PASSWORD_FILE_BYTES_MAX, err))
        return false;
    at = (const char *)bytes;
    for (const char *end = at + size; ok && at < end; line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));

        if (!stop)
            stop = end;
        ok = read_line(list, at, (size_t)(stop - at), err);
        at = stop + (stop < end);
    }
    sodium_memzero(bytes, size);
    free(bytes);
    return ok || error_in(err, "'%s', line %d", path, line - 1);
}

const struct password_user *password_list_find(const struct password_list *list, const char *name)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->users[i].name, name) == 0)
            return &list->users[i];
    return NULL;
}
