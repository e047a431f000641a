/* Job specs: any JSON is read or refused with a reason, and what was read has a JSON form that
 * restores it. */
#include <stdint.h>
#include <stdlib.h>

#include "job/job_spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void expect(bool is_true)
{
    if (!is_true)
        abort();
}

static void check_form(const struct job_spec *spec)
{
    json_t *form = job_spec_json(spec), *again;
    struct job_problem problem;
    struct job_spec back;

    expect(form);
    expect(job_spec_restore(&back, form, &spec->init_image, &spec->mask, &problem));
    again = job_spec_json(&back);
    expect(json_equal(form, again));
    expect(job_spec_cost(spec) > 0);
    job_spec_finish(&back);
    json_decref(again);
    json_decref(form);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const struct worker_facts facts = {
        .side_max = 256, .layer_count = 24, .has_encoder = true, .width = 64, .height = 64};
    static const struct job_limits limits = {.pixels_max = 128 * 128};
    json_t *object = json_loadb((const char *)bytes, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    struct job_problem problem = {0}, stored = {0};
    struct job_spec spec;

    if (!object)
        return 0;
    if (job_spec_read(&spec, object, &facts, &limits, &problem)) {
        check_form(&spec);
        job_spec_finish(&spec);
    } else {
        json_t *message = json_string(problem.message), *field = json_string(problem.field);

        expect(problem.message[0] && message && field && !spec.prompt);
        json_decref(message);
        json_decref(field);
    }
    if (job_spec_restore(&spec, object, NULL, NULL, &stored)) {
        check_form(&spec);
        job_spec_finish(&spec);
    }
    json_decref(object);
    return 0;
}
