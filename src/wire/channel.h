/* Channel: records over a socket between the front and a worker, some with a file descriptor (a
 * picture in a memfd). Never blocks: what cannot be sent yet is kept, up to a limit.
 *
 * One thread may send (channel_send, channel_wants_to_send, channel_flush) while another receives:
 * the two directions share nothing but the descriptor.
 */
#ifndef WIRE_CHANNEL_H
#define WIRE_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attributes.h"
#include "base/error.h"
#include "wire/record.h"

struct channel;

/* Owns `fd`, one end of a socketpair(AF_UNIX, SOCK_STREAM), which becomes non-blocking. */
MUST_CHECK bool channel_create(struct channel **out, int fd, struct error *err);
void channel_destroy(struct channel *channel); /* NULL is fine */
int channel_fd(const struct channel *channel); /* for poll or epoll */

/* Queues a record of this type and sends what can be sent. `fd` travels with it and is owned from
 * now on; -1: none. False when the peer is gone, too much waits (CHANNEL_WAITING_MAX), memory is
 * short or the record failed while it was written. */
#define CHANNEL_WAITING_MAX ((size_t)256 << 20)
MUST_CHECK bool channel_send(struct channel *channel, uint32_t type,
                             const struct record_writer *record, int fd);
bool channel_wants_to_send(const struct channel *channel);
/* After the descriptor became writable. False: the peer is gone. */
MUST_CHECK bool channel_flush(struct channel *channel);

enum channel_receive { CHANNEL_RECORD, CHANNEL_NOTHING, CHANNEL_CLOSED, CHANNEL_BROKEN };
/* The next whole record, borrowed until the next call; *fd is the caller's, or -1: there was none,
 * or this process had no descriptor left to receive it with. CLOSED: the peer is gone, after all
 * whole records that it sent. BROKEN: what comes is no record, or memory was short; the channel is
 * of no more use then. */
enum channel_receive channel_receive(struct channel *channel, uint32_t *type,
                                     struct record_reader *record, int *fd);

#endif
