/* The address to listen on: whether it can be had. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "check/checks.h"
#include "check/port_owner.h"
#include "server/http_bind.h"

#define PORT_MAX 65535
#define PORTS_TRIED 20

static bool is_free(const char *host, int port)
{
    int fd, number;

    if (!http_bind(&fd, host, port, &number, NULL))
        return false;
    close(fd);
    return true;
}

/* One near it that is free; the next one when none is. */
static int other_port(const char *host, int port)
{
    for (int other = port + 1; other <= port + PORTS_TRIED && other <= PORT_MAX; other++)
        if (is_free(host, other))
            return other;
    return port < PORT_MAX ? port + 1 : 7861;
}

static void tell_taken(struct findings *findings, const char *host, int port, const char *number)
{
    char owner[PORT_OWNER_BYTES], other[16];

    if (!port_owner(owner, port))
        snprintf(owner, sizeof owner, "%s",
                 findings->language == LANGUAGE_CHINESE ? "另一个程序" : "another program");
    snprintf(other, sizeof other, "%d", other_port(host, port));
    findings_add(findings, FINDING_FAIL, CHECK_PORT_TAKEN, "port", number, "host", host, "owner",
                 owner, "other", other, NULL);
}

/* The first port that anybody may take. */
static const char *first_free_to_all(char text[16])
{
    FILE *file = fopen("/proc/sys/net/ipv4/ip_unprivileged_port_start", "re");

    snprintf(text, 16, "1024");
    if (file && fgets(text, 16, file))
        text[strcspn(text, "\n")] = '\0';
    if (file)
        fclose(file);
    return text;
}

void check_port(struct findings *findings, const char *host, int port)
{
    char text[16], first[16];
    struct error err;
    int fd, number;

    snprintf(text, sizeof text, "%d", port);
    if (http_bind_soon(&fd, host, port, &number, &err)) {
        close(fd);
        findings_add(findings, FINDING_OK, CHECK_PORT_FREE, "port", text, "host", host, NULL);
    } else if (number == EADDRINUSE) {
        tell_taken(findings, host, port, text);
    } else if (number == EACCES) {
        findings_add(findings, FINDING_FAIL, CHECK_PORT_PRIVILEGED, "port", text, "first",
                     first_free_to_all(first), NULL);
    } else if (number == EADDRNOTAVAIL) {
        findings_add(findings, FINDING_FAIL, CHECK_HOST_NOT_HERE, "host", host, NULL);
    } else if (number == 0) {
        findings_add(findings, FINDING_FAIL, CHECK_HOST_UNKNOWN, "message", err.message, NULL);
    } else {
        findings_add(findings, FINDING_FAIL, CHECK_PORT_FAILED, "port", text, "host", host,
                     "message", strerror(number), NULL);
    }
}
