/* Sigma schedules, the Euler rule, guidance, and where image to image starts. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "sampler/guidance.h"
#include "sampler/sampler.h"
#include "sampler/sigma_schedule.h"
#include "support/golden.h"

static const struct backend_ops *const ops = &backend_ref_ops;

static struct stream *open_stream(void)
{
    struct stream_options options = {.threads = 1};
    struct stream *stream;
    struct error err;

    if (!ops->stream_create(&stream, ops, &options, &err))
        fail_msg("%s", err.message);
    return stream;
}

static void close_stream(struct stream *stream)
{
    struct error err;

    if (!ops->stream_finish(stream, &err))
        fail_msg("%s", err.message);
    ops->stream_destroy(stream);
}

static struct sigma_schedule *make_schedule(int steps, double flow_shift)
{
    struct sigma_schedule *schedule;
    struct error err;

    if (!sigma_schedule_create(&schedule, steps, flow_shift, &err))
        fail_msg("%s", err.message);
    assert_int_equal(schedule->count, steps);
    return schedule;
}

/* --- Schedules --- */

static void schedules_equal_those_of_the_reference(void **state)
{
    static const int counts[] = {4, 20, 28, 50};
    struct golden *golden = golden_open("golden/tiny-large/expected.safetensors");

    (void)state;
    if (!golden)
        skip();
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        struct sigma_schedule *schedule = make_schedule(counts[i], 3.0);
        struct tensor sigmas = golden_f32(golden, "schedule.%d.sigmas", counts[i]);
        struct tensor timesteps = golden_f32(golden, "schedule.%d.timesteps", counts[i]);

        assert_int_equal(tensor_count(&sigmas), counts[i] + 1);
        assert_memory_equal(schedule->sigma, sigmas.data, tensor_bytes(&sigmas));
        for (int step = 0; step < counts[i]; step++)
            assert_true(sigma_schedule_timestep(schedule, step) ==
                        ((const float *)timesteps.data)[step]);
        sigma_schedule_destroy(schedule);
    }
    golden_close(golden);
}

/* From diffusers 0.42: FlowMatchEulerDiscreteScheduler(shift=SHIFT).set_timesteps(STEPS).sigmas */
static const struct {
    double flow_shift;
    int steps;
    float sigma[6];
} recorded[] = {
    {5.0, 4, {1.0f, 0.909707129f, 0.717317462f, 0.0244140662f, 0.0f}},
    {1.0, 5, {1.0f, 0.750249982f, 0.500500023f, 0.250750005f, 0.00100000005f, 0.0f}},
    {1.7, 5, {1.0f, 0.836375952f, 0.630421579f, 0.363269776f, 0.00288454839f, 0.0f}},
    {0.5, 5, {1.0f, 0.600160122f, 0.333555698f, 0.143102214f, 0.000250187644f, 0.0f}},
    {12.0, 5, {1.0f, 0.973387659f, 0.924745739f, 0.807403147f, 0.125984251f, 0.0f}},
    {3.0, 2, {1.0f, 0.00892857183f, 0.0f}},
};

static void schedules_of_other_shifts_equal_recorded_ones(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(recorded); i++) {
        struct sigma_schedule *schedule = make_schedule(recorded[i].steps, recorded[i].flow_shift);

        for (int step = 0; step <= recorded[i].steps; step++)
            assert_true(schedule->sigma[step] == recorded[i].sigma[step]);
        sigma_schedule_destroy(schedule);
    }
}

static void a_schedule_of_one_step_goes_from_noise_to_clean(void **state)
{
    struct sigma_schedule *schedule = make_schedule(1, 3.0);

    (void)state;
    assert_true(schedule->sigma[0] == 1.0f);
    assert_true(schedule->sigma[1] == 0.0f);
    assert_true(sigma_schedule_timestep(schedule, 0) == 1000.0f);
    sigma_schedule_destroy(schedule);
}

static void schedules_fall_from_one_to_zero_at_every_shift(void **state)
{
    static const double shifts[] = {FLOW_SHIFT_MIN, 0.5, 1.0, 1.7, 3.0, 12.0, FLOW_SHIFT_MAX};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(shifts); i++)
        for (int steps = 2; steps <= 1000; steps += 83) {
            struct sigma_schedule *schedule = make_schedule(steps, shifts[i]);

            assert_true(fabsf(schedule->sigma[0] - 1.0f) < 1e-4f);
            for (int step = 0; step < steps; step++)
                assert_true(schedule->sigma[step] > schedule->sigma[step + 1]);
            assert_true(schedule->sigma[steps] == 0.0f);
            sigma_schedule_destroy(schedule);
        }
}

static void sigma_schedule_create_names_what_is_out_of_range(void **state)
{
    static const double shifts[] = {0.0, -3.0, 1e9, (double)INFINITY, (double)NAN};
    struct sigma_schedule *schedule = NULL;
    struct error err;

    (void)state;
    assert_false(sigma_schedule_create(&schedule, 0, 3.0, &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    assert_string_equal(err.message, "steps: 0 is less than 1");
    assert_false(sigma_schedule_create(&schedule, -5, 3.0, &err));
    for (size_t i = 0; i < COUNT_OF(shifts); i++) {
        assert_false(sigma_schedule_create(&schedule, 4, shifts[i], &err));
        assert_int_equal(err.code, ERROR_BAD_REQUEST);
        assert_memory_equal(err.message, "flow_shift: ", 12);
    }
    assert_null(schedule);
    sigma_schedule_destroy(NULL);
}

/* --- Image to image --- */

static void image_to_image_starts_where_diffusers_does(void **state)
{
    static const struct {
        double strength;
        int steps;
        int first; /* -1: no step is left */
    } cases[] = {
        {1.0, 28, 0},  {0.6, 28, 11},   {0.5, 28, 14}, {0.01, 28, 27}, {1e-9, 28, 27},
        {0.0, 28, -1}, {1e-17, 28, -1}, {0.3, 50, 35}, {0.99, 50, 0},  {0.98, 50, 1},
        {0.8, 10, 2},  {0.9, 20, 2},    {0.7, 10, 3},  {0.3, 10, 7},   {1.0, 1, 0},
        {0.5, 1, 0},   {0.0, 1, -1},    {0.25, 4, 3},  {0.24, 4, 3},   {0.001, 1000, 999},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct sigma_schedule *schedule = make_schedule(cases[i].steps, 3.0);
        struct error err = {.code = ERROR_NONE};
        int first = -1;
        bool ok = sigma_schedule_first_step(&first, schedule, cases[i].strength, &err);

        assert_int_equal(first, cases[i].first);
        assert_int_equal(ok, cases[i].first >= 0);
        assert_int_equal(err.code, ok ? ERROR_NONE : ERROR_BAD_REQUEST);
        sigma_schedule_destroy(schedule);
    }
}

static void a_strength_outside_its_range_is_refused(void **state)
{
    static const double strengths[] = {-0.01, 1.01, (double)INFINITY, (double)NAN};
    struct sigma_schedule *schedule = make_schedule(4, 3.0);
    struct error err;
    int first = 9;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(strengths); i++) {
        assert_false(sigma_schedule_first_step(&first, schedule, strengths[i], &err));
        assert_int_equal(err.code, ERROR_BAD_REQUEST);
        assert_memory_equal(err.message, "strength: ", 10);
    }
    assert_int_equal(first, 9);
    sigma_schedule_destroy(schedule);
}

static void latent_add_noise_weighs_noise_by_sigma(void **state)
{
    float clean_values[3] = {1.0f, -2.0f, 0.5f}, noise_values[3] = {10.0f, 20.0f, -30.0f};
    struct tensor clean = TENSOR_OF(clean_values, DTYPE_F32, 3);
    struct tensor noise = TENSOR_OF(noise_values, DTYPE_F32, 3);
    struct stream *stream = open_stream();

    (void)state;
    latent_add_noise(ops, stream, &clean, &clean, &noise, 0.25f);
    close_stream(stream);
    assert_true(clean_values[0] == 3.25f);
    assert_true(clean_values[1] == 3.5f);
    assert_true(clean_values[2] == -7.125f);
}

/* --- Samplers --- */

#define ELEMENTS 6

#define TRACKS_MAX 2

/* A field that stands for the network, and what was asked of it. */
struct field {
    float slope; /* v = slope x + offset */
    float offset[ELEMENTS];
    int steps[64]; /* of the first track, at which the velocity was asked for */
    int call_count;
    int fail_at; /* the step at which `velocity` fails; -1: none */
};

static bool field_velocity(void *context, struct tensor *velocity,
                           const struct sampler_track *tracks, int count, struct error *err)
{
    struct field *field = context;

    field->steps[field->call_count++] = tracks[0].step;
    if (tracks[0].step == field->fail_at)
        return error_set(err, ERROR_BACKEND, "the network failed");
    assert_int_equal(velocity->dim[0], count);
    for (int t = 0; t < count; t++) {
        float *v = (float *)velocity->data + (ptrdiff_t)t * ELEMENTS;
        const float *x = tracks[t].latent.data;

        for (int i = 0; i < ELEMENTS; i++)
            v[i] = field->slope * x[i] + field->offset[i];
    }
    return true;
}

static struct sampler_plan plan_euler(struct arena *arena)
{
    struct tensor latents = TENSOR_OF(NULL, DTYPE_F32, TRACKS_MAX, 1, 2, 3);
    const struct sampler *euler;
    struct sampler_plan plan;
    struct error err;

    assert_true(sampler_find(&euler, "euler", &err));
    assert_true(sampler_plan_init(&plan, euler, arena, &latents, &err));
    return plan;
}

/* Steps until the longest track is done; shorter ones, given first, are left out then. */
static bool run_euler(struct field *field, struct sampler_track *tracks, int count,
                      struct error *err)
{
    static _Alignas(ARENA_ALIGN) unsigned char block[1024];
    struct sampling sampling = {
        .ops = ops, .stream = open_stream(), .velocity = field_velocity, .context = field};
    struct sampler_plan plan;
    struct arena arena;
    bool ok = true;

    arena_init(&arena, block, sizeof block);
    plan = plan_euler(&arena);
    while (ok && count > 0) {
        ok = sampler_step(&plan, &sampling, tracks, count, err);
        for (int t = 0; ok && t < count; t++)
            tracks[t].step++;
        while (count > 0 && tracks->step == tracks->schedule->count) {
            tracks++;
            count--;
        }
    }
    close_stream(sampling.stream);
    return ok;
}

static struct sampler_track track_of(float *values, const struct sigma_schedule *schedule,
                                     int first_step)
{
    return (struct sampler_track){.latent = TENSOR_OF(values, DTYPE_F32, 1, 1, 2, 3),
                                  .schedule = schedule,
                                  .step = first_step};
}

static bool run_one(struct field *field, const struct sigma_schedule *schedule, int first_step,
                    float *values, struct error *err)
{
    struct sampler_track track = track_of(values, schedule, first_step);

    return run_euler(field, &track, 1, err);
}

/* Along a straight path, v = noise - clean everywhere, Euler is exact whatever the schedule. */
static void euler_reaches_the_clean_latent_along_a_straight_path(void **state)
{
    const float clean[ELEMENTS] = {0.0f, 1.0f, -2.0f, 0.25f, 3.0f, -0.5f};
    const float noise[ELEMENTS] = {1.0f, -1.0f, 0.5f, 2.0f, -3.0f, 0.125f};

    (void)state;
    for (int steps = 1; steps <= 50; steps += 7) {
        struct sigma_schedule *schedule = make_schedule(steps, 3.0);
        struct field field = {.fail_at = -1};
        struct error err;
        float values[ELEMENTS];

        for (int i = 0; i < ELEMENTS; i++) {
            values[i] = noise[i];
            field.offset[i] = noise[i] - clean[i];
        }
        assert_true(run_one(&field, schedule, 0, values, &err));
        for (int i = 0; i < ELEMENTS; i++)
            assert_true(fabsf(values[i] - clean[i]) < 2e-6f);
        sigma_schedule_destroy(schedule);
    }
}

/* With v = a x each step multiplies by 1 + a (sigma' - sigma). */
static void euler_on_a_linear_field_gives_the_product_of_its_steps(void **state)
{
    static const int starts[] = {0, 5, 19};
    struct sigma_schedule *schedule = make_schedule(20, 3.0);

    (void)state;
    for (size_t s = 0; s < COUNT_OF(starts); s++) {
        struct field field = {.slope = 1.5f, .fail_at = -1};
        float values[ELEMENTS] = {1.0f, -2.0f, 0.5f, 4.0f, -0.25f, 3.0f};
        const float before[ELEMENTS] = {1.0f, -2.0f, 0.5f, 4.0f, -0.25f, 3.0f};
        double factor = 1.0;
        struct error err;

        for (int step = starts[s]; step < 20; step++)
            factor *=
                1.0 + 1.5 * ((double)schedule->sigma[step + 1] - (double)schedule->sigma[step]);
        assert_true(run_one(&field, schedule, starts[s], values, &err));
        for (int i = 0; i < ELEMENTS; i++)
            assert_true(fabs((double)values[i] - factor * (double)before[i]) < 5e-6);
        assert_int_equal(field.call_count, 20 - starts[s]);
        for (int call = 0; call < field.call_count; call++)
            assert_int_equal(field.steps[call], starts[s] + call);
    }
    sigma_schedule_destroy(schedule);
}

/* Two latents at different steps of different schedules end where each ends alone, bit for bit. */
static void tracks_do_not_notice_each_other(void **state)
{
    static const float start[ELEMENTS] = {1.0f, -2.0f, 0.5f, 4.0f, -0.25f, 3.0f};
    struct sigma_schedule *schedules[] = {make_schedule(4, 3.0), make_schedule(9, 1.5)};
    float alone[2][ELEMENTS], together[2][ELEMENTS];
    struct sampler_track tracks[2];
    struct field field = {.slope = 0.75f, .offset = {0.5f, 0.25f}, .fail_at = -1};
    struct error err;

    (void)state;
    for (int t = 0; t < 2; t++) {
        memcpy(alone[t], start, sizeof start);
        memcpy(together[t], start, sizeof start);
        assert_true(run_one(&field, schedules[t], t, alone[t], &err));
        tracks[t] = track_of(together[t], schedules[t], t);
    }
    field.call_count = 0;
    assert_true(run_euler(&field, tracks, 2, &err));
    assert_int_equal(field.call_count, 8);
    assert_memory_equal(alone, together, sizeof alone);
    assert_memory_not_equal(alone[0], alone[1], sizeof alone[0]);
    for (int t = 0; t < 2; t++)
        sigma_schedule_destroy(schedules[t]);
}

static void a_step_fails_when_the_network_does(void **state)
{
    struct sigma_schedule *schedule = make_schedule(8, 3.0);
    struct field field = {.slope = 1.0f, .fail_at = 2};
    float values[ELEMENTS] = {1.0f};
    struct error err;

    (void)state;
    assert_false(run_one(&field, schedule, 0, values, &err));
    assert_int_equal(err.code, ERROR_BACKEND);
    assert_string_equal(err.message, "the network failed");
    assert_int_equal(field.call_count, 3);
    sigma_schedule_destroy(schedule);
}

static void sampler_find_names_the_samplers_that_there_are(void **state)
{
    const struct sampler *sampler = NULL;
    struct error err;

    (void)state;
    assert_false(sampler_find(&sampler, "eular", &err));
    assert_int_equal(err.code, ERROR_BAD_REQUEST);
    assert_memory_equal(err.message, "sampler: 'eular' is not one of: euler", 37);
    assert_null(sampler);
    assert_false(sampler_find(&sampler, "", &err));
}

static void every_sampler_of_the_table_is_found_by_its_name(void **state)
{
    const struct sampler *found;
    struct error err;
    int count = 0;

    (void)state;
    for (; sampler_at(count); count++) {
        assert_true(sampler_find(&found, sampler_name(sampler_at(count)), &err));
        assert_ptr_equal(found, sampler_at(count));
    }
    assert_true(count >= 1);
    assert_null(sampler_at(-1));
}

static void sampler_plan_init_counts_and_reports_missing_room(void **state)
{
    static _Alignas(ARENA_ALIGN) unsigned char block[64];
    struct tensor latent = TENSOR_OF(NULL, DTYPE_F32, 1, 16, 8, 8);
    struct sampler_plan plan;
    struct arena arena;
    struct error err;

    (void)state;
    arena_init(&arena, NULL, 0);
    assert_true(sampler_plan_init(&plan, sampler_at(0), &arena, &latent, &err));
    assert_int_equal(arena.peak, 4096);
    arena_init(&arena, block, sizeof block);
    assert_false(sampler_plan_init(&plan, sampler_at(0), &arena, &latent, &err));
    assert_int_equal(err.code, ERROR_NO_MEMORY);
    assert_non_null(strstr(err.message, "euler"));
}

/* --- Guidance --- */

static void guidance_pushes_from_the_negative_to_the_positive_prompt(void **state)
{
    const struct guidance guidance = {.scale = 4.0};
    /* As the network returns a batch: the negative half first. */
    float values[6] = {1.0f, 2.0f, -3.0f, 2.0f, 2.0f, 1.0f};
    struct tensor batch = TENSOR_OF(values, DTYPE_F32, 2, 3);
    struct tensor negative = tensor_slice(&batch, 0, 0, 1);
    struct tensor positive = tensor_slice(&batch, 0, 1, 1);
    struct stream *stream = open_stream();

    (void)state;
    guidance_combine(&guidance, ops, stream, &negative, &positive);
    close_stream(stream);
    assert_true(values[0] == 5.0f);  /* 1 + 4 (2 - 1) */
    assert_true(values[1] == 2.0f);  /* where both agree, nothing changes */
    assert_true(values[2] == 13.0f); /* -3 + 4 (1 - -3) */
    assert_true(values[3] == 2.0f && values[4] == 2.0f && values[5] == 1.0f);
}

static void skip_layer_guidance_pushes_away_from_the_skipped_prediction(void **state)
{
    const struct guidance guidance = {.scale = 4.0, .skips_layers = true, .skip_scale = 2.5};
    float v[2] = {5.0f, 1.0f}, positive[2] = {2.0f, 1.0f}, skipped[2] = {4.0f, 1.0f};
    struct tensor velocity = TENSOR_OF(v, DTYPE_F32, 2);
    struct tensor positive_velocity = TENSOR_OF(positive, DTYPE_F32, 2);
    struct tensor skipped_velocity = TENSOR_OF(skipped, DTYPE_F32, 2);
    struct stream *stream = open_stream();

    (void)state;
    guidance_add_skip(&guidance, ops, stream, &velocity, &positive_velocity, &skipped_velocity);
    close_stream(stream);
    assert_true(v[0] == 0.0f); /* 5 + 2.5 (2 - 4) */
    assert_true(v[1] == 1.0f);
    assert_true(positive[0] == 2.0f && positive[1] == 1.0f);
}

static void guidance_is_on_only_above_one(void **state)
{
    static const double off[] = {-1.0, 0.0, 0.5, 1.0, (double)NAN};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(off); i++)
        assert_false(guidance_is_on(&(struct guidance){.scale = off[i]}));
    assert_true(guidance_is_on(&(struct guidance){.scale = 1.0001}));
}

/* The first and the last step at which layers are skipped, -1 for none; checks that they are
 * contiguous. */
static void expect_window(const struct guidance *guidance, int step_count, int first, int last)
{
    for (int step = 0; step < step_count; step++) {
        bool want = first >= 0 && step >= first && step <= last;

        if (guidance_skips_at(guidance, step, step_count) != want)
            fail_msg("step %d of %d is %sskipped", step, step_count, want ? "not " : "");
    }
}

static void skip_layer_window_leaves_out_both_ends(void **state)
{
    struct guidance guidance = {
        .scale = 4.5, .skips_layers = true, .skip_start = 0.01, .skip_stop = 0.2};

    (void)state;
    expect_window(&guidance, 50, 1, 9); /* 50 * 0.2 = 10 is no longer inside */
    expect_window(&guidance, 28, 1, 5);
    expect_window(&guidance, 100, 2, 19); /* 100 * 0.01 = 1 is not yet inside */
    expect_window(&guidance, 4, -1, -1);
    guidance.skip_start = 0.0;
    expect_window(&guidance, 28, 1, 5); /* never step 0 */
    guidance.skip_stop = 1.0;
    expect_window(&guidance, 28, 1, 27);
    guidance.skip_start = 0.5;
    guidance.skip_stop = 0.5;
    expect_window(&guidance, 28, -1, -1);
}

static void no_layers_are_skipped_without_guidance_or_layers(void **state)
{
    struct guidance guidance = {
        .scale = 1.0, .skips_layers = true, .skip_start = 0.0, .skip_stop = 1.0};

    (void)state;
    expect_window(&guidance, 28, -1, -1);
    guidance.scale = 5.0;
    guidance.skips_layers = false;
    expect_window(&guidance, 28, -1, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schedules_equal_those_of_the_reference),
        cmocka_unit_test(schedules_of_other_shifts_equal_recorded_ones),
        cmocka_unit_test(a_schedule_of_one_step_goes_from_noise_to_clean),
        cmocka_unit_test(schedules_fall_from_one_to_zero_at_every_shift),
        cmocka_unit_test(sigma_schedule_create_names_what_is_out_of_range),
        cmocka_unit_test(image_to_image_starts_where_diffusers_does),
        cmocka_unit_test(a_strength_outside_its_range_is_refused),
        cmocka_unit_test(latent_add_noise_weighs_noise_by_sigma),
        cmocka_unit_test(euler_reaches_the_clean_latent_along_a_straight_path),
        cmocka_unit_test(euler_on_a_linear_field_gives_the_product_of_its_steps),
        cmocka_unit_test(tracks_do_not_notice_each_other),
        cmocka_unit_test(a_step_fails_when_the_network_does),
        cmocka_unit_test(sampler_find_names_the_samplers_that_there_are),
        cmocka_unit_test(every_sampler_of_the_table_is_found_by_its_name),
        cmocka_unit_test(sampler_plan_init_counts_and_reports_missing_room),
        cmocka_unit_test(guidance_pushes_from_the_negative_to_the_positive_prompt),
        cmocka_unit_test(skip_layer_guidance_pushes_away_from_the_skipped_prediction),
        cmocka_unit_test(guidance_is_on_only_above_one),
        cmocka_unit_test(skip_layer_window_leaves_out_both_ends),
        cmocka_unit_test(no_layers_are_skipped_without_guidance_or_layers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
