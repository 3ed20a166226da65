/*
 * client.h: what the programs that connect to a server share: connecting, and
 * one echo that is waited for.
 */
#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H

#include "common.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/time.h>

#define ANSWER_S 10 /* the longest wait for an answer */

/*
 * A socket on its way to port on this machine: connected, or with flags
 * SOCK_NONBLOCK perhaps not yet. It ends with a reset, which leaves no port in
 * TIME_WAIT behind: thousands of them would be in the way of the next.
 */
static inline int connect_to(int port, int flags)
{
	struct sockaddr_in server = {.sin_family = AF_INET};
	struct linger reset = {.l_onoff = 1};
	struct timeval limit = {.tv_sec = ANSWER_S};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

	if (fd == -1)
		die("socket");
	server.sin_port = htons((in_port_t)port);
	server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) ==
			-1 ||
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit,
			sizeof(limit)) == -1)
		die("setsockopt");
	if (connect(fd, (struct sockaddr *)&server, sizeof(server)) == -1 &&
		errno != EINPROGRESS)
		die("connect");
	return fd;
}

/* Sends one byte on a blocking socket and waits until it is back. */
static inline void echo_byte(int fd, char byte)
{
	char answer = 0;

	if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1)
		die("send");
	if (recv(fd, &answer, 1, 0) != 1)
		die("no answer");
	if (answer != byte) {
		errno = EBADMSG;
		die("the answer");
	}
}

static inline void set_nonblocking(int fd)
{
	if (fcntl(fd, F_SETFL, O_NONBLOCK) == -1)
		die("fcntl");
}

#endif /* BENCH_CLIENT_H */
