/* report.html: a conversion to look at. Self-contained, without scripts, light and dark.
 */
#ifndef CALIBRATE_HTML_REPORT_H
#define CALIBRATE_HTML_REPORT_H

#include "base/attributes.h"
#include "base/error.h"
#include "calibrate/calibrate.h"
#include "convert/convert.h"

struct html_report {
    const char *model;   /* what was converted */
    const char *made_by; /* "sd35 0.1.0" */
    const struct calibration
        *calibration; /* NULL: nothing was measured, and there are no pictures */
};

/* For convert_options. Borrows the report. */
struct convert_reporter html_reporter(struct html_report *report);

#endif
