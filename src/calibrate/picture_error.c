#include "calibrate/picture_error.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define WINDOW 11
#define SIGMA 1.5
#define C1 (0.01 * 255 * 0.01 * 255)
#define C2 (0.03 * 255 * 0.03 * 255)
#define SUMS 5 /* of a, b, a a, b b, a b */

/* --- Structure --- */

static void make_window(double window[WINDOW])
{
    double sum = 0.0;

    for (int i = 0; i < WINDOW; i++) {
        int x = i - WINDOW / 2;

        window[i] = exp(-x * x / (2 * SIGMA * SIGMA));
        sum += window[i];
    }
    for (int i = 0; i < WINDOW; i++)
        window[i] /= sum;
}

static double luma(const unsigned char *pixel)
{
    return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2];
}

/* sums [SUMS, W - 10]: the window along one row */
static void filter_row(double *sums, const double window[WINDOW], const unsigned char *a,
                       const unsigned char *b, int width)
{
    int places = width - WINDOW + 1;

    for (int x = 0; x < places; x++) {
        double sum[SUMS] = {0};

        for (int i = 0; i < WINDOW; i++) {
            double p = luma(a + 3 * (x + i)), q = luma(b + 3 * (x + i));

            sum[0] += window[i] * p;
            sum[1] += window[i] * q;
            sum[2] += window[i] * p * p;
            sum[3] += window[i] * q * q;
            sum[4] += window[i] * p * q;
        }
        for (int s = 0; s < SUMS; s++)
            sums[s * places + x] = sum[s];
    }
}

static double similarity(const double sum[SUMS])
{
    double a = sum[0], b = sum[1];
    double var_a = sum[2] - a * a, var_b = sum[3] - b * b, cov = sum[4] - a * b;

    return (2 * a * b + C1) * (2 * cov + C2) / ((a * a + b * b + C1) * (var_a + var_b + C2));
}

/* rows: [WINDOW, SUMS, W - 10], the filtered rows y - 10 to y, row y at y % WINDOW */
static double mean_similarity(const struct image *a, const struct image *b, double *rows)
{
    int places = a->width - WINDOW + 1;
    size_t row_size = (size_t)SUMS * (size_t)places;
    double window[WINDOW], total = 0.0;

    make_window(window);
    for (int y = 0; y < a->height; y++) {
        size_t at = (size_t)y * (size_t)a->width * 3;

        filter_row(rows + (size_t)(y % WINDOW) * row_size, window, a->pixels + at, b->pixels + at,
                   a->width);
        for (int x = 0; x < places && y >= WINDOW - 1; x++) {
            double sum[SUMS] = {0};

            for (int i = 0; i < WINDOW; i++) {
                const double *row = rows + (size_t)((y + 1 + i) % WINDOW) * row_size;

                for (int s = 0; s < SUMS; s++)
                    sum[s] += window[i] * row[s * places + x];
            }
            total += similarity(sum);
        }
    }
    return total / places / (a->height - WINDOW + 1);
}

/* --- Colour --- */

static double linear_light(unsigned char value)
{
    double v = value / 255.0;

    return v <= 0.04045 ? v / 12.92 : pow((v + 0.055) / 1.055, 2.4);
}

static double lab_curve(double t)
{
    const double knee = 6.0 / 29.0;

    return t > knee * knee * knee ? cbrt(t) : t / (3 * knee * knee) + 4.0 / 29.0;
}

static void lab_of_light(float lab[3], double r, double g, double b)
{
    double x = lab_curve((0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047);
    double y = lab_curve(0.2126729 * r + 0.7151522 * g + 0.0721750 * b);
    double z = lab_curve((0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883);

    lab[0] = (float)(116 * y - 16);
    lab[1] = (float)(500 * (x - y));
    lab[2] = (float)(200 * (y - z));
}

void picture_error_lab(float lab[3], const unsigned char rgb[3])
{
    lab_of_light(lab, linear_light(rgb[0]), linear_light(rgb[1]), linear_light(rgb[2]));
}

static double mean_colour_difference(const struct image *a, const struct image *b)
{
    int64_t count = (int64_t)a->width * a->height;
    double light[256], total = 0.0;

    for (int i = 0; i < 256; i++)
        light[i] = linear_light((unsigned char)i);
    for (int64_t i = 0; i < count; i++) {
        const unsigned char *p = a->pixels + 3 * i, *q = b->pixels + 3 * i;
        float x[3], y[3];
        double sum = 0.0;

        lab_of_light(x, light[p[0]], light[p[1]], light[p[2]]);
        lab_of_light(y, light[q[0]], light[q[1]], light[q[2]]);
        for (int c = 0; c < 3; c++)
            sum += ((double)x[c] - (double)y[c]) * ((double)x[c] - (double)y[c]);
        total += sqrt(sum);
    }
    return total / (double)count;
}

/* --- Both --- */

bool picture_error_measure(struct picture_error *out, const struct image *a, const struct image *b,
                           struct error *err)
{
    double *rows = calloc((size_t)WINDOW * SUMS, (size_t)(a->width - WINDOW + 1) * sizeof *rows);

    if (!rows)
        return error_set(err, ERROR_NO_MEMORY, "comparing pictures");
    out->ssim = mean_similarity(a, b, rows);
    out->delta_e = mean_colour_difference(a, b);
    free(rows);
    return true;
}

double picture_error_harm(const struct picture_error *error)
{
    return (1.0 - error->ssim) + error->delta_e / 100.0;
}
