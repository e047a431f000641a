/* What every test needs: a temporary directory, files in it, and the shared golden values. */
#ifndef TESTS_SUPPORT_SUPPORT_H
#define TESTS_SUPPORT_SUPPORT_H

/* cmocka wants these first, in this order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* A fresh directory; removed, with everything in it, when the program ends. The text lives as long
 * as the program. */
const char *test_directory(void);

/* "<test_directory>/<name>"; never freed. */
const char *test_path(const char *name);

/* Writes a file into the test directory and returns its path. */
const char *test_write_file(const char *name, const void *bytes, size_t size);

/* The path of something in the project's shared folder of golden values, or NULL where that folder
 * is absent: the caller then says loudly that it skips (test_skip_without_shared). */
const char *test_shared_path(const char *relative);

/* Prints "SKIPPED: ... needs ../shared" and returns true where the folder is absent. */
int test_skip_without_shared(const char *test_name);

#endif
