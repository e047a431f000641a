/* Running a program as a shell would, and looking at what it left. */
#ifndef TESTS_CLI_PROGRAM_RUN_H
#define TESTS_CLI_PROGRAM_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* How a program is started; zero is the usual. */
struct program_setting {
    const char *directory;    /* to run in; NULL: where we are */
    const char *input;        /* file to read on standard input; NULL: /dev/null */
    int input_fd;             /* instead of `input`; 0: none */
    int error_fd;             /* where standard error goes; 0: to a file that is read back */
    const char *output;       /* file that is standard output; NULL: one that is read back */
    const char *variable;     /* "NAME=value" for the environment */
    unsigned long file_limit; /* the most bytes that a file may have; 0: any number */
};

/* A program that runs. */
struct program {
    pid_t pid;
    char out_path[128], err_path[128];
};

/* What it left. Texts are owned. */
struct program_end {
    int code; /* of exit; 1000 and the signal where one ended it */
    char *out, *err;
};

#define PROGRAM_ARGUMENTS_MAX 48

/* `arguments` ends with NULL; the first is the program. */
void program_start(struct program *program, const struct program_setting *setting,
                   const char *const *arguments);
/* Waits until standard error holds `text`. False when the program ends or 60 s pass before. */
bool program_wait_for(const struct program *program, const char *text);
/* Waits until the program has a handler for this signal. False when 60 s pass before. */
bool program_wait_for_handler(const struct program *program, int signal_number);
struct program_end program_finish(struct program *program);
void program_end_free(struct program_end *end);

#endif
