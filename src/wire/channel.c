#include "wire/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Before each record: its size, its type, and whether a descriptor travels with it. The descriptor
 * goes with the first byte, so it is here when the whole record is. */
#define HEADER_BYTES 12
#define HAS_FD 1u

#define READ_BYTES 65536     /* at least this much room for a read */
#define KEPT_BYTES (1 << 20) /* of an empty buffer */
#define FDS_MAX 64           /* that arrived before their records' ends */
#define FDS_A_READ 4

/* A record on its way out. */
struct outgoing {
    struct outgoing *next;
    size_t size, sent;
    int fd; /* owned; -1: none, or sent */
    unsigned char bytes[];
};

struct channel {
    int fd; /* fixed */

    /* Of the thread that sends. */
    struct outgoing *first, **last;
    size_t waiting; /* bytes */
    bool is_gone;

    /* Of the thread that receives. */
    unsigned char *bytes;
    size_t start, end, capacity; /* of what arrived, within bytes */
    size_t lent;                 /* bytes of the record that the caller has */
    int fds[FDS_MAX];            /* in order; -1: it was lost */
    size_t fd_count;
    bool is_broken;
};

bool channel_create(struct channel **out, int fd, struct error *err)
{
    struct channel *channel = calloc(1, sizeof *channel);
    int flags = fcntl(fd, F_GETFL);

    if (!channel) {
        close(fd);
        return error_set(err, ERROR_NO_MEMORY, "channel");
    }
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
        error_set_errno(err, errno, "channel");
        free(channel);
        close(fd);
        return false;
    }
    channel->fd = fd;
    channel->last = &channel->first;
    *out = channel;
    return true;
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void drop_first(struct channel *channel)
{
    struct outgoing *first = channel->first;

    channel->first = first->next;
    if (!channel->first)
        channel->last = &channel->first;
    channel->waiting -= first->size;
    close_fd(first->fd);
    free(first);
}

void channel_destroy(struct channel *channel)
{
    if (!channel)
        return;
    while (channel->first)
        drop_first(channel);
    for (size_t i = 0; i < channel->fd_count; i++)
        close_fd(channel->fds[i]);
    free(channel->bytes);
    close(channel->fd);
    free(channel);
}

int channel_fd(const struct channel *channel)
{
    return channel->fd;
}

/* --- Sending --- */

static void write_header(unsigned char header[HEADER_BYTES], size_t size, uint32_t type,
                         uint32_t flags)
{
    const uint32_t words[] = {(uint32_t)size, type, flags};

    for (size_t i = 0; i < HEADER_BYTES; i++)
        header[i] = (unsigned char)(words[i / 4] >> 8 * (i % 4));
}

/* One sendmsg: bytes sent, or -1 with errno. The descriptor goes with the first of them. */
static ssize_t send_some(int socket, const struct outgoing *record)
{
    union {
        struct cmsghdr align;
        unsigned char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = (void *)(uintptr_t)(record->bytes + record->sent),
                         .iov_len = record->size - record->sent};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    if (record->fd >= 0) {
        struct cmsghdr *header;

        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &record->fd, sizeof(int));
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

bool channel_flush(struct channel *channel)
{
    while (!channel->is_gone && channel->first) {
        struct outgoing *record = channel->first;
        ssize_t sent = send_some(channel->fd, record);

        if (sent < 0 && errno == EINTR)
            continue;
        /* ETOOMANYREFS: too many descriptors are on their way; some arrive in time. */
        if (sent < 0 && (errno == EAGAIN || errno == ETOOMANYREFS || errno == ENOBUFS))
            return true;
        if (sent < 0) {
            channel->is_gone = true;
            break;
        }
        close_fd(record->fd);
        record->fd = -1;
        record->sent += (size_t)sent;
        if (record->sent == record->size)
            drop_first(channel);
    }
    return !channel->is_gone;
}

bool channel_send(struct channel *channel, uint32_t type, const struct record_writer *record,
                  int fd)
{
    size_t size = HEADER_BYTES + record->size;
    struct outgoing *outgoing;

    if (channel->is_gone || record->has_failed || record->size > RECORD_BYTES_MAX ||
        size > CHANNEL_WAITING_MAX - channel->waiting) {
        close_fd(fd);
        return false;
    }
    outgoing = malloc(sizeof *outgoing + size);
    if (!outgoing) {
        close_fd(fd);
        return false;
    }
    *outgoing = (struct outgoing){.size = size, .fd = fd};
    write_header(outgoing->bytes, record->size, type, fd >= 0 ? HAS_FD : 0);
    if (record->size > 0)
        memcpy(outgoing->bytes + HEADER_BYTES, record->bytes, record->size);
    *channel->last = outgoing;
    channel->last = &outgoing->next;
    channel->waiting += size;
    return channel_flush(channel);
}

bool channel_wants_to_send(const struct channel *channel)
{
    return channel->first && !channel->is_gone;
}

/* --- Receiving --- */

/* The caller is done with the record that it was lent. */
static void take_back(struct channel *channel)
{
    channel->start += channel->lent;
    channel->lent = 0;
    if (channel->start < channel->end)
        return;
    channel->start = channel->end = 0;
    if (channel->capacity > KEPT_BYTES) {
        free(channel->bytes);
        channel->bytes = NULL;
        channel->capacity = 0;
    }
}

static uint32_t header_word(const struct channel *channel, size_t word)
{
    const unsigned char *at = channel->bytes + channel->start + 4 * word;

    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static size_t arrived(const struct channel *channel)
{
    return channel->end - channel->start;
}

/* Room for a read. Grows with what arrived, not with what a header promises. */
static bool make_room(struct channel *channel)
{
    size_t has = arrived(channel), wanted = 2 * has + READ_BYTES;
    unsigned char *bytes;

    if (channel->start > 0 && has > 0)
        memmove(channel->bytes, channel->bytes + channel->start, has);
    channel->start = 0;
    channel->end = has;
    if (channel->capacity - has >= READ_BYTES)
        return true;
    bytes = realloc(channel->bytes, wanted);
    if (!bytes)
        return false;
    channel->bytes = bytes;
    channel->capacity = wanted;
    return true;
}

/* Descriptors from one read, kept until their records are whole. One that is sent when this process
 * has no number left for it comes as a truncated message. False: there were too many. */
static bool keep_fds(struct channel *channel, struct msghdr *message)
{
    bool ok = true, had_any = false;

    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header;
         header = CMSG_NXTHDR(message, header)) {
        size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
            had_any = true;
            if (channel->fd_count < FDS_MAX) {
                channel->fds[channel->fd_count++] = fd;
                continue;
            }
            close(fd);
            ok = false;
        }
    }
    if (!(message->msg_flags & MSG_CTRUNC))
        return ok;
    if (had_any || channel->fd_count == FDS_MAX)
        return false;
    channel->fds[channel->fd_count++] = -1;
    return ok;
}

/* One recvmsg. RECORD: something arrived. */
static enum channel_receive receive_some(struct channel *channel)
{
    union {
        struct cmsghdr align;
        unsigned char bytes[CMSG_SPACE(FDS_A_READ * sizeof(int))];
    } control;
    struct iovec part;
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t size;

    if (!make_room(channel))
        return CHANNEL_BROKEN;
    part = (struct iovec){.iov_base = channel->bytes + channel->end,
                          .iov_len = channel->capacity - channel->end};
    do
        size = recvmsg(channel->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (size < 0 && errno == EINTR);
    if (size < 0)
        return errno == EAGAIN ? CHANNEL_NOTHING : CHANNEL_CLOSED;
    if (!keep_fds(channel, &message))
        return CHANNEL_BROKEN;
    channel->end += (size_t)size;
    return size == 0 ? CHANNEL_CLOSED : CHANNEL_RECORD;
}

/* RECORD: it is lent. NOTHING: it is not whole yet. */
static enum channel_receive lend(struct channel *channel, uint32_t *type,
                                 struct record_reader *record, int *fd)
{
    size_t size;
    uint32_t flags;

    if (arrived(channel) < HEADER_BYTES)
        return CHANNEL_NOTHING;
    size = header_word(channel, 0);
    flags = header_word(channel, 2);
    if (size > RECORD_BYTES_MAX || flags > HAS_FD)
        return CHANNEL_BROKEN;
    if (arrived(channel) - HEADER_BYTES < size)
        return CHANNEL_NOTHING;
    if (flags & HAS_FD) {
        if (channel->fd_count == 0)
            return CHANNEL_BROKEN;
        *fd = channel->fds[0];
        channel->fd_count--;
        memmove(channel->fds, channel->fds + 1, channel->fd_count * sizeof *channel->fds);
    }
    *type = header_word(channel, 1);
    *record = (struct record_reader){.at = channel->bytes + channel->start + HEADER_BYTES};
    record->end = record->at + size;
    channel->lent = HEADER_BYTES + size;
    return CHANNEL_RECORD;
}

enum channel_receive channel_receive(struct channel *channel, uint32_t *type,
                                     struct record_reader *record, int *fd)
{
    enum channel_receive result;

    *type = 0;
    *record = (struct record_reader){0};
    *fd = -1;
    if (channel->is_broken)
        return CHANNEL_BROKEN;
    take_back(channel);
    for (;;) {
        result = lend(channel, type, record, fd);
        if (result != CHANNEL_NOTHING)
            break;
        result = receive_some(channel);
        if (result != CHANNEL_RECORD)
            break;
    }
    channel->is_broken = result == CHANNEL_BROKEN;
    return result;
}
