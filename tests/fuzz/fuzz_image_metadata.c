/* Metadata of pictures: what is read is UTF-8 of bounded length, and comes back the same when it is
 * written into a new picture of any format. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "image/image.h"
#include "image/image_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void expect(bool is_true)
{
    if (!is_true)
        abort();
}

/* A text that is valid UTF-8 is its own repaired form. */
static void check_text(const char *text)
{
    char *repaired;

    if (!text)
        return;
    expect(strlen(text) <= 3 * IMAGE_TEXT_BYTES_MAX);
    expect(image_text_from_utf8(&repaired, (const unsigned char *)text, strlen(text), NULL));
    expect(strcmp(text, repaired) == 0);
    free(repaired);
}

static void check_round_trip(const char *infotext, enum image_format format)
{
    unsigned char pixel[3] = {1, 2, 3};
    const struct image image = {.width = 1, .height = 1, .pixels = pixel};
    char *infotext_back, *json_back;
    unsigned char *bytes;
    size_t size;

    expect(image_encode(&bytes, &size, &image, format, 50,
                        &(struct image_metadata){.infotext = infotext}, NULL));
    expect(image_metadata_read(&infotext_back, &json_back, bytes, size, NULL));
    expect(infotext_back && strcmp(infotext, infotext_back) == 0 && !json_back);
    free(infotext_back);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *infotext, *json;
    struct error err = {0};

    if (!image_metadata_read(&infotext, &json, bytes, size, &err)) {
        expect(err.code == ERROR_BAD_FILE);
        return 0;
    }
    check_text(infotext);
    check_text(json);
    if (infotext && strlen(infotext) < 1000)
        for (int format = 0; format < IMAGE_FORMAT_COUNT; format++)
            check_round_trip(infotext, (enum image_format)format);
    free(infotext);
    free(json);
    return 0;
}
