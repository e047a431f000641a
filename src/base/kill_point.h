/* Where tests kill the process: in sd35-mortal, which tests build; nothing at all elsewhere.
 *
 * SD35_KILL_AT=point[:n][+micros] kills with SIGKILL at the n-th time that the point is reached
 * (default 1), or so many microseconds after that. Counted in each process. The supervisor forgets
 * it with the first death, so that the processes that come after live.
 * SD35_WORKER_DIES_AT=text kills, each time, the worker that draws a step of this prompt.
 */
#ifndef BASE_KILL_POINT_H
#define BASE_KILL_POINT_H

#ifdef SD35_KILL_POINTS

void kill_point(const char *name);          /* any thread */
void kill_point_prompt(const char *prompt); /* any thread */
void kill_point_forget(void);               /* no other thread runs */

#else

static inline void kill_point(const char *name)
{
    (void)name;
}

static inline void kill_point_prompt(const char *prompt)
{
    (void)prompt;
}

static inline void kill_point_forget(void)
{
}

#endif
#endif
