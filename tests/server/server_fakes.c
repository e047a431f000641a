/* Log and metrics for tests of parts that call them: nothing is written. */
#include <stdlib.h>

#include "server/log.h"
#include "server/metrics.h"

void log_event(enum log_level level, const char *event, const char *format, ...)
{
    (void)level;
    (void)event;
    (void)format;
}

void metrics_count(enum metric_counter counter, const char *label, double amount)
{
    (void)counter;
    (void)label;
    (void)amount;
}

void metrics_observe(enum metric_histogram histogram, double value)
{
    (void)histogram;
    (void)value;
}
