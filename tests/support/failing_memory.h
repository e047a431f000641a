/* Memory that runs out: the linker sends the program's allocations here, in programs that
 * sd35_failing_memory (tests/CMakeLists.txt) was called for. */
#ifndef TESTS_SUPPORT_FAILING_MEMORY_H
#define TESTS_SUPPORT_FAILING_MEMORY_H

#include <stdbool.h>

extern long allocations_left; /* that still succeed; negative, as at first: all */

/* Counts one. For allocators of libraries, which the linker does not see. */
bool may_allocate(void);

#endif
