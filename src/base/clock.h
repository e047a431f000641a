/* Time that only moves forward. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdbool.h>

/* Seconds since some moment before the program began. */
double seconds_now(void);

/* Between the tries of who tries again until that moment of seconds_now(): waits for a fiftieth of
 * a second. False, at once, when the moment has come. */
bool pause_until(double moment);

#endif
