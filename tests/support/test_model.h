/* Small random models in the test's directory. */
#ifndef TESTS_SUPPORT_TEST_MODEL_H
#define TESTS_SUPPORT_TEST_MODEL_H

#include "random_model.h"

/* The preset "tiny" in f16, a folder in Diffusers' layout unless the test wants another. */
struct random_model_options test_model_options(void);

/* Writes the model below the test's directory, once for each name, and returns its path; fails the
 * test where that cannot be. `options->output` does not matter. */
const char *test_model_write(const char *name, const struct random_model_options *options);

/* One of the options above that is good for drawing: test_path("model"). */
const char *test_model(void);

#endif
