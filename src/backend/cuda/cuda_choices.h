/* The plugin's choices between algorithms: what kinds there are, and for which GPU and libraries
 * they hold. */
#ifndef BACKEND_CUDA_CUDA_CHOICES_H
#define BACKEND_CUDA_CUDA_CHOICES_H

#include "backend/cuda/choice_file.h"

struct cuda_device;

/* Of records in the file. Numbers stay; new kinds get new ones. */
enum choice_kind { CHOICE_PRODUCT = 1, CHOICE_DNN = 2, CHOICE_ATTENTION = 3 };

/* The device's choices so far, from device->choice_folder. Fails with ERROR_NO_MEMORY only. */
MUST_CHECK bool cuda_choices_create(struct choice_file **out, const struct cuda_device *device,
                                    struct error *err);

#endif
