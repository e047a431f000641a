/* Failed attempts by address, in a table of fixed size. Any thread. */
#ifndef SERVER_AUTH_ATTEMPTS_H
#define SERVER_AUTH_ATTEMPTS_H

#include <pthread.h>
#include <stdbool.h>

#define AUTH_ATTEMPTS_SLOTS 1024

struct auth_attempts {
    pthread_mutex_t lock;
    struct attempt {
        unsigned char group[16]; /* auth_address_group */
        double since;            /* when the minute began */
        int failures;
    } slots[AUTH_ATTEMPTS_SLOTS];
};

void auth_attempts_init(struct auth_attempts *attempts);
void auth_attempts_finish(struct auth_attempts *attempts);
/* `now` in seconds of seconds_now. */
bool auth_attempts_are_spent(struct auth_attempts *attempts, const char *address, double now);
void auth_attempts_fail(struct auth_attempts *attempts, const char *address, double now);

#endif
