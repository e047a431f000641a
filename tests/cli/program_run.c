#include "program_run.h"

#include "support/support.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"

#define OUTPUT_BYTES_MAX ((size_t)4 << 20)

static void replace(int fd, int wanted)
{
    if (fd < 0 || dup2(fd, wanted) < 0)
        _exit(99);
}

/* In the child: everything that could be inherited is set. */
static void prepare(const struct program *program, const struct program_setting *setting)
{
    const int mode = O_WRONLY | O_CREAT | O_TRUNC;
    const char *out = setting->output ? setting->output : program->out_path;
    const char *in = setting->input ? setting->input : "/dev/null";
    struct rlimit limit = {setting->file_limit, setting->file_limit};

    replace(setting->input_fd ? setting->input_fd : open(in, O_RDONLY), STDIN_FILENO);
    replace(open(out, mode, 0666), STDOUT_FILENO);
    replace(setting->error_fd ? setting->error_fd : open(program->err_path, mode, 0666),
            STDERR_FILENO);
    if (setting->directory && chdir(setting->directory) != 0)
        _exit(99);
    if (setting->variable && putenv((char *)(uintptr_t)setting->variable) != 0)
        _exit(99);
    if (setting->file_limit && setrlimit(RLIMIT_FSIZE, &limit) != 0)
        _exit(99);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGXFSZ, SIG_DFL);
}

void program_start(struct program *program, const struct program_setting *setting,
                   const char *const *arguments)
{
    char *argv[PROGRAM_ARGUMENTS_MAX + 1] = {NULL};

    for (size_t i = 0; arguments[i]; i++) {
        assert_true(i < PROGRAM_ARGUMENTS_MAX);
        argv[i] = (char *)(uintptr_t)arguments[i];
    }
    snprintf(program->out_path, sizeof program->out_path, "%s/stdout", test_directory());
    snprintf(program->err_path, sizeof program->err_path, "%s/stderr", test_directory());
    unlink(program->out_path);
    unlink(program->err_path);
    fflush(NULL);
    program->pid = fork();
    assert_true(program->pid >= 0);
    if (program->pid == 0) {
        prepare(program, setting);
        execv(argv[0], argv);
        _exit(98);
    }
}

/* The text of a file; "" where there is none. */
static char *read_text(const char *path)
{
    unsigned char *text;
    size_t size;

    if (!file_read(&text, &size, path, OUTPUT_BYTES_MAX, NULL))
        return strdup("");
    return (char *)text;
}

bool program_wait_for(const struct program *program, const char *text)
{
    const struct timespec pause = {.tv_nsec = 10000000};

    for (int i = 0; i < 6000; i++) {
        siginfo_t info = {0};
        char *err = read_text(program->err_path);
        bool found = strstr(err, text) != NULL;

        free(err);
        if (found)
            return true;
        /* WNOWAIT: program_finish collects it. */
        if (waitid(P_PID, (id_t)program->pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
            info.si_pid != 0)
            return false;
        nanosleep(&pause, NULL);
    }
    return false;
}

static bool has_handler(pid_t pid, int signal_number)
{
    unsigned long long caught = 0;
    char path[64], line[256];
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "SigCgt:", strlen("SigCgt:")) == 0)
            caught = strtoull(line + strlen("SigCgt:"), NULL, 16);
    if (file)
        fclose(file);
    return caught >> (signal_number - 1) & 1;
}

bool program_wait_for_handler(const struct program *program, int signal_number)
{
    const struct timespec pause = {.tv_nsec = 10000000};

    for (int i = 0; i < 6000; i++) {
        if (has_handler(program->pid, signal_number))
            return true;
        nanosleep(&pause, NULL);
    }
    return false;
}

struct program_end program_finish(struct program *program)
{
    struct program_end end;
    int status;

    assert_true(waitpid(program->pid, &status, 0) == program->pid);
    end.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    end.out = read_text(program->out_path);
    end.err = read_text(program->err_path);
    return end;
}

void program_end_free(struct program_end *end)
{
    free(end->out);
    free(end->err);
}
