/* The user that a command runs as. A container starts as root and gives that up before anything
 * else happens: to the owner of the outputs, so that pictures belong to who mounted the folder. */
#ifndef CLI_PROCESS_USER_H
#define CLI_PROCESS_USER_H

#include "base/attributes.h"
#include "base/error.h"
#include "cli/options.h"

/* `user` is NULL (stays who it is), "UID:GID", "UID", or "adopt":
 *   the variables PUID and PGID where they are set, else the owner of `folder`, else, where that is
 *   root, 10001:10001.
 * Does nothing for who is not root. Otherwise makes `folder` if it is missing, hands over what root
 * owns in it, and gives up all privileges. A container without the capabilities for it goes on as
 * root, which has none of root's powers there, and says so. Fails with ERROR_BAD_REQUEST for an id
 * that is none or is root's, ERROR_IO. Before there are other threads. */
MUST_CHECK bool process_user_adopt(const char *user, const char *folder, struct error *err);

/* The option for it, of a table. */
#define PROCESS_USER_OPTION(offset)                                                                \
    {                                                                                              \
        "user", 0, OPTION_TEXT, offset, "UID:GID|adopt", 0, 0, NULL,                               \
            "Whom root becomes; adopt: PUID and PGID, or the outputs' owner. Default: it stays.",  \
            NULL                                                                                   \
    }

#endif
