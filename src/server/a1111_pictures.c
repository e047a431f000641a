#include "server/a1111_pictures.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/image.h"
#include "job/base64.h"
#include "server/a1111_call.h"
#include "server/a1111_infotext.h"
#include "server/a1111_upscale.h"
#include "server/limits.h"
#include "server/picture_text.h"

static const struct image_limits limits = {.bytes_max = IMAGE_FILE_BYTES_MAX,
                                           .pixels_max = IMAGE_PIXELS_MAX};

/* The bytes of a picture's text, base64 or a data URI. The caller frees them. */
static bool decode_text(struct job_image *out, const char *text, const char *field,
                        struct a1111_problem *problem)
{
    const char *comma = strncmp(text, "data:", 5) == 0 ? strchr(text, ',') : NULL;

    text = comma ? comma + 1 : text;
    switch (base64_decode(&out->bytes, &out->size, text, strlen(text), IMAGE_FILE_BYTES_MAX)) {
    case BASE64_OK:
        return true;
    case BASE64_NO_MEMORY:
        return a1111_fail_for_memory(problem);
    case BASE64_TOO_LARGE:
        return a1111_fail(problem, field, "a picture may have at most %d bytes",
                          IMAGE_FILE_BYTES_MAX);
    case BASE64_MALFORMED:
        break;
    }
    return a1111_fail(problem, field, "Invalid encoded image");
}

/* --- Parameters --- */

static json_t *png_info_json(const char *infotext)
{
    if (!infotext)
        return json_pack("{s:s, s:{}, s:{}}", "info", "", "items", "parameters");
    return json_pack("{s:s, s:{s:s}, s:o}", "info", infotext, "items", "parameters", infotext,
                     "parameters", a1111_infotext_parse(infotext));
}

/* A picture whose texts are damaged counts as one without. */
static void reply_texts(struct http_exchange *exchange, const struct job_image *file)
{
    struct a1111_problem problem = {0};
    struct image_header header;
    char *infotext = NULL, *json = NULL;
    struct error err = {0};
    bool ok = image_metadata_read(&infotext, &json, file->bytes, file->size, &err);

    if (!ok && err.code == ERROR_NO_MEMORY) {
        a1111_reply(exchange, NULL);
    } else if (!ok &&
               !image_header_read(&header, file->bytes, file->size, &limits, "image", NULL)) {
        a1111_fail(&problem, "image", "Invalid encoded image: %s", err.message);
        a1111_reply_problem(exchange, &problem);
    } else {
        a1111_reply(exchange, png_info_json(infotext));
    }
    free(infotext);
    free(json);
}

void a1111_png_info(struct http_exchange *exchange)
{
    const json_t *body = http_json(exchange);
    struct a1111_problem problem = {0};
    struct job_image file = {0};
    const char *text;

    if (!body)
        return;
    if (a1111_text(&text, body, "image", "", &problem) &&
        decode_text(&file, text, "image", &problem))
        reply_texts(exchange, &file);
    else
        a1111_reply_problem(exchange, &problem);
    free(file.bytes);
}

/* --- Enlarging --- */

/* A request while it is answered. */
struct extra {
    struct hub *hub;
    struct a1111_upscale upscale;
    const char *field;
    double pixels; /* of all pictures so far */
    struct a1111_problem problem;
};

static bool plan_file(struct extra *extra, struct upscale_message *message)
{
    struct image_header header;
    struct error err;

    if (!image_header_read(&header, message->file.bytes, message->file.size, &limits, "image",
                           &err))
        return a1111_fail(&extra->problem, extra->field, "Invalid encoded image: %s", err.message);
    if (!a1111_upscale_plan(message, &extra->upscale, header.width, header.height, &extra->problem))
        return false;
    extra->pixels += (double)message->width * message->height;
    return extra->pixels <= JOB_IMAGE_PIXELS_MAX ||
           a1111_fail(&extra->problem, extra->field,
                      "the pictures would have more than %d pixels in all", JOB_IMAGE_PIXELS_MAX);
}

static bool ask(struct extra *extra, const struct upscale_message *message, json_t **out)
{
    struct hub_error err = {0};
    unsigned char *bytes = NULL;
    size_t size = 0;

    if (!hub_upscale(extra->hub, message, &bytes, &size, &err)) {
        a1111_fail(&extra->problem, err.status == 422 ? extra->field : "", "%s%s",
                   err.status == 422 ? "Invalid encoded image: " : "", err.message);
        extra->problem.status = err.status;
        if (err.status != 422)
            extra->problem.code = "HTTPException";
        return false;
    }
    *out = picture_text_json(bytes, size);
    free(bytes);
    return *out || a1111_fail_for_memory(&extra->problem);
}

/* *out: a PNG's base64. */
static bool enlarge(struct extra *extra, const json_t *text, json_t **out)
{
    struct upscale_message message = {0};
    bool ok;

    if (!json_is_string(text))
        return a1111_fail(&extra->problem, extra->field, "str type expected");
    ok = decode_text(&message.file, json_string_value(text), extra->field, &extra->problem) &&
         plan_file(extra, &message) && ask(extra, &message, out);
    free(message.file.bytes);
    return ok;
}

/* Of {data, name}; *out: an array. */
static bool enlarge_all(struct extra *extra, const json_t *list, json_t **out)
{
    json_t *file, *image;
    size_t i;

    if (!json_is_array(list) || json_array_size(list) == 0 || json_array_size(list) > JOB_COUNT_MAX)
        return a1111_fail(&extra->problem, extra->field, "must be a list of 1 to %d pictures",
                          JOB_COUNT_MAX);
    *out = json_array();
    json_array_foreach(list, i, file)
    {
        if (!enlarge(extra, json_object_get(file, "data"), &image))
            return false;
        if (json_array_append_new(*out, image) != 0)
            return a1111_fail_for_memory(&extra->problem);
    }
    return true;
}

/* What theirs says below the picture. */
static json_t *html_info(const struct a1111_upscale *upscale)
{
    const char *name = upscale->method == A1111_UPSCALE_NEAREST ? "Nearest" : "Lanczos";

    if (upscale->method == A1111_UPSCALE_NONE)
        return json_string("");
    if (upscale->to_size)
        return json_sprintf("<p>Postprocess upscale to: %dx%d, Postprocess upscaler: %s</p>",
                            (int)upscale->width, (int)upscale->height, name);
    return json_sprintf("<p>Postprocess upscale by: %g, Postprocess upscaler: %s</p>",
                        upscale->factor, name);
}

void a1111_extra(struct hub *hub, struct http_exchange *exchange, bool is_batch)
{
    struct extra extra = {.hub = hub, .field = is_batch ? "imageList" : "image"};
    const json_t *body = http_json(exchange), *source;
    json_t *result = NULL;

    if (!body)
        return;
    source = json_object_get(body, extra.field);
    if (a1111_upscale_read(&extra.upscale, body, is_batch, &extra.problem) &&
        (is_batch ? enlarge_all(&extra, source, &result) : enlarge(&extra, source, &result))) {
        a1111_reply(exchange, json_pack("{s:o, s:o}", "html_info", html_info(&extra.upscale),
                                        is_batch ? "images" : "image", result));
        return;
    }
    json_decref(result);
    a1111_reply_problem(exchange, &extra.problem);
}
