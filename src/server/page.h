/* Page: the browser's user interface, files of src/web/ that are part of the program. Constant, so
 * any thread may ask for it; nothing waits.
 */
#ifndef SERVER_PAGE_H
#define SERVER_PAGE_H

#include "server/http.h"

/* GET / and GET /static/{rest*}, for everybody: the page asks for a login itself. */
struct http_routes page_routes(void);

#endif
