#include "cli/progress.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define SECONDS_BETWEEN_DRAWS 0.1
#define TICK_NANOSECONDS 250000000
#define COLUMNS_DEFAULT 80
#define BAR_WIDTH_MAX 40
#define BAR_WIDTH_MIN 8 /* no bar below that */

struct progress {
    bool is_quiet, is_terminal; /* fixed at create */
    bool has_ticker;
    pthread_t ticker;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct progress_now last; /* under lock, as is all that follows */
    bool has_last, is_shown, is_ending;
    double last_at, drawn_at;
};

/* --- The line --- */

static void format_seconds(char *text, size_t size, double seconds)
{
    long whole = (long)seconds;

    if (whole < 60)
        snprintf(text, size, "%ld s", whole);
    else if (whole < 3600)
        snprintf(text, size, "%ld min %02ld s", whole / 60, whole % 60);
    else
        snprintf(text, size, "%ld h %02ld min", whole / 3600, whole / 60 % 60);
}

/* Of the phase; what the finished steps took is what the others will. */
static double seconds_left(const struct progress_now *now, double waited)
{
    double left = (double)(now->step_count - now->step) * now->seconds / (double)now->step - waited;

    return left > 0 ? left : 0;
}

static void format_times(char *text, size_t size, const struct progress_now *now, double waited)
{
    char done[32], left[32];

    format_seconds(done, sizeof done, now->seconds + waited);
    snprintf(text, size, "%d/%d%s  %s", now->step, now->step_count, now->unit, done);
    if (now->step < 1 || now->step >= now->step_count)
        return;
    format_seconds(left, sizeof left, seconds_left(now, waited));
    snprintf(text + strlen(text), size - strlen(text), ", %s left", left);
}

static void format_bar(char *text, int width, const struct progress_now *now)
{
    int filled = now->step_count > 0 ? (int)((long)width * now->step / now->step_count) : 0;

    *text++ = '[';
    memset(text, '#', (size_t)filled);
    memset(text + filled, '.', (size_t)(width - filled));
    memcpy(text + width, "]  ", sizeof "]  ");
}

void progress_format(char line[PROGRESS_LINE_BYTES], const struct progress_now *now, double waited,
                     int columns)
{
    char times[128], bar[BAR_WIDTH_MAX + sizeof "[]  "] = "";
    const char *name = now->phase;
    int length, width;

    format_times(times, sizeof times, now, waited);
    length = (int)(strlen(name) + strlen("  ") + strlen(times));
    width = columns - 1 - length - (int)strlen("[]  ");
    if (width > BAR_WIDTH_MAX)
        width = BAR_WIDTH_MAX;
    if (width >= BAR_WIDTH_MIN)
        format_bar(bar, width, now);
    length = snprintf(line, PROGRESS_LINE_BYTES, "%s  %s%s", name, bar, times);
    if (length >= columns)
        line[columns > 0 ? columns - 1 : 0] = '\0';
}

/* --- Drawing --- */

static int terminal_columns(void)
{
    struct winsize size;

    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col
                                                                           : COLUMNS_DEFAULT;
}

static void draw_locked(struct progress *progress)
{
    char line[PROGRESS_LINE_BYTES];
    double now = seconds_now();

    progress_format(line, &progress->last, now - progress->last_at, terminal_columns());
    fprintf(stderr, "\r%s\033[K", line);
    fflush(stderr);
    progress->drawn_at = now;
    progress->is_shown = true;
}

static void clear_locked(struct progress *progress)
{
    if (progress->is_shown)
        fputs("\r\033[K", stderr);
    fflush(stderr);
    progress->is_shown = false;
}

static void *tick(void *context)
{
    struct progress *progress = context;

    pthread_mutex_lock(&progress->lock);
    while (!progress->is_ending) {
        struct timespec until;

        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += TICK_NANOSECONDS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&progress->wake, &progress->lock, &until);
        if (progress->is_shown && !progress->is_ending &&
            seconds_now() - progress->drawn_at >= SECONDS_BETWEEN_DRAWS)
            draw_locked(progress);
    }
    pthread_mutex_unlock(&progress->lock);
    return NULL;
}

/* --- Phases --- */

/* Where there is no terminal: what has just ended. */
static void print_phase(const struct progress_now *ended)
{
    fprintf(stderr, "%s: %.1f s", ended->phase, ended->seconds);
    if (ended->ended)
        fprintf(stderr, ", %d %s%s", ended->step, ended->ended, ended->step == 1 ? "" : "s");
    fputc('\n', stderr);
}

static void update(struct progress *progress, const struct progress_now *now, bool is_over)
{
    bool is_new;

    pthread_mutex_lock(&progress->lock);
    is_new = !progress->has_last || strcmp(progress->last.phase, now->phase) != 0;
    if (is_new && progress->has_last && !progress->is_terminal)
        print_phase(&progress->last);
    progress->last = *now;
    progress->last_at = seconds_now();
    progress->has_last = true;
    if (progress->is_terminal && is_over)
        clear_locked(progress);
    else if (progress->is_terminal &&
             (is_new || progress->last_at - progress->drawn_at >= SECONDS_BETWEEN_DRAWS))
        draw_locked(progress);
    pthread_mutex_unlock(&progress->lock);
}

void progress_show(struct progress *progress, const struct progress_now *now)
{
    if (!progress->is_quiet)
        update(progress, now, false);
}

void progress_update(void *context, const struct pipeline_progress *from)
{
    struct progress *progress = context;
    const struct progress_now now = {
        .phase = pipeline_phase_name(from->phase),
        .unit = "",
        .ended = from->phase == PHASE_DENOISE ? "step" : NULL,
        .step = from->step,
        .step_count = from->step_count,
        .seconds = from->phase_seconds,
    };

    if (!progress->is_quiet && from->phase != PHASE_PLAN)
        update(progress, &now, from->phase == PHASE_DONE);
}

void progress_clear(struct progress *progress)
{
    pthread_mutex_lock(&progress->lock);
    clear_locked(progress);
    pthread_mutex_unlock(&progress->lock);
}

static bool init_wake(pthread_cond_t *wake)
{
    pthread_condattr_t attributes;
    bool ok;

    if (pthread_condattr_init(&attributes) != 0)
        return false;
    ok = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 &&
         pthread_cond_init(wake, &attributes) == 0;
    pthread_condattr_destroy(&attributes);
    return ok;
}

bool progress_create(struct progress **out, bool is_quiet, struct error *err)
{
    struct progress *progress = calloc(1, sizeof *progress);

    if (!progress || !init_wake(&progress->wake)) {
        free(progress);
        return error_set(err, ERROR_NO_MEMORY, "progress");
    }
    pthread_mutex_init(&progress->lock, NULL);
    progress->is_quiet = is_quiet;
    progress->is_terminal = isatty(STDERR_FILENO) == 1;
    /* Without the thread the line moves with the steps only. */
    progress->has_ticker = !is_quiet && progress->is_terminal &&
                           pthread_create(&progress->ticker, NULL, tick, progress) == 0;
    *out = progress;
    return true;
}

void progress_destroy(struct progress *progress)
{
    if (!progress)
        return;
    pthread_mutex_lock(&progress->lock);
    clear_locked(progress);
    progress->is_ending = true;
    pthread_cond_signal(&progress->wake);
    pthread_mutex_unlock(&progress->lock);
    if (progress->has_ticker)
        pthread_join(progress->ticker, NULL);
    pthread_cond_destroy(&progress->wake);
    pthread_mutex_destroy(&progress->lock);
    free(progress);
}
