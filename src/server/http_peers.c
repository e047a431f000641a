/* Addresses of clients: networks that are trusted, and how many connections each address has. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "server/http_private.h"

#define BUCKETS 1024

struct peer {
    struct peer *next;
    unsigned char address[16];
    int count;
};

struct http_peers {
    struct peer *buckets[BUCKETS];
    size_t network_count;
    struct http_network networks[];
};

static const unsigned char mapped_ipv4[12] = {[10] = 0xff, [11] = 0xff};

bool http_address_parse(unsigned char address[16], const char *text)
{
    if (inet_pton(AF_INET6, text, address) == 1)
        return true;
    memcpy(address, mapped_ipv4, sizeof mapped_ipv4);
    return inet_pton(AF_INET, text, address + 12) == 1;
}

void http_address_of(unsigned char address[16], const struct sockaddr_storage *from)
{
    memset(address, 0, 16);
    if (from->ss_family == AF_INET) {
        memcpy(address, mapped_ipv4, sizeof mapped_ipv4);
        memcpy(address + 12, &((const struct sockaddr_in *)from)->sin_addr, 4);
    } else if (from->ss_family == AF_INET6) {
        memcpy(address, &((const struct sockaddr_in6 *)from)->sin6_addr, 16);
    }
}

/* inet_ntop goes by printf, for each request. */
static void format_ipv4(char *text, const unsigned char address[4])
{
    for (int i = 0; i < 4; i++) {
        if (address[i] >= 100)
            *text++ = (char)('0' + address[i] / 100);
        if (address[i] >= 10)
            *text++ = (char)('0' + address[i] / 10 % 10);
        *text++ = (char)('0' + address[i] % 10);
        *text++ = i < 3 ? '.' : '\0';
    }
}

void http_address_format(char text[INET6_ADDRSTRLEN], const unsigned char address[16])
{
    if (memcmp(address, mapped_ipv4, sizeof mapped_ipv4) == 0)
        format_ipv4(text, address + 12);
    else
        inet_ntop(AF_INET6, address, text, INET6_ADDRSTRLEN);
}

bool http_address_is_loopback(const unsigned char address[16])
{
    static const unsigned char loopback[16] = {[15] = 1};

    return memcmp(address, loopback, 16) == 0 ||
           (memcmp(address, mapped_ipv4, sizeof mapped_ipv4) == 0 && address[12] == 127);
}

bool http_network_parse(struct http_network *network, const char *text)
{
    char address[INET6_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    size_t length = slash ? (size_t)(slash - text) : strlen(text);
    bool is_ipv4 = !memchr(text, ':', length);
    long bits = is_ipv4 ? 32 : 128;

    if (length == 0 || length >= sizeof address)
        return false;
    memcpy(address, text, length);
    address[length] = '\0';
    if (slash) {
        char *end;
        long most = bits;

        if (slash[1] < '0' || slash[1] > '9')
            return false;
        bits = strtol(slash + 1, &end, 10);
        if (*end || bits > most)
            return false;
    }
    network->bits = (int)(is_ipv4 ? bits + 96 : bits);
    return http_address_parse(network->address, address);
}

static bool is_in_network(const unsigned char address[16], const struct http_network *network)
{
    int bytes = network->bits / 8, bits = network->bits % 8;

    if (memcmp(address, network->address, (size_t)bytes) != 0)
        return false;
    return bits == 0 || ((address[bytes] ^ network->address[bytes]) >> (8 - bits)) == 0;
}

bool http_peers_create(struct http_peers **out, const char *const *trusted, struct error *err)
{
    struct http_peers *peers;
    size_t count = 0;

    while (trusted && trusted[count])
        count++;
    peers = calloc(1, sizeof *peers + count * sizeof peers->networks[0]);
    if (!peers)
        return error_set(err, ERROR_NO_MEMORY, "addresses of clients");
    for (size_t i = 0; i < count; i++) {
        if (!http_network_parse(&peers->networks[i], trusted[i])) {
            free(peers);
            return error_set(err, ERROR_BAD_REQUEST,
                             "trusted proxy '%s' is no address or network (like 10.0.0.0/8)",
                             trusted[i]);
        }
    }
    peers->network_count = count;
    *out = peers;
    return true;
}

void http_peers_destroy(struct http_peers *peers)
{
    if (!peers)
        return;
    for (size_t i = 0; i < BUCKETS; i++) {
        while (peers->buckets[i]) {
            struct peer *next = peers->buckets[i]->next;

            free(peers->buckets[i]);
            peers->buckets[i] = next;
        }
    }
    free(peers);
}

bool http_peers_trust(const struct http_peers *peers, const unsigned char address[16])
{
    for (size_t i = 0; i < peers->network_count; i++) {
        if (is_in_network(address, &peers->networks[i]))
            return true;
    }
    return false;
}

static struct peer **find_peer(struct http_peers *peers, const unsigned char address[16])
{
    uint32_t hash = 2166136261u;
    struct peer **at;

    for (int i = 0; i < 16; i++)
        hash = (hash ^ address[i]) * 16777619u;
    at = &peers->buckets[(hash ^ hash >> 16) % BUCKETS];
    while (*at && memcmp((*at)->address, address, 16) != 0)
        at = &(*at)->next;
    return at;
}

bool http_peers_enter(struct http_peers *peers, const unsigned char address[16], int limit)
{
    struct peer **at = find_peer(peers, address);

    if (!*at) {
        *at = calloc(1, sizeof **at);
        if (!*at)
            return false;
        memcpy((*at)->address, address, 16);
    }
    if ((*at)->count >= limit)
        return false;
    (*at)->count++;
    return true;
}

void http_peers_leave(struct http_peers *peers, const unsigned char address[16])
{
    struct peer **at = find_peer(peers, address);
    struct peer *peer = *at;

    if (!peer || --peer->count > 0)
        return;
    *at = peer->next;
    free(peer);
}
