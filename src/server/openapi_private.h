/* What openapi.c and openapi_document.c share.
 */
#ifndef SERVER_OPENAPI_PRIVATE_H
#define SERVER_OPENAPI_PRIVATE_H

#include "server/openapi.h"

struct openapi {
    struct openapi_options options; /* fixed */
};

#endif
