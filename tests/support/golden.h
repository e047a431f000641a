/* Golden tensors: what the reference implementation computed, read for comparison.
 *
 * Everything read belongs to the bundle and is freed with it. A name that is not there, or a
 * damaged file, fails the test that asked.
 */
#ifndef TESTS_SUPPORT_GOLDEN_H
#define TESTS_SUPPORT_GOLDEN_H

#include <stdbool.h>

#include "base/attributes.h"
#include "tensor/tensor.h"

struct golden;

/* Opens a safetensors file below the shared folder, such as
 * "golden/tiny-large/expected.safetensors". NULL where it is absent, having said so loudly: the
 * caller then calls cmocka's skip(). Free with golden_close. */
struct golden *golden_open(const char *relative);
void golden_close(struct golden *golden); /* NULL is fine */

bool golden_has(const struct golden *golden, const char *name_format, ...) PRINTF_LIKE(2, 3);

/* The tensor as f32, whatever float type it is stored in; a scalar becomes [1]. */
struct tensor golden_f32(struct golden *golden, const char *name_format, ...) PRINTF_LIKE(2, 3);

/* The same for integers of 32 or 64 bits, as i32. */
struct tensor golden_i32(struct golden *golden, const char *name_format, ...) PRINTF_LIKE(2, 3);

/* ||got - want|| / ||want|| over two contiguous f32 tensors of the same shape, which is checked;
 * ||got|| when want is all zeros. NaN if there is one in either. */
double golden_relative_error(const struct tensor *got, const struct tensor *want);

#endif
