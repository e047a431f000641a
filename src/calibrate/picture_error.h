/* How different two pictures look: structure and colour.
 *
 * SSIM is that of Wang et al. 2004 (IEEE Transactions on Image Processing 13(4)), on luma, with
 * their Gaussian window of 11 x 11 and only where it lies inside the picture. Colour is the mean
 * CIE 1976 distance in Lab under D65.
 */
#ifndef CALIBRATE_PICTURE_ERROR_H
#define CALIBRATE_PICTURE_ERROR_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"
#include "image/image.h"

struct picture_error {
    double ssim;    /* 1: the same; 0: nothing in common */
    double delta_e; /* 0: the same; about 2 is just seen */
};

#define PICTURE_ERROR_SIDE_MIN 11

/* Of two pictures of one size, both sides at least PICTURE_ERROR_SIDE_MIN. Fails only when memory
 * is short. */
MUST_CHECK bool picture_error_measure(struct picture_error *out, const struct image *a,
                                      const struct image *b, struct error *err);

/* One number to compare harms by: 0 for none. A drop of 0.01 in SSIM weighs as much as a colour
 * difference of 1 everywhere. */
double picture_error_harm(const struct picture_error *error);

/* An sRGB pixel in Lab. */
void picture_error_lab(float lab[3], const unsigned char rgb[3]);

#endif
