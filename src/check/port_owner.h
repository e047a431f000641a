/* Who listens on a port. */
#ifndef CHECK_PORT_OWNER_H
#define CHECK_PORT_OWNER_H

#include <stdbool.h>

#define PORT_OWNER_BYTES 64

/* "nginx (pid 12)". False when it is not to be seen: a process of another user, or outside of the
 * container. */
bool port_owner(char owner[PORT_OWNER_BYTES], int port);

#endif
