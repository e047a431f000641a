/* The running program: where it lies, and so what was installed with it. */
#ifndef BASE_PROGRAM_H
#define BASE_PROGRAM_H

#define PROGRAM_PATH_BYTES 4096

/* The folder of the running program; "" when the system does not say. */
void program_folder(char folder[PROGRAM_PATH_BYTES]);

#endif
