/* Where choices are kept between starts. */
#ifndef BACKEND_CUDA_CHOICE_FOLDER_H
#define BACKEND_CUDA_CHOICE_FOLDER_H

#include <stddef.h>

/* $SD35_CACHE_DIR, else $XDG_CACHE_HOME/sd35, else $HOME/.cache/sd35, made if it is not there. NULL
 * when there is none, or when SD35_CACHE_DIR is set to nothing: then nothing is kept. The caller
 * frees it. notice: for people, when the folder that SD35_CACHE_DIR asks for cannot be used; "" in
 * any other case. */
char *choice_folder_find(char *notice, size_t notice_size);

#endif
