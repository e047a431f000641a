/* Log and metrics for tests of parts that call them: nothing is written, and counts are kept. */
#ifndef TESTS_SERVER_SERVER_FAKES_H
#define TESTS_SERVER_SERVER_FAKES_H

#include "server/metrics.h"

/* What metrics_count was told so far. */
double fake_metrics_counted(enum metric_counter counter, const char *label);

#endif
