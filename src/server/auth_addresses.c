#include "server/auth_addresses.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAPPED_BITS 96 /* of ::ffff:0:0/96, where IPv4 lies in IPv6 */

/* Both families as 16 bytes. */
static bool read_address(unsigned char out[16], bool *is_ipv4, const char *text)
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};

    if (inet_pton(AF_INET, text, out + 12) == 1) {
        memcpy(out, mapped, 12);
        *is_ipv4 = true;
        return true;
    }
    *is_ipv4 = false;
    return inet_pton(AF_INET6, text, out) == 1;
}

static bool read_network(unsigned char out[16], int *bits, const char *text)
{
    char address[64];
    size_t length = strcspn(text, "/");
    bool is_ipv4;

    if (length >= sizeof address)
        return false;
    memcpy(address, text, length);
    address[length] = '\0';
    if (!read_address(out, &is_ipv4, address))
        return false;
    *bits = 128;
    if (text[length] == '\0')
        return true;
    text += length + 1;
    if (strlen(text) > 3 || !isdigit((unsigned char)*text) || text[strspn(text, "0123456789")])
        return false;
    *bits = (int)strtol(text, NULL, 10) + (is_ipv4 ? MAPPED_BITS : 0);
    return *bits <= 128;
}

static bool has_prefix(const unsigned char address[16], const unsigned char network[16], int bits)
{
    int whole = bits / 8, rest = bits % 8;

    return memcmp(address, network, (size_t)whole) == 0 &&
           (rest == 0 || (address[whole] ^ network[whole]) >> (8 - rest) == 0);
}

bool auth_address_is_in(const char *address, const char *const *networks)
{
    unsigned char bytes[16], network[16];
    bool is_ipv4;
    int bits;

    if (!address || !networks || !read_address(bytes, &is_ipv4, address))
        return false;
    for (; *networks; networks++)
        if (read_network(network, &bits, *networks) && has_prefix(bytes, network, bits))
            return true;
    return false;
}

bool auth_check_networks(const char *const *networks, struct error *err)
{
    unsigned char network[16];
    int bits;

    for (; networks && *networks; networks++)
        if (!read_network(network, &bits, *networks))
            return error_set(err, ERROR_BAD_REQUEST,
                             "'%s' is no network: write 10.0.0.0/8, fd00::/8 or an address",
                             *networks);
    return true;
}

void auth_address_group(unsigned char group[16], const char *address)
{
    bool is_ipv4 = false;

    memset(group, 0, 16);
    if (!address || !read_address(group, &is_ipv4, address))
        memset(group, 0, 16);
    else if (!is_ipv4 && memcmp(group, (unsigned char[12]){[10] = 0xff, [11] = 0xff}, 12) != 0)
        memset(group + 8, 0, 8);
}
