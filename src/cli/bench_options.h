/* What `sd35 bench` can be told. */
#ifndef CLI_BENCH_OPTIONS_H
#define CLI_BENCH_OPTIONS_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"
#include "cli/engine_options.h"
#include "cli/options.h"
#include "cli/size_options.h"

/* What was not given is NULL, 0, or -1 where 0 could be given; or it has its default where that
 * does not depend on the model. Texts are borrowed from the arguments and the environment. */
struct bench_settings {
    struct engine_settings engine;

    const char *prompt, *negative_prompt;
    struct size_settings size;
    int steps;
    double guidance;
    int batch;
    struct option_seed seed;

    int runs, warmup;
    const char *json; /* "-": standard output */
    const char *compare;
    bool quiet;
};

extern const struct option_table bench_option_table;

/* *wants_help: the command line asks for the help and nothing was checked. */
MUST_CHECK bool bench_settings_parse(struct bench_settings *settings, bool *wants_help, int argc,
                                     char *const *argv, struct error *err);

#endif
