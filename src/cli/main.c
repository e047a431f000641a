/* The program: finds the sub-command and hands over. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/attributes.h"
#include "base/error.h"
#include "base/version.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/report.h"

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv, const atomic_bool *cancel);
    const char *summary;
} commands[] = {
    {"serve", serve_command, "serve the page and the HTTP APIs"},
    {"check", check_command, "tell what would keep 'serve' from starting, and the cure"},
    {"generate", generate_command, "draw pictures from a text"},
    {"convert", convert_command, "convert a model's weights to FP8"},
    {"verify", verify_command, "check a model's tensors and files"},
    {"keys", keys_command, "make, list and revoke API keys"},
    {"bench", bench_command, "time a model and count its memory"},
};

#define EXIT_UNREADABLE 6 /* error_exit_code(ERROR_IO), for a signal handler */

static atomic_bool is_cancelled;

static void cancel(int signal)
{
    (void)signal;
    atomic_store(&is_cancelled, true);
}

/* Reading mapped memory that the file no longer has, or that the disk cannot give. Nothing but
 * ending is left; files of ours appear only when they are whole, so nothing is half-written. */
static void end_unreadable(int signal)
{
    static const char message[] = "sd35: a model file became unreadable while it was used: it "
                                  "shrank, or its disk failed\n";

    (void)signal;
    (void)!write(STDERR_FILENO, message, sizeof message - 1);
    _exit(EXIT_UNREADABLE);
}

/* The first signal asks to stop, the second ends the program at once. Who starts us with a signal
 * ignored, as nohup does, wants it to stay so. */
static void watch_signals(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    /* No SA_RESTART: waiting for standard input must end. */
    const struct sigaction on_signal = {.sa_handler = cancel, .sa_flags = (int)SA_RESETHAND};
    const struct sigaction on_unreadable = {.sa_handler = end_unreadable};
    struct sigaction before;

    sigaction(SIGBUS, &on_unreadable, NULL);
    for (size_t i = 0; i < COUNT_OF(signals); i++)
        if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(signals[i], &on_signal, NULL);
    /* A closed pipe and a file that may not grow are errors like others, told by write(). */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

static void print_help(FILE *out)
{
    fputs("usage: sd35 COMMAND [options]\n\n", out);
    for (size_t i = 0; i < COUNT_OF(commands); i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs("\n"
          "  --version  print the version\n"
          "  --help     print this; 'sd35 COMMAND --help' tells a command's options\n",
          out);
}

static int fail_unknown(const char *name)
{
    struct option_guess guess = option_guess_start(name);
    struct error err;

    for (size_t i = 0; i < COUNT_OF(commands); i++)
        option_guess_offer(&guess, commands[i].name);
    if (name[0] == '-')
        error_set(&err, ERROR_BAD_REQUEST, "'%.60s' stands before the command: see 'sd35 --help'",
                  name);
    else if (guess.name)
        error_set(&err, ERROR_BAD_REQUEST, "unknown command '%.60s': did you mean %s?", name,
                  guess.name);
    else
        error_set(&err, ERROR_BAD_REQUEST, "unknown command '%.60s': see 'sd35 --help'", name);
    report_error(&err);
    return error_exit_code(err.code);
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return error_exit_code(ERROR_BAD_REQUEST);
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts(PROGRAM_NAME_AND_VERSION);
        return 0;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_help(stdout);
        return 0;
    }
    for (size_t i = 0; i < COUNT_OF(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1, &is_cancelled);
    return fail_unknown(argv[1]);
}

int main(int argc, char **argv)
{
    struct error err;
    int code;

    watch_signals();
    code = run(argc, argv);
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == 0) {
        error_set_errno(&err, errno, "writing to standard output");
        report_error(&err);
        code = error_exit_code(err.code);
    }
    return code;
}
