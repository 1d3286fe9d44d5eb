/*
 * The floor that any DNS server over UDP stands on, and the upstream that the measured servers ask.
 *
 *     responder echo PORT              send each datagram back as a response; no lookup at all
 *     responder stub PORT              answer every A question with 192.0.2.80, TTL 3600
 *     responder forward PORT UPSTREAM  pass queries to 127.0.0.1:UPSTREAM and replies back
 *
 * One thread on 127.0.0.1, up to 64 datagrams a system call.  For benchmarks only: it trusts its
 * peers and checks no more than that it stays within its buffers.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 64, SIZE = 2048, HEADER = 12 };

struct batch {
    struct mmsghdr msgs[BATCH];
    struct iovec iov[BATCH];
    struct sockaddr_in from[BATCH];
    unsigned char data[BATCH][SIZE];
};

static struct batch in, out;
static struct sockaddr_in asker[65536];
static unsigned char asked_as[65536][2];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int bound(int port)
{
    int sock = socket(AF_INET, SOCK_DGRAM, 0), size = 1 << 22;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port)};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (sock < 0 || bind(sock, (struct sockaddr *)&here, sizeof here))
        die("bind");
    return sock;
}

/* Wait for at least one datagram unless `flags` say otherwise; returns how many came. */
static int receive(struct batch *b, int sock, int flags)
{
    for (int i = 0; i < BATCH; i++) {
        b->iov[i] = (struct iovec){b->data[i], SIZE - 64}; /* room for an answer */
        memset(&b->msgs[i], 0, sizeof b->msgs[i]);
        b->msgs[i].msg_hdr.msg_iov = &b->iov[i];
        b->msgs[i].msg_hdr.msg_iovlen = 1;
        b->msgs[i].msg_hdr.msg_name = &b->from[i];
        b->msgs[i].msg_hdr.msg_namelen = sizeof b->from[i];
    }
    return recvmmsg(sock, b->msgs, BATCH, flags, NULL);
}

/* Send the first `count`; a datagram that the kernel refuses is lost, as datagrams may be. */
static void send_all(struct batch *b, int sock, int count)
{
    for (int done = 0; done < count;) {
        int sent = sendmmsg(sock, b->msgs + done, count - done, 0);
        done += sent > 0 ? sent : 1;
    }
}

/* Turn the query in `p` into its answer; returns the answer's length, 0 for what is no query. */
static int answer(unsigned char *p, int size)
{
    static const unsigned char record[16] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 192, 0, 2, 80};
    static const unsigned char opt[11] = {0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0};
    int at = HEADER;
    if (size < HEADER + 5 || p[2] & 0x80 || p[4] || p[5] != 1)
        return 0;
    while (at < size && p[at])
        at += p[at] + 1;
    at += 5;
    if (at > size)
        return 0;
    int is_a = p[at - 4] == 0 && p[at - 3] == 1, has_opt = p[10] || p[11];
    p[2] = 0x80 | (p[2] & 1);
    p[3] = 0x80;
    memset(p + 6, 0, 6);
    p[7] = is_a;
    p[11] = has_opt;
    if (is_a) {
        memcpy(p + at, record, sizeof record);
        at += sizeof record;
    }
    if (has_opt) {
        memcpy(p + at, opt, sizeof opt);
        at += sizeof opt;
    }
    return at;
}

static void respond(int sock, int stub)
{
    for (;;) {
        int count = receive(&in, sock, MSG_WAITFORONE), kept = 0;
        for (int i = 0; i < count; i++) {
            int size = in.msgs[i].msg_len;
            if (stub)
                size = answer(in.data[i], size);
            else if (size >= HEADER)
                in.data[i][2] |= 0x80;
            if (size < HEADER)
                continue;
            in.iov[i].iov_len = size;
            in.msgs[kept++].msg_hdr = in.msgs[i].msg_hdr;
        }
        send_all(&in, sock, kept);
    }
}

static void forward(int sock, int upstream_port)
{
    int upstream = bound(0), count, kept;
    unsigned short next = 0;
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(upstream_port)};
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(upstream, (struct sockaddr *)&there, sizeof there))
        die("connect");
    struct pollfd fds[2] = {{sock, POLLIN, 0}, {upstream, POLLIN, 0}};
    for (;;) {
        poll(fds, 2, -1);
        count = fds[0].revents & POLLIN ? receive(&in, sock, MSG_DONTWAIT) : 0;
        for (int i = 0; i < count; i++, next++) {
            asker[next] = in.from[i];
            memcpy(asked_as[next], in.data[i], 2);
            in.data[i][0] = next >> 8;
            in.data[i][1] = next & 255;
            in.iov[i].iov_len = in.msgs[i].msg_len;
            in.msgs[i].msg_hdr.msg_name = NULL;
            in.msgs[i].msg_hdr.msg_namelen = 0;
        }
        send_all(&in, upstream, count);
        count = fds[1].revents & POLLIN ? receive(&out, upstream, MSG_DONTWAIT) : 0;
        kept = 0;
        for (int i = 0; i < count; i++) {
            int slot = out.data[i][0] << 8 | out.data[i][1];
            if (out.msgs[i].msg_len < HEADER || !asker[slot].sin_port)
                continue;
            memcpy(out.data[i], asked_as[slot], 2);
            out.iov[i].iov_len = out.msgs[i].msg_len;
            out.msgs[i].msg_hdr.msg_name = &asker[slot];
            out.msgs[kept++].msg_hdr = out.msgs[i].msg_hdr;
        }
        send_all(&out, sock, kept);
    }
}

int main(int argc, char **argv)
{
    const char *mode = argc > 2 ? argv[1] : "";
    if (!strcmp(mode, "echo") || !strcmp(mode, "stub"))
        respond(bound(atoi(argv[2])), mode[0] == 's');
    else if (!strcmp(mode, "forward") && argc > 3)
        forward(bound(atoi(argv[2])), atoi(argv[3]));
    fprintf(stderr, "responder echo|stub PORT, or responder forward PORT UPSTREAM\n");
    return 2;
}
