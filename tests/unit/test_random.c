/* Noise against PyTorch's, as recorded and as published. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "support/golden.h"

#define BUNDLE "golden/tiny-large/expected.safetensors"
#define TOLERANCE 2e-6

static const uint64_t seeds[] = {0, 42, 2147483653u};

static float *allocate(size_t count)
{
    float *values = malloc(count * sizeof *values);

    assert_non_null(values);
    return values;
}

static double largest_difference(const float *a, const float *b, size_t count)
{
    double largest = 0.0;

    for (size_t i = 0; i < count; i++)
        largest = fmax(largest, isnan(a[i]) ? INFINITY : fabs((double)a[i] - (double)b[i]));
    return largest;
}

static void expect_close(const float *got, const float *want, size_t count, double tolerance,
                         const char *what)
{
    double difference = largest_difference(got, want, count);

    if (!(difference <= tolerance))
        fail_msg("%s: differs by %g, allowed %g", what, difference, tolerance);
}

static void check_cpu_draw(struct golden *golden, uint64_t seed, const char *kind)
{
    struct tensor want = golden_f32(golden, "noise.cpu.%llu.%s", (unsigned long long)seed, kind);
    size_t count = (size_t)tensor_count(&want);
    float *got = allocate(count);
    struct mt19937 generator;

    mt19937_seed(&generator, seed);
    torch_cpu_normal(got, count, &generator);
    expect_close(got, want.data, count, TOLERANCE, kind);
    free(got);
}

static void cpu_noise_equals_torch_for_short_odd_and_long_draws(void **state)
{
    static const char *const kinds[] = {"n1", "n7", "n15", "n16", "n17", "n100", "f32"};
    struct golden *golden = golden_open(BUNDLE);

    (void)state;
    if (!golden)
        skip();
    for (size_t s = 0; s < COUNT_OF(seeds); s++)
        for (size_t k = 0; k < COUNT_OF(kinds); k++)
            check_cpu_draw(golden, seeds[s], kinds[k]);
    golden_close(golden);
}

/* Stored in a narrow type, the values can be off by half a step of that type. */
static void check_cuda_draw(struct golden *golden, uint64_t seed, const char *kind,
                            double relative_step)
{
    struct tensor want = golden_f32(golden, "noise.cuda.%llu.%s", (unsigned long long)seed, kind);
    struct philox generator = {.seed = seed, .threads_max = TORCH_CUDA_THREADS_H100};
    const float *values = want.data;
    size_t count = (size_t)tensor_count(&want);
    float *got = allocate(count);

    torch_cuda_normal(got, count, &generator);
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(got[i] - values[i]) <= TOLERANCE + relative_step * fabs((double)values[i])))
            fail_msg("seed %llu, %s, element %zu: %.9g, not %.9g", (unsigned long long)seed, kind,
                     i, (double)got[i], (double)values[i]);
    free(got);
}

static void cuda_noise_equals_torch_on_an_h100(void **state)
{
    struct golden *golden = golden_open(BUNDLE);

    (void)state;
    if (!golden)
        skip();
    for (size_t s = 0; s < COUNT_OF(seeds); s++) {
        check_cuda_draw(golden, seeds[s], "f32", 0.0);
        check_cuda_draw(golden, seeds[s], "f16", 0x1p-11);
        check_cuda_draw(golden, seeds[s], "bf16", 0x1p-8);
    }
    golden_close(golden);
}

/* The golden tensor is every fifth channel, sixteenth row and sixteenth column of a 1024 x 1024
 * picture's latent. */
static void cuda_noise_of_a_full_size_latent_equals_torch(void **state)
{
    struct golden *golden = golden_open(BUNDLE);
    float picked[4 * 8 * 8];
    float *got;

    (void)state;
    if (!golden)
        skip();
    got = allocate(16 * 128 * 128);
    for (size_t s = 0; s < COUNT_OF(seeds); s++) {
        struct tensor want =
            golden_f32(golden, "noise.cuda.%llu.big", (unsigned long long)seeds[s]);
        struct philox generator = {.seed = seeds[s], .threads_max = TORCH_CUDA_THREADS_H100};
        size_t i = 0;

        assert_int_equal(tensor_count(&want), COUNT_OF(picked));
        torch_cuda_normal(got, 16 * 128 * 128, &generator);
        for (size_t c = 0; c < 16; c += 5)
            for (size_t y = 0; y < 128; y += 16)
                for (size_t x = 0; x < 128; x += 16)
                    picked[i++] = got[(c * 128 + y) * 128 + x];
        expect_close(picked, want.data, COUNT_OF(picked), TOLERANCE, "big");
    }
    free(got);
    golden_close(golden);
}

static void mt19937_gives_the_published_ten_thousandth_word(void **state)
{
    struct mt19937 generator;
    uint32_t word = 0;

    (void)state;
    mt19937_seed(&generator, 5489); /* the value that the C++ standard asks of std::mt19937 */
    for (int i = 0; i < 10000; i++)
        word = mt19937_next(&generator);
    assert_int_equal(word, 4123659995u);
}

/* From torch 2.15: g = Generator().manual_seed(SEED); randn(1, 16, 8, 8, generator=g) twice, then
 * randn(3), randn(5) and randn(20) from the same g. */
static const struct {
    uint64_t seed;
    float first[3], second[3], three[3], five[5], twenty[3];
} continued[] = {
    {.seed = UINT64_C(0),
     .first = {-1.12583983f, -1.1523602f, -0.250578582f},
     .second = {-1.08408248f, -0.128738061f, -0.681077302f},
     .three = {0.867454767f, -0.55365634f, -0.978422582f},
     .five = {0.91926831f, -2.03503442f, 0.961954057f, -1.05830622f, -0.304516435f},
     .twenty = {1.01063573f, 1.33725202f, 0.178134754f}},
    {.seed = UINT64_C(42),
     .first = {1.92691529f, 1.48728406f, 0.900717199f},
     .second = {-1.22478759f, 0.962885857f, -1.57854128f},
     .three = {0.407601357f, -0.507014751f, -1.38637888f},
     .five = {0.324906558f, -1.38034856f, -0.15475896f, 0.153094009f, -0.571825266f},
     .twenty = {2.06586599f, 1.01781547f, -1.93788671f}},
    {.seed = UINT64_C(4294967303),
     .first = {-0.820134521f, 0.395631164f, 0.898908496f},
     .second = {0.851140678f, 0.112364113f, 1.34206355f},
     .three = {-0.0501248688f, 0.13028416f, 1.12985134f},
     .five = {0.967710257f, 0.713977575f, 0.467258304f, -0.447283536f, -1.52062261f},
     .twenty = {0.370109439f, -0.825218022f, -1.19662786f}},
    {.seed = UINT64_C(18446744073709551615),
     .first = {-2.66429758f, -1.0910486f, 0.451447427f},
     .second = {1.68970633f, -0.175254762f, -0.710836232f},
     .three = {-0.987973392f, 0.587767661f, 1.05738378f},
     .five = {0.223759472f, -1.53853178f, 0.923049867f, -1.12582505f, -0.0298295524f},
     .twenty = {-1.43198609f, -0.0957496241f, -1.16119576f}},
};

static void cpu_noise_drawn_piece_by_piece_goes_on_as_torch_does(void **state)
{
    float values[1024];
    struct mt19937 generator;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(continued); i++) {
        mt19937_seed(&generator, continued[i].seed);
        torch_cpu_normal(values, 1024, &generator);
        expect_close(values, continued[i].first, 3, TOLERANCE, "first draw");
        torch_cpu_normal(values, 1024, &generator);
        expect_close(values, continued[i].second, 3, TOLERANCE, "second draw");
        torch_cpu_normal(values, 3, &generator);
        expect_close(values, continued[i].three, 3, TOLERANCE, "three");
        /* The first of these five is the sine that the three left over. */
        torch_cpu_normal(values, 5, &generator);
        expect_close(values, continued[i].five, 5, TOLERANCE, "five");
        torch_cpu_normal(values, 20, &generator);
        expect_close(values, continued[i].twenty, 3, TOLERANCE, "twenty");
    }
}

static void cpu_noise_takes_only_the_low_half_of_the_seed(void **state)
{
    float low[64], high[64], other[64];
    struct mt19937 generator;

    (void)state;
    mt19937_seed(&generator, 7);
    torch_cpu_normal(low, 64, &generator);
    mt19937_seed(&generator, (UINT64_C(1) << 32) + 7);
    torch_cpu_normal(high, 64, &generator);
    mt19937_seed(&generator, 8);
    torch_cpu_normal(other, 64, &generator);
    assert_memory_equal(low, high, sizeof low);
    assert_memory_not_equal(low, other, sizeof low);
}

static void seeding_again_forgets_a_left_over_normal(void **state)
{
    struct mt19937 generator;
    float first, again;

    (void)state;
    mt19937_seed(&generator, 3);
    torch_cpu_normal(&first, 1, &generator);
    mt19937_seed(&generator, 3);
    torch_cpu_normal(&again, 1, &generator);
    assert_memory_equal(&first, &again, sizeof first);
}

static void cuda_noise_takes_all_of_the_seed(void **state)
{
    struct philox low = {.seed = 7, .threads_max = TORCH_CUDA_THREADS_H100};
    struct philox high = {.seed = (UINT64_C(1) << 32) + 7, .threads_max = TORCH_CUDA_THREADS_H100};
    float a[64], b[64];

    (void)state;
    torch_cuda_normal(a, 64, &low);
    torch_cuda_normal(b, 64, &high);
    assert_memory_not_equal(a, b, sizeof a);
}

/* Random123's known answer for Philox4x32-10 with an all-zero key and counter, made into normals by
 * the formulas of Box and Muller in double precision. */
static void cuda_noise_starts_with_the_published_philox_words(void **state)
{
    static const uint32_t words[4] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
    struct philox generator = {.seed = 0, .threads_max = 256};
    float got[1024];

    (void)state;
    torch_cuda_normal(got, 1024, &generator);
    for (int pair = 0; pair < 2; pair++) {
        double u = words[2 * pair] * 0x1p-32 + 0x1p-33;
        double angle = 2.0 * M_PI * (words[2 * pair + 1] * 0x1p-32 + 0x1p-33);
        double radius = sqrt(-2.0 * log(u));

        /* With 256 threads, the four normals of thread 0's counter lie 256 apart. */
        assert_true(fabs((double)got[512 * pair] - radius * sin(angle)) < TOLERANCE);
        assert_true(fabs((double)got[512 * pair + 256] - radius * cos(angle)) < TOLERANCE);
    }
}

static void cuda_offset_moves_by_four_for_each_round_of_counters(void **state)
{
    static const struct {
        size_t count;
        uint64_t offset;
    } cases[] = {
        {0, 0}, {1, 4}, {256, 4}, {257, 4}, {1024, 4}, {2048, 4}, {2049, 8}, {4096, 8}, {4097, 12},
    };
    float *values = allocate(4097);

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        /* A card of two blocks: 512 threads, 2048 elements a round. */
        struct philox generator = {.seed = 1, .threads_max = 512};

        torch_cuda_normal(values, cases[i].count, &generator);
        assert_int_equal(generator.offset, cases[i].offset);
    }
    free(values);
}

static void cuda_noise_goes_on_where_the_last_draw_ended(void **state)
{
    /* In one draw of two rounds, the second round comes from counter 1: so does a second draw. */
    struct philox once = {.seed = 9, .threads_max = 512};
    struct philox twice = {.seed = 9, .threads_max = 512};
    float *whole = allocate(4096), *pieces = allocate(4096);

    (void)state;
    torch_cuda_normal(whole, 4096, &once);
    torch_cuda_normal(pieces, 2048, &twice);
    torch_cuda_normal(pieces + 2048, 2048, &twice);
    assert_memory_equal(whole, pieces, 4096 * sizeof *whole);
    assert_memory_not_equal(whole, whole + 2048, 2048 * sizeof *whole);
    assert_int_equal(once.offset, twice.offset);
    free(whole);
    free(pieces);
}

static void draws_stay_inside_the_count_that_was_asked_for(void **state)
{
    static const size_t counts[] = {0, 1, 15, 16, 17, 255, 256, 257, 1000, 2047, 2049};
    float *values = allocate(2050);

    (void)state;
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        struct philox philox = {.seed = 5, .threads_max = 512};
        struct mt19937 twister;

        values[counts[i]] = 123.0f;
        torch_cuda_normal(values, counts[i], &philox);
        assert_true(values[counts[i]] == 123.0f);
        mt19937_seed(&twister, 5);
        torch_cpu_normal(values, counts[i], &twister);
        assert_true(values[counts[i]] == 123.0f);
    }
    free(values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_noise_equals_torch_for_short_odd_and_long_draws),
        cmocka_unit_test(cuda_noise_equals_torch_on_an_h100),
        cmocka_unit_test(cuda_noise_of_a_full_size_latent_equals_torch),
        cmocka_unit_test(mt19937_gives_the_published_ten_thousandth_word),
        cmocka_unit_test(cpu_noise_drawn_piece_by_piece_goes_on_as_torch_does),
        cmocka_unit_test(cpu_noise_takes_only_the_low_half_of_the_seed),
        cmocka_unit_test(seeding_again_forgets_a_left_over_normal),
        cmocka_unit_test(cuda_noise_takes_all_of_the_seed),
        cmocka_unit_test(cuda_noise_starts_with_the_published_philox_words),
        cmocka_unit_test(cuda_offset_moves_by_four_for_each_round_of_counters),
        cmocka_unit_test(cuda_noise_goes_on_where_the_last_draw_ended),
        cmocka_unit_test(draws_stay_inside_the_count_that_was_asked_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
