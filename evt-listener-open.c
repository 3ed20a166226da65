/*
 * evt-listener-open.c: from a URL to listening sockets. All of them or none:
 * what was opened before the one that failed is closed again.
 */
#include "evt-listener-internal.h"
#include "evt-log-internal.h"
#include "evt-net-internal.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void evt_listener_shut_(struct evt_listener *listener)
{
	int i;

	evt_unix_remove_(&listener->file); /* first: see evt-listener.c */
	for (i = 0; i < listener->nr_sockets; i++)
		evt_acceptor_close_(&listener->sockets[i]);
	for (i = 0; listener->udp && i < listener->pool->options.workers; i++)
		if (listener->udp[i])
			evt_udp_shut_(listener->udp[i]);
}

static void shut_and_keep_errno(struct evt_listener *listener)
{
	int error = errno;

	evt_listener_shut_(listener);
	errno = error;
}

/* In whole seconds, as the kernel counts; without a limit a long time. */
static int defer_s(const struct evt_listener *listener)
{
	int first_byte_ms = listener->setup.first_byte_ms;

	if (!listener->options.speak_first)
		return 0;
	return first_byte_ms > 0 ? first_byte_ms / 1000 + 1 : 60;
}

static int open_one(struct evt_listener *listener,
	struct evt_acceptor *acceptor, const struct sockaddr *addr,
	socklen_t len, const char **step)
{
	const struct evt_net_listen how = {.socktype = SOCK_STREAM,
		.backlog = listener->options.backlog,
		.reuseport = listener->options.reuseport,
		.keepalive = true,
		.defer_s = defer_s(listener)};
	struct sockaddr_storage bound = {0};
	int fd = evt_net_listen_(addr, len, &how, step);

	if (fd == -1)
		return -1;
	len = sizeof(bound);
	*step = "getsockname";
	if (getsockname(fd, (struct sockaddr *)&bound, &len) == -1) {
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	evt_net_text_((struct sockaddr *)&bound, acceptor->where);
	listener->port = evt_net_addr_port_((struct sockaddr *)&bound);
	evt_acceptor_take_(acceptor, fd, SOCK_STREAM);
	return 0;
}

/* The first socket finds the port, if the kernel is to choose; the others of a
 * group have to have the same. */
static void set_port(struct sockaddr_storage *addr, int port)
{
	/* Both families have it in one place. */
	struct sockaddr_in *in = (struct sockaddr_in *)addr;

	in->sin_port = htons((uint16_t)port);
}

/* With reuseport another process of the same user could listen there too, and
 * take half of the clients without anybody's notice. */
static int check_is_free(const struct sockaddr *addr, socklen_t len,
	int socktype, const char **step)
{
	const struct evt_net_listen how = {
		.socktype = socktype, .bound_only = true};
	int fd = evt_net_listen_(addr, len, &how, step);

	if (fd == -1)
		return -1;
	close(fd);
	return 0;
}

static int open_udp(struct evt_listener *listener, const struct sockaddr *addr,
	socklen_t len, const char **step)
{
	const struct evt_steer *steer = &listener->options.steer;
	int nr = listener->pool->options.workers;

	if (check_is_free(addr, len, SOCK_DGRAM, step) == -1 ||
		evt_udp_open_(listener->udp, nr, addr, len, steer->len == 0,
			step) == -1)
		return -1;
	listener->port = listener->udp[0]->port;
	*step = "steer";
	if (steer->len == 0 || nr == 1 ||
		evt_udp_steer_(
			listener->udp[0], nr, steer->offset, steer->len) == 0)
		return 0;
	shut_and_keep_errno(listener);
	return -1;
}

static int open_all(struct evt_listener *listener, const struct sockaddr *addr,
	socklen_t len, const char **step)
{
	struct sockaddr_storage copy = {0};
	int i;

	if (listener->udp)
		return open_udp(listener, addr, len, step);
	memcpy(&copy, addr, len);
	if (listener->options.reuseport &&
		check_is_free(addr, len, SOCK_STREAM, step) == -1)
		return -1;
	for (i = 0; i < listener->nr_sockets; i++) {
		if (open_one(listener, &listener->sockets[i],
			    (struct sockaddr *)&copy, len, step) == -1) {
			shut_and_keep_errno(listener);
			return -1;
		}
		set_port(&copy, listener->port);
	}
	return 0;
}

/* One socket for both families, or IPv4 where there is no other. */
static int open_any(struct evt_listener *listener, int port, const char **step)
{
	struct sockaddr_in6 in6 = {
		.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
	struct sockaddr_in in = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

	if (evt_net_has_ipv6_())
		return open_all(
			listener, (struct sockaddr *)&in6, sizeof(in6), step);
	if (open_all(listener, (struct sockaddr *)&in, sizeof(in), step) == -1)
		return -1;
	evt_log_(EVT_LOG_INFO, "no IPv6 on this machine: serving IPv4 alone");
	return 0;
}

/* The first address of a name that can be bound. */
static int open_host(struct evt_listener *listener, const struct evt_url *url,
	const char *text)
{
	const char *step = "bind";
	struct addrinfo *list;
	struct addrinfo *ai;
	int result = -1;
	int error;

	if (evt_net_resolve_(url->host, url->port,
		    listener->udp ? SOCK_DGRAM : SOCK_STREAM, AF_UNSPEC,
		    AI_PASSIVE, &list) == -1)
		return -1;
	for (ai = list; ai && result == -1; ai = ai->ai_next)
		result = open_all(listener, ai->ai_addr, ai->ai_addrlen, &step);
	error = errno;
	freeaddrinfo(list);
	if (result == 0)
		return 0;
	return evt_fault_(error, "evt_listen on %s: %s", text, step);
}

static int open_unix(struct evt_listener *listener, const struct evt_url *url,
	const char *text)
{
	struct evt_acceptor *acceptor = &listener->sockets[0];
	const char *step = "bind";
	int fd = evt_unix_bind_(url, listener->udp ? SOCK_DGRAM : SOCK_STREAM,
		listener->options.unix_mode, listener->options.backlog,
		&listener->file, &step);

	if (fd == -1)
		return evt_fault_(errno, "evt_listen on %s: %s", text, step);
	listener->port = -1;
	if (listener->udp) {
		evt_udp_take_(evt_listener_unix_udp_(listener), fd, text);
		return 0;
	}
	snprintf(acceptor->where, sizeof(acceptor->where), "%s", text);
	evt_acceptor_take_(acceptor, fd, SOCK_STREAM);
	listener->setup.reads_to_end = true;
	return 0;
}

int evt_listener_open_(struct evt_listener *listener, const struct evt_url *url,
	const char *text)
{
	const char *step;

	if (url->kind == EVT_URL_UNIX || url->kind == EVT_URL_UNIXGRAM)
		return open_unix(listener, url, text);
	if (url->host[0] != '\0' && strcmp(url->host, "::") != 0)
		return open_host(listener, url, text);
	if (open_any(listener, url->port, &step) == 0)
		return 0;
	return evt_fault_(errno, "evt_listen on %s: %s", text, step);
}
