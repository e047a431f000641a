#include "server/a1111_upscale.h"

#include <math.h>
#include <strings.h>

#include "server/a1111_fields.h"

/* A body while it is read. */
struct reading {
    const json_t *body;
    enum a1111_body kind;
    struct a1111_problem *problem;
};

static bool check_range(const struct reading *reading, const struct a1111_field *field,
                        double value)
{
    return (value >= field->low && value <= field->high) ||
           a1111_fail(reading->problem, field->name, "must be from %g to %g", field->low,
                      field->high);
}

static bool take_integer(const struct reading *reading, const char *name, int64_t *out)
{
    const struct a1111_field *field = a1111_field(reading->kind, name);

    return a1111_integer(out, reading->body, name, (int64_t)field->fallback, reading->problem) &&
           check_range(reading, field, (double)*out);
}

static bool take_number(const struct reading *reading, const char *name, double *out)
{
    const struct a1111_field *field = a1111_field(reading->kind, name);

    return a1111_number(out, reading->body, name, field->fallback, reading->problem) &&
           check_range(reading, field, *out);
}

/* No model is there that mends faces. */
static bool check_visible(const struct reading *reading, const char *name)
{
    double visible;

    return take_number(reading, name, &visible) &&
           (visible == 0 || a1111_fail(reading->problem, name, "there is no such model; only 0"));
}

static bool read_method(const struct reading *reading, struct a1111_upscale *out)
{
    static const char *const names[] = {[A1111_UPSCALE_NONE] = "None",
                                        [A1111_UPSCALE_LANCZOS] = "Lanczos",
                                        [A1111_UPSCALE_NEAREST] = "Nearest"};
    const char *name, *second;
    double visible;

    if (!a1111_text(&name, reading->body, "upscaler_1", "None", reading->problem) ||
        !a1111_text(&second, reading->body, "upscaler_2", "None", reading->problem) ||
        !take_number(reading, "extras_upscaler_2_visibility", &visible))
        return false;
    if (visible > 0 && *second && strcasecmp(second, "None") != 0)
        return a1111_fail(reading->problem, "upscaler_2", "a second upscaler is not supported");
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (strcasecmp(name, names[i]) == 0 || (i == A1111_UPSCALE_NONE && !*name)) {
            out->method = (enum a1111_upscale_method)i;
            return true;
        }
    return a1111_fail(reading->problem, "upscaler_1",
                      "there is no such upscaler; there are None, Lanczos and Nearest");
}

bool a1111_upscale_read(struct a1111_upscale *out, const json_t *body, bool is_batch,
                        struct a1111_problem *problem)
{
    const struct reading reading = {body, is_batch ? A1111_EXTRA_BATCH : A1111_EXTRA_SINGLE,
                                    problem};
    int64_t mode;

    *out = (struct a1111_upscale){0};
    if (!take_integer(&reading, "resize_mode", &mode) ||
        !take_number(&reading, "upscaling_resize", &out->factor) ||
        !take_integer(&reading, "upscaling_resize_w", &out->width) ||
        !take_integer(&reading, "upscaling_resize_h", &out->height) ||
        !a1111_flag(&out->crops, body, "upscaling_crop",
                    a1111_field(reading.kind, "upscaling_crop")->fallback != 0, problem) ||
        !check_visible(&reading, "gfpgan_visibility") ||
        !check_visible(&reading, "codeformer_visibility"))
        return false;
    out->to_size = mode == 1;
    return read_method(&reading, out);
}

/* At least `least`, where that is what the factor was chosen for. */
static double scaled(int side, double factor, int64_t least)
{
    return fmax(fmax(1, (double)least), round(side * factor));
}

bool a1111_upscale_plan(struct upscale_message *out, const struct a1111_upscale *upscale, int width,
                        int height, struct a1111_problem *problem)
{
    double factor = upscale->factor, new_width = width, new_height = height;

    if (upscale->to_size)
        factor = fmax((double)upscale->width / width, (double)upscale->height / height);
    if (upscale->method != A1111_UPSCALE_NONE) {
        new_width = scaled(width, factor, upscale->to_size ? upscale->width : 1);
        new_height = scaled(height, factor, upscale->to_size ? upscale->height : 1);
    }
    if (new_width > JOB_IMAGE_SIDE_MAX || new_height > JOB_IMAGE_SIDE_MAX ||
        new_width * new_height > JOB_IMAGE_PIXELS_MAX)
        return a1111_fail(problem, upscale->to_size ? "upscaling_resize_w" : "upscaling_resize",
                          "the picture would have %.0f x %.0f pixels; at most %d a side, and %d in "
                          "all, are possible",
                          new_width, new_height, JOB_IMAGE_SIDE_MAX, JOB_IMAGE_PIXELS_MAX);
    out->by_nearest = upscale->method == A1111_UPSCALE_NEAREST;
    out->width = out->crop_width = (int32_t)new_width;
    out->height = out->crop_height = (int32_t)new_height;
    if (upscale->to_size && upscale->crops && upscale->method != A1111_UPSCALE_NONE) {
        out->crop_width = (int32_t)upscale->width;
        out->crop_height = (int32_t)upscale->height;
    }
    return true;
}
