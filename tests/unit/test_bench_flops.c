/* How much a step computes, against counts made by hand. */
#include "support/support.h"

#include <math.h>

#include "cli/bench_flops.h"

/* 1024 x 1024 with CLIP's 77 and T5's 256 tokens, with and without the prompt. */
static const struct step_shape large = {
    .layers = 38, .width = 2432, .image_tokens = 4096, .context_tokens = 77 + 256, .samples = 2};
static const struct step_shape medium = {.layers = 24,
                                         .self_attentions = 13,
                                         .width = 1536,
                                         .image_tokens = 4096,
                                         .context_tokens = 77 + 256,
                                         .samples = 2};

static void expect_tflop(const struct step_shape *shape, double tflop)
{
    assert_true(fabs(bench_step_flops(shape) * 1e-12 - tflop) < 0.01);
}

static void large_computes_62_tflop_a_step(void **state)
{
    (void)state;
    expect_tflop(&large, 44.19 + 3.52 + 14.50); /* image linears, text linears, attention */
}

static void medium_computes_22_tflop_a_step(void **state)
{
    (void)state;
    /* Image linears and attention each with those of the second attention. */
    expect_tflop(&medium, (11.13 + 2.01) + 0.88 + (5.79 + 2.68));
}

static void half_the_samples_are_half_the_work(void **state)
{
    struct step_shape single = large;

    (void)state;
    single.samples = 1;
    assert_true(fabs(2 * bench_step_flops(&single) - bench_step_flops(&large)) < 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_computes_62_tflop_a_step),
        cmocka_unit_test(medium_computes_22_tflop_a_step),
        cmocka_unit_test(half_the_samples_are_half_the_work),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
