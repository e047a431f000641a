/* Plugins that cannot be used: each reason is a sentence of its own, and "auto" takes the CPU. */
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

#include "backend/plugin_library.h"

/* Where CMake put wrong_plugin as backend_cuda.so, and an empty file as backend_empty.so. */
static void look_in(const char *folder)
{
    assert_int_equal(setenv("SD35_PLUGIN_DIR", folder, 1), 0);
}

static void expect_failure(const char *name, const char *word)
{
    struct plugin_library *library = NULL;
    struct error err = {0};

    assert_false(plugin_library_open(&library, name, &err));
    assert_null(library);
    assert_int_equal(err.code, ERROR_BACKEND);
    if (!strstr(err.message, word))
        fail_msg("'%s' does not say '%s'", err.message, word);
}

static void missing_plugins_are_named(void **state)
{
    (void)state;
    look_in("/nowhere");
    expect_failure("cuda", "backend_cuda.so is not installed");
}

static void plugins_of_another_version_are_refused(void **state)
{
    (void)state;
    look_in(WRONG_PLUGIN_FOLDER);
    expect_failure("cuda", "another version");
}

static void files_that_are_no_plugins_are_refused(void **state)
{
    (void)state;
    look_in(WRONG_PLUGIN_FOLDER);
    expect_failure("empty", "loading");
}

static void devices_by_name_fail_and_auto_takes_the_cpu(void **state)
{
    struct backend_options options = {.device = "cuda"};
    struct backend *backend = NULL;
    struct error err = {0};

    (void)state;
    look_in(WRONG_PLUGIN_FOLDER);
    assert_false(backend_open(&backend, &options, &err));
    assert_non_null(strstr(err.message, "another version"));
    options.device = "auto";
    if (!backend_open(&backend, &options, &err))
        fail_msg("%s", err.message);
    assert_int_equal(strncmp(backend->description, "cpu", 3), 0);
    backend_close(backend);
}

static void unknown_devices_are_refused(void **state)
{
    static const char *const names[] = {"cuda:", "cuda:x", "cuda:1x", "cuda:-1", "gpu", ""};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct backend_options options = {.device = names[i]};
        struct backend *backend = NULL;
        struct error err = {0};

        assert_false(backend_open(&backend, &options, &err));
        assert_int_equal(err.code, ERROR_BAD_REQUEST);
        assert_non_null(strstr(err.message, "there are auto, cpu, cuda"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_plugins_are_named),
        cmocka_unit_test(plugins_of_another_version_are_refused),
        cmocka_unit_test(files_that_are_no_plugins_are_refused),
        cmocka_unit_test(devices_by_name_fail_and_auto_takes_the_cpu),
        cmocka_unit_test(unknown_devices_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
