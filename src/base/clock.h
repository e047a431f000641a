/* Time that only moves forward. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

/* Seconds since some moment before the program began. */
double seconds_now(void);

#endif
