/* Passwords: what a check computes does not tell whether there is such a user. Counted, not timed.
 */
#include "support/support.h"

#include <crypt.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "server/auth_passwords.h"

static atomic_int keyed_hashes, slow_hashes;

void __real_auth_keyed_hash(unsigned char *out, size_t size,
                            const unsigned char key[AUTH_SECRET_BYTES], const char *purpose,
                            const void *bytes, size_t count);
void __wrap_auth_keyed_hash(unsigned char *out, size_t size,
                            const unsigned char key[AUTH_SECRET_BYTES], const char *purpose,
                            const void *bytes, size_t count);
char *__real_crypt_r(const char *phrase, const char *setting, struct crypt_data *data);
char *__wrap_crypt_r(const char *phrase, const char *setting, struct crypt_data *data);

void __wrap_auth_keyed_hash(unsigned char *out, size_t size,
                            const unsigned char key[AUTH_SECRET_BYTES], const char *purpose,
                            const void *bytes, size_t count)
{
    atomic_fetch_add(&keyed_hashes, 1);
    __real_auth_keyed_hash(out, size, key, purpose, bytes, count);
}

/* One that fails is done at once: it does not count. */
char *__wrap_crypt_r(const char *phrase, const char *setting, struct crypt_data *data)
{
    char *hash = __real_crypt_r(phrase, setting, data);

    atomic_fetch_add(&slow_hashes, hash && hash[0] != '*');
    return hash;
}

struct answer {
    sem_t is_there;
    bool is_right;
};

static void take(void *context, bool is_right)
{
    struct answer *answer = context;

    answer->is_right = is_right;
    sem_post(&answer->is_there);
}

struct work {
    int keyed, slow;
};

/* What a check computes, and that its answer is the right one. */
static struct work work_of(struct auth_passwords *passwords, const char *user, const char *password,
                           bool is_right)
{
    struct work before = {atomic_load(&keyed_hashes), atomic_load(&slow_hashes)};
    struct answer answer;
    enum password_check check;

    assert_int_equal(sem_init(&answer.is_there, 0, 0), 0);
    check = auth_passwords_check(passwords, user, password, take, &answer);
    if (check == PASSWORD_LATER)
        sem_wait(&answer.is_there);
    else
        answer.is_right = check == PASSWORD_RIGHT;
    sem_destroy(&answer.is_there);
    assert_int_equal(answer.is_right, is_right);
    return (struct work){atomic_load(&keyed_hashes) - before.keyed,
                         atomic_load(&slow_hashes) - before.slow};
}

static void expect_same(struct work got, struct work wanted)
{
    assert_int_equal(got.keyed, wanted.keyed);
    assert_int_equal(got.slow, wanted.slow);
}

static void plain_passwords_do_not_tell_who_there_is(void **state)
{
    struct auth_passwords *passwords;
    struct work known;
    struct error err;

    (void)state;
    assert_true(auth_passwords_create(&passwords, "joe:secret,ann:pass", NULL, &err));
    known = work_of(passwords, "joe", "wrong", false);
    assert_true(known.keyed > 0);
    assert_int_equal(known.slow, 0);
    expect_same(work_of(passwords, "ann", "wrong", false), known);
    expect_same(work_of(passwords, "bob", "wrong", false), known);
    expect_same(work_of(passwords, "", "", false), known);
    expect_same(work_of(passwords, "joe", "secret", true), known);
    auth_passwords_destroy(passwords);
}

static const char *password_file(void)
{
    struct crypt_data data = {0};
    char line[256];

    snprintf(line, sizeof line, "bea:%s\n",
             crypt_r("right", "$2b$04$abcdefghijklmnopqrstuu", &data));
    return test_write_file("htpasswd", line, strlen(line));
}

static void neither_do_hashed_ones_beside_them(void **state)
{
    struct auth_passwords *passwords;
    struct work known;
    struct error err;

    (void)state;
    assert_true(auth_passwords_create(&passwords, "joe:secret", password_file(), &err));
    known = work_of(passwords, "bea", "wrong", false);
    assert_int_equal(known.slow, 1);
    expect_same(work_of(passwords, "joe", "wrong", false), known);
    expect_same(work_of(passwords, "bob", "wrong", false), known);
    expect_same(work_of(passwords, "bob", "right", false), known); /* as bea's */
    expect_same(work_of(passwords, "bea", "right", true), known);
    assert_int_equal(work_of(passwords, "bea", "right", true).slow, 0); /* remembered */
    assert_int_equal(work_of(passwords, "joe", "secret", true).slow, 0);
    auth_passwords_destroy(passwords);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_passwords_do_not_tell_who_there_is),
        cmocka_unit_test(neither_do_hashed_ones_beside_them),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
