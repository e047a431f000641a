#include "support/test_model.h"

#include <unistd.h>

#include "support/support.h"

struct random_model_options test_model_options(void)
{
    struct random_model_options options;

    assert_true(random_model_preset(&options, "tiny"));
    options.layout = RANDOM_MODEL_DIFFUSERS;
    options.dtype = DTYPE_F16;
    options.seed = 3;
    return options;
}

const char *test_model_write(const char *name, const struct random_model_options *options)
{
    struct random_model_options named = *options;
    struct error err = {0};

    named.output = test_path(name);
    if (access(named.output, F_OK) != 0 && !random_model_write(&named, &err))
        fail_msg("%s", err.message);
    return named.output;
}

const char *test_model(void)
{
    struct random_model_options options = test_model_options();

    return test_model_write("model", &options);
}
