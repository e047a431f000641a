/* What `sd35 generate` can be told. */
#ifndef CLI_GENERATE_OPTIONS_H
#define CLI_GENERATE_OPTIONS_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"
#include "cli/engine_options.h"
#include "cli/options.h"
#include "cli/size_options.h"

/* What was not given is NULL, 0, or -1 where 0 could be given; or it has its default where that
 * does not depend on the model. Texts are borrowed from the arguments and the environment. */
struct generate_settings {
    struct engine_settings engine;

    const char *prompt, *prompt_2, *prompt_3;
    const char *negative_prompt, *negative_prompt_2, *negative_prompt_3;

    struct size_settings size;
    int steps;
    double guidance;
    struct option_seed seed;
    int batch;
    double flow_shift;
    int t5_tokens;
    const char *rng;
    struct option_list skip_layers;
    double skip_layer_scale, skip_layer_start, skip_layer_stop;

    const char *init_image, *mask;
    double strength;
    bool as_diffusers;

    int images_at_once;

    const char *output;
    int quality;
    const char *show;
    bool json, quiet, dry_run;
};

extern const struct option_table generate_option_table;

/* *wants_help: the command line asks for the help and nothing was checked. */
MUST_CHECK bool generate_settings_parse(struct generate_settings *settings, bool *wants_help,
                                        int argc, char *const *argv, struct error *err);

#endif
