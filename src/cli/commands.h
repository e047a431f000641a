/* The sub-commands. Each is given its own arguments, argv[0] being its name, and returns the exit
 * code. `cancel` is set when somebody asks the program to stop. */
#ifndef CLI_COMMANDS_H
#define CLI_COMMANDS_H

#include <stdatomic.h>

int generate_command(int argc, char **argv, const atomic_bool *cancel);
int convert_command(int argc, char **argv, const atomic_bool *cancel);
int keys_command(int argc, char **argv, const atomic_bool *cancel);
int verify_command(int argc, char **argv, const atomic_bool *cancel);
int serve_command(int argc, char **argv, const atomic_bool *cancel);
int check_command(int argc, char **argv, const atomic_bool *cancel);
int bench_command(int argc, char **argv, const atomic_bool *cancel);

#endif
