#include "cli/process_user.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define USUAL_ID 10001
#define ID_MAX 4294967294UL /* (uid_t)-1 means "no change" */
#define GROUPS_MAX 64
#define FOLDERS_OPEN_MAX 16

struct user {
    uid_t uid;
    gid_t gid;
};

/* --- Which one --- */

/* A whole number that is not root's. */
static bool parse_id(unsigned *out, const char *name, const char *text, struct error *err)
{
    char *end;
    unsigned long value;

    errno = 0;
    value = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value == 0 || value > ID_MAX)
        return error_set(err, ERROR_BAD_REQUEST, "%s: '%s' is no user's or group's number", name,
                         text);
    *out = (unsigned)value;
    return true;
}

static bool parse_pair(struct user *out, const char *text, struct error *err)
{
    char copy[64], *colon;

    if (strlen(text) >= sizeof copy)
        return error_set(err, ERROR_BAD_REQUEST, "--user: too long");
    strcpy(copy, text);
    colon = strchr(copy, ':');
    if (colon)
        *colon++ = '\0';
    return parse_id(&out->uid, "--user", copy, err) &&
           parse_id(&out->gid, "--user", colon ? colon : copy, err);
}

/* What is set in the environment wins over the folder's owner. */
static bool choose_adopted(struct user *out, const struct stat *folder, struct error *err)
{
    const char *uid = getenv("PUID"), *gid = getenv("PGID");

    *out = folder->st_uid != 0 ? (struct user){folder->st_uid, folder->st_gid}
                               : (struct user){USUAL_ID, USUAL_ID};
    if (out->gid == 0)
        out->gid = out->uid;
    if (uid && *uid) {
        if (!parse_id(&out->uid, "PUID", uid, err))
            return false;
        out->gid = out->uid;
    }
    return !gid || !*gid || parse_id(&out->gid, "PGID", gid, err);
}

/* --- Handing over --- */

static struct user new_owner; /* nftw has no context */
static dev_t new_owner_device;

/* Files of others stay theirs, and links are not followed. */
static int hand_over_one(const char *path, const struct stat *st, int kind, struct FTW *walk)
{
    (void)kind;
    (void)walk;
    if (st->st_uid != 0 || st->st_dev != new_owner_device)
        return 0;
    return lchown(path, new_owner.uid, new_owner.gid);
}

static bool hand_over(const char *folder, const struct stat *st, struct user to, struct error *err)
{
    new_owner = to;
    new_owner_device = st->st_dev;
    if (nftw(folder, hand_over_one, FOLDERS_OPEN_MAX, FTW_PHYS | FTW_MOUNT) != 0)
        return error_set_errno(err, errno, "handing '%s' over to user %u", folder, to.uid);
    return true;
}

/* Groups that were given to the process from outside, as for a device, stay. */
static bool keep_groups(struct error *err)
{
    gid_t groups[GROUPS_MAX];
    int count = getgroups(GROUPS_MAX, groups), kept = 0;

    for (int i = 0; i < count; i++) {
        if (groups[i] != 0)
            groups[kept++] = groups[i];
    }
    if (count < 0 || setgroups((size_t)kept, groups) != 0)
        return error_set_errno(err, errno, "giving up root's groups");
    return true;
}

static bool become(struct user user, struct error *err)
{
    if (!keep_groups(err))
        return false;
    if (setresgid(user.gid, user.gid, user.gid) != 0 ||
        setresuid(user.uid, user.uid, user.uid) != 0)
        return error_set_errno(err, errno, "becoming user %u:%u", user.uid, user.gid);
    /* What changed its user cannot read its own /proc, until it says that it may. */
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0)
        return error_set_errno(err, errno, "giving up new privileges");
    return true;
}

/* --- All of it --- */

/* CAP_CHOWN, CAP_SETGID, CAP_SETUID of linux/capability.h. */
static bool has_capabilities(void)
{
    const int needed[] = {0, 6, 7};
    unsigned long long effective = 0;
    char line[256];
    FILE *status = fopen("/proc/self/status", "re");

    while (status && fgets(line, sizeof line, status)) {
        if (strncmp(line, "CapEff:", 7) == 0)
            effective = strtoull(line + 7, NULL, 16);
    }
    if (status)
        fclose(status);
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        if (!(effective >> needed[i] & 1))
            return false;
    }
    return true;
}

bool process_user_adopt(const char *user, const char *folder, struct error *err)
{
    struct user to;
    struct stat st;

    if (!user || geteuid() != 0)
        return true;
    if (mkdir(folder, 0755) != 0 && errno != EEXIST)
        return error_set_errno(err, errno, "making '%s'", folder);
    if (stat(folder, &st) != 0)
        return error_set_errno(err, errno, "looking at '%s'", folder);
    if (strcmp(user, "adopt") == 0 ? !choose_adopted(&to, &st, err) : !parse_pair(&to, user, err))
        return false;
    if (!has_capabilities()) {
        fprintf(stderr,
                "sd35: stays user 0, which has no capabilities here; 'docker run --user %u:%u' "
                "starts as another\n",
                to.uid, to.gid);
        return true;
    }
    return hand_over(folder, &st, to, err) && become(to, err);
}
