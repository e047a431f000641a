/* `sd35 keys`: the API keys of a stopped server's store. */
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/attributes.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/process_user.h"
#include "cli/report.h"
#include "server/key_commands.h"
#include "store/store.h"

#define FIELD(name) offsetof(struct keys_settings, name)

struct keys_settings {
    const char *folder, *user, *name, *scopes;
    int rate, days;
};

#define FOLDER_OPTION                                                                              \
    {"outputs-dir",                                                                                \
     'o',                                                                                          \
     OPTION_TEXT,                                                                                  \
     FIELD(folder),                                                                                \
     "DIR",                                                                                        \
     0,                                                                                            \
     0,                                                                                            \
     NULL,                                                                                         \
     "Folder of the server's pictures. Default: outputs.",                                         \
     NULL},                                                                                        \
        PROCESS_USER_OPTION(FIELD(user))

static const struct option add_options[] = {
    {"name", 'n', OPTION_TEXT, FIELD(name), "NAME", 0, 0, NULL,
     "Whose key it is: the owner of its jobs. Needs no --name before it.", NULL},
    {"scopes", 's', OPTION_TEXT, FIELD(scopes), "LIST", 0, 0, NULL,
     "Of generate, read, metrics and admin. Default: generate,read.", NULL},
    {"rate", 'r', OPTION_INTEGER, FIELD(rate), "N", 0, KEY_RATE_MAX, NULL,
     "Jobs a minute. Default: 0, no limit.", NULL},
    {"expires", 'e', OPTION_INTEGER, FIELD(days), "DAYS", 0, KEY_DAYS_MAX, NULL,
     "Days until it expires. Default: 0, never.", NULL},
    FOLDER_OPTION,
};

static const struct option list_options[] = {FOLDER_OPTION};

static const struct option revoke_options[] = {
    {"name", 'n', OPTION_TEXT, FIELD(name), "NAME", 0, 0, NULL,
     "A name, for all of its keys, or the first 12 characters of one key. Needs no --name before "
     "it.",
     NULL},
    FOLDER_OPTION,
};

static bool add(struct store *store, const struct keys_settings *settings, struct error *err)
{
    const struct key_request request = {settings->name, settings->scopes, settings->rate,
                                        settings->days};
    char text[KEY_TEXT_BYTES];
    struct store_key key;

    if (!key_make(text, &key, &request, key_now_ms(), err) || !store_add_key(store, &key, err))
        return false;
    puts(text);
    fputs("this key is shown now and never again: only its hash is kept\n", stderr);
    sodium_memzero(text, sizeof text);
    return fflush(stdout) == 0 || error_set(err, ERROR_IO, "the key could not be printed");
}

static void print_day(int64_t ms, const char *none)
{
    time_t seconds = (time_t)(ms / 1000);
    char day[32] = "?";
    struct tm tm;

    if (ms && gmtime_r(&seconds, &tm))
        strftime(day, sizeof day, "%Y-%m-%d", &tm);
    printf("  %-10s", ms ? day : none);
}

static void print_key(void *context, const struct store_key *key)
{
    char scopes[64];

    (void)context;
    key_write_scopes(scopes, key->scopes);
    printf("%-12s  %-20s  %-27s  %6" PRId32, key->prefix, key->name, scopes, key->jobs_per_minute);
    print_day(key->created_ms, "");
    print_day(key->expires_ms, "never");
    print_day(key->revoked_ms, "-");
    putchar('\n');
}

static bool list(struct store *store, const struct keys_settings *settings, struct error *err)
{
    (void)settings;
    printf("%-12s  %-20s  %-27s  %6s  %-10s  %-10s  %s\n", "PREFIX", "NAME", "SCOPES", "RATE",
           "CREATED", "EXPIRES", "REVOKED");
    return store_each_key(store, print_key, NULL, err);
}

static bool revoke(struct store *store, const struct keys_settings *settings, struct error *err)
{
    int count = 0;

    if (!store_revoke_key(store, settings->name, key_now_ms(), &count, err))
        return false;
    if (count == 0)
        return error_set(err, ERROR_BAD_REQUEST, "no key that is good has the name or prefix '%s'",
                         settings->name);
    fprintf(stderr, "%d key%s revoked\n", count, count == 1 ? "" : "s");
    return true;
}

static const struct keys_verb {
    const char *name;
    bool needs_name;
    bool (*run)(struct store *store, const struct keys_settings *settings, struct error *err);
    struct option_table table;
} verbs[] = {
    {"add",
     true,
     add,
     {.command = "sd35 keys add",
      .usage = "NAME [options]",
      .summary = "Makes an API key and prints it, once.",
      .options = add_options,
      .option_count = COUNT_OF(add_options),
      .operand = "name"}},
    {"list",
     false,
     list,
     {.command = "sd35 keys list",
      .usage = "[options]",
      .summary = "Shows all keys, without themselves.",
      .options = list_options,
      .option_count = COUNT_OF(list_options)}},
    {"revoke",
     true,
     revoke,
     {.command = "sd35 keys revoke",
      .usage = "NAME|PREFIX [options]",
      .summary = "Revokes keys: nothing is allowed to them from then on.",
      .options = revoke_options,
      .option_count = COUNT_OF(revoke_options),
      .operand = "name"}},
};

static const char usage[] =
    "usage: sd35 keys add NAME [--scopes LIST] [--rate N] [--expires DAYS] [--outputs-dir DIR]\n"
    "       sd35 keys list [--outputs-dir DIR]\n"
    "       sd35 keys revoke NAME|PREFIX [--outputs-dir DIR]\n"
    "\n"
    "The API keys of a server that is stopped. While it runs, its own routes do the same, with a\n"
    "key that has the scope admin: GET and POST /api/v1/keys, DELETE /api/v1/keys/NAME.\n";

static bool run_verb(const struct keys_verb *verb, const struct keys_settings *settings,
                     struct error *err)
{
    const char *folder = settings->folder ? settings->folder : "outputs";
    struct store *store;
    bool ok;

    if (verb->needs_name && !settings->name)
        return error_set(err, ERROR_BAD_REQUEST, "the name is missing");
    if (!process_user_adopt(settings->user, folder, err))
        return false;
    if (!store_open(&store, folder, err)) {
        if (err->code == ERROR_BAD_REQUEST)
            error_set(err, ERROR_BAD_REQUEST,
                      "a server has '%s' open: stop it, or ask it with a key that has the scope "
                      "admin: curl -H 'Authorization: Bearer KEY' [-X POST --json "
                      "'{\"name\": \"NAME\"}' | -X DELETE] http://ADDRESS/api/v1/keys[/NAME]",
                      folder);
        return false;
    }
    ok = verb->run(store, settings, err);
    store_close(store);
    return ok;
}

int keys_command(int argc, char **argv, const atomic_bool *cancel)
{
    struct keys_settings settings = {0};
    const struct keys_verb *verb = NULL;
    struct error err = {0};
    bool wants_help;

    (void)cancel;
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        fputs(usage, argc < 2 ? stderr : stdout);
        return argc < 2 ? error_exit_code(ERROR_BAD_REQUEST) : 0;
    }
    for (size_t i = 0; i < COUNT_OF(verbs); i++)
        if (strcmp(argv[1], verbs[i].name) == 0)
            verb = &verbs[i];
    if (!verb) {
        error_set(&err, ERROR_BAD_REQUEST, "keys: '%s' is none of add, list and revoke", argv[1]);
        goto fail;
    }
    if (!options_parse(&settings, &wants_help, &verb->table, argc - 1, argv + 1, &err))
        goto fail;
    if (wants_help) {
        options_print_help(stdout, &verb->table);
        return 0;
    }
    if (sodium_init() < 0)
        error_set(&err, ERROR_IO, "libsodium does not start");
    else if (run_verb(verb, &settings, &err))
        return 0;

fail:
    report_error(&err);
    return error_exit_code(err.code);
}
