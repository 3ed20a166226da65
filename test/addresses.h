/*
 * addresses.h: addresses of both families, and sockets bound to a free port.
 */
#ifndef ADDRESSES_H
#define ADDRESSES_H

#include "ledger.h"
#include "../evt-log.h"
#include "../evt-net-internal.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>

static inline struct sockaddr_in ipv4(const char *ip, int port)
{
	struct sockaddr_in in = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

	inet_pton(AF_INET, ip, &in.sin_addr);
	return in;
}

static inline struct sockaddr_in6 ipv6(const char *ip, int port)
{
	struct sockaddr_in6 in6 = {
		.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};

	inet_pton(AF_INET6, ip, &in6.sin6_addr);
	return in6;
}

/* A socket bound to a free port of ip, listening if it is a stream. */
static inline int bound(const char *ip, int socktype, int *port)
{
	struct sockaddr_in in = ipv4(ip, 0);
	struct sockaddr_in6 in6 = ipv6(ip, 0);
	bool v6 = strchr(ip, ':') != NULL;
	const char *step;
	int fd = v6 ? evt_net_bind_((struct sockaddr *)&in6, sizeof(in6),
			      socktype, &step)
		    : evt_net_bind_((struct sockaddr *)&in, sizeof(in),
			      socktype, &step);

	if (fd == -1 && v6)
		skip(); /* no IPv6 here */
	assert_int_not_equal(fd, -1);
	*port = evt_net_port_(fd);
	return fd;
}

/* A port on which nobody listens: it stays bound, so nobody will. */
static inline int bound_but_deaf(const char *ip, int *port)
{
	struct sockaddr_in in = ipv4(ip, 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	*port = evt_net_port_(fd);
	return fd;
}

/* True once a client waits: the kernel may need a moment after connect(2). */
static inline bool has_client(int listener)
{
	struct pollfd in = {.fd = listener, .events = POLLIN};
	int ready;

	do
		ready = poll(&in, 1, 10000 * slowness());
	while (ready == -1 && errno == EINTR);
	return ready == 1;
}

#endif /* ADDRESSES_H */
