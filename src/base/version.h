/* What the program calls itself; SD35_VERSION comes from the build. */
#ifndef BASE_VERSION_H
#define BASE_VERSION_H

#define PROGRAM_NAME_AND_VERSION "sd35 " SD35_VERSION

#endif
