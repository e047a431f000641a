/* Pictures for tests: the same on every machine, and simple enough to make elsewhere. */
#ifndef TESTS_SUPPORT_PICTURES_H
#define TESTS_SUPPORT_PICTURES_H

#include "support/support.h"

#include <math.h>

#include "image/image.h"

/* Noise: the top bytes of a linear congruential generator. */
static inline struct image test_picture(int width, int height, uint32_t seed)
{
    struct image image;

    assert_true(image_init(&image, width, height, NULL));
    for (size_t i = 0; i < (size_t)width * (size_t)height * 3; i++) {
        seed = seed * 1664525u + 1013904223u;
        image.pixels[i] = (unsigned char)(seed >> 24);
    }
    return image;
}

/* Soft waves of colour, which lossy formats keep well. */
static inline struct image test_soft_picture(int width, int height)
{
    struct image image;
    unsigned char *pixel;

    assert_true(image_init(&image, width, height, NULL));
    pixel = image.pixels;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++)
                *pixel++ = (unsigned char)(128 + 60 * sin(x * 0.08 + c) + 60 * cos(y * 0.05 + c));
    return image;
}

/* Peak signal-to-noise ratio in decibels; infinite for equal pictures. */
static inline double test_psnr(const struct image *a, const unsigned char *pixels)
{
    size_t count = (size_t)a->width * (size_t)a->height * 3;
    double sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += pow((double)a->pixels[i] - pixels[i], 2);
    return 10 * log10(255.0 * 255.0 * (double)count / sum);
}

#endif
