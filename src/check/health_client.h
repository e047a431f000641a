/* Asking a running server of this machine whether it is ready. */
#ifndef CHECK_HEALTH_CLIENT_H
#define CHECK_HEALTH_CLIENT_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"

/* Where a server listens, and the file below its folder of outputs in which it says so, for as long
 * as it does: "https://127.0.0.1:7860". */
#define HEALTH_ADDRESS_BYTES 128
struct health_address {
    char host[64]; /* a numeric address, or a name */
    int port;
    bool has_tls;
};

/* The address at which this machine reaches a server that listens on `host`. */
struct health_address health_address_of(const char *host, int port, bool has_tls);
MUST_CHECK bool health_address_write(const struct health_address *address, const char *outputs,
                                     struct error *err);
void health_address_remove(const char *outputs);
/* Fails with ERROR_IO when there is no such file: no server runs. */
MUST_CHECK bool health_address_read(struct health_address *address, const char *outputs,
                                    struct error *err);

/* GET /health/ready. Fails, with why in a sentence, unless the answer is 200. A certificate is not
 * looked at: who could take this machine's own port could do more. Waits without an end: the caller
 * sets an alarm. */
MUST_CHECK bool health_ask(const struct health_address *address, struct error *err);

#endif
