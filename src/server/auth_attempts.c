#include "server/auth_attempts.h"

#include <string.h>

#include "server/auth_addresses.h"
#include "server/limits.h"

#define MINUTE 60.0

void auth_attempts_init(struct auth_attempts *attempts)
{
    memset(attempts, 0, sizeof *attempts);
    pthread_mutex_init(&attempts->lock, NULL);
}

void auth_attempts_finish(struct auth_attempts *attempts)
{
    pthread_mutex_destroy(&attempts->lock);
}

/* The address's slot if it has one whose minute is not over, NULL otherwise; *spare is then the one
 * to take, which has the fewest failures: an attacker with many addresses pushes out other
 * attackers' first attempts, not those that are locked out. */
static struct attempt *find(struct auth_attempts *attempts, const unsigned char group[16],
                            double now, struct attempt **spare)
{
    struct attempt *fewest = &attempts->slots[0];

    for (size_t i = 0; i < AUTH_ATTEMPTS_SLOTS; i++) {
        struct attempt *slot = &attempts->slots[i];

        if (slot->failures > 0 && now - slot->since >= MINUTE)
            slot->failures = 0;
        if (slot->failures > 0 && memcmp(slot->group, group, 16) == 0)
            return slot;
        if (slot->failures < fewest->failures)
            fewest = slot;
    }
    *spare = fewest;
    return NULL;
}

bool auth_attempts_are_spent(struct auth_attempts *attempts, const char *address, double now)
{
    unsigned char group[16];
    struct attempt *slot, *spare;
    bool are_spent;

    auth_address_group(group, address);
    pthread_mutex_lock(&attempts->lock);
    slot = find(attempts, group, now, &spare);
    are_spent = slot && slot->failures >= LOGIN_FAILURES_PER_MINUTE_MAX;
    pthread_mutex_unlock(&attempts->lock);
    return are_spent;
}

void auth_attempts_fail(struct auth_attempts *attempts, const char *address, double now)
{
    unsigned char group[16];
    struct attempt *slot, *spare;

    auth_address_group(group, address);
    pthread_mutex_lock(&attempts->lock);
    slot = find(attempts, group, now, &spare);
    if (!slot) {
        slot = spare;
        *slot = (struct attempt){.since = now};
        memcpy(slot->group, group, 16);
    }
    slot->failures++;
    pthread_mutex_unlock(&attempts->lock);
}
