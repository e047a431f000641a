/* Addresses of clients: which networks they are in, and what counts as one client. */
#ifndef SERVER_AUTH_ADDRESSES_H
#define SERVER_AUTH_ADDRESSES_H

#include <stdbool.h>

#include "base/attributes.h"
#include "base/error.h"

/* Whether `address` lies in one of `networks`: "10.0.0.0/8", "::1", NULL at the end; NULL: none.
 * An IPv4 address written as IPv6 ("::ffff:10.0.0.1") is the IPv4 one. */
bool auth_address_is_in(const char *address, const char *const *networks);
MUST_CHECK bool auth_check_networks(const char *const *networks, struct error *err);

/* 16 bytes that are equal for what one client may hold: an IPv4 address, a /64 of IPv6. All zero
 * for what is no address. */
void auth_address_group(unsigned char group[16], const char *address);

#endif
