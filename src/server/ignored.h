/* Ignored parameters: names of what a request had that does nothing here, as the value of the
 * header X-Ignored-Parameters. Names are the client's: what a header cannot hold becomes '?'.
 */
#ifndef SERVER_IGNORED_H
#define SERVER_IGNORED_H

#define IGNORED_BYTES 512

struct ignored {
    char names[IGNORED_BYTES]; /* "style, user"; those that do not fit are left out */
};

void ignored_add(struct ignored *ignored, const char *name);

#endif
