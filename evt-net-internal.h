/*
 * evt-net-internal.h: addresses, sockets and the CPU count, as plain functions
 * over plain arguments. No threads, no loops, no state; errno tells why. Only
 * evt_net_resolve_ logs, since gai_strerror(3) has more to say than errno.
 */
#ifndef EVT_NET_INTERNAL_H
#define EVT_NET_INTERNAL_H

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#define EVT_NET_TEXT 72 /* room for evt_net_text_ */

/* "127.0.0.1:80", "[::1]:80", or what kind of address it is; returns text. */
const char *evt_net_text_(const struct sockaddr *addr, char text[EVT_NET_TEXT]);

/* The address's length by its family, 0 for one that is not served here. */
socklen_t evt_net_addr_len_(int family);

/* The port in host order, -1 for an address without one. */
int evt_net_addr_port_(const struct sockaddr *addr);

/* The port that fd is bound to, -1 if it has none. */
int evt_net_port_(int fd);

/* getaddrinfo(3); the list is never empty. 0, or -1 with errno and a line. */
int evt_net_resolve_(const char *host, int port, int socktype, int family,
	int flags, struct addrinfo **list);

/* False where the system has no IPv6 at all. */
bool evt_net_has_ipv6_(void);

/*
 * A non-blocking, close-on-exec socket bound to addr, and listening if it is a
 * stream, with the longest backlog that the system allows. -1: *step names the
 * call that failed.
 */
int evt_net_bind_(const struct sockaddr *addr, socklen_t len, int socktype,
	const char **step);

struct evt_net_listen {
	int socktype;
	int backlog;     /* of a stream; INT_MAX: the system's maximum */
	bool bound_only; /* a stream that does not listen */
	bool reuseport;  /* others of ours share the address */
	bool batches;    /* of datagrams, as evt-udp.c reads them */
	bool joined;     /* of one sender, where the kernel can do that */
	bool keepalive;  /* what is accepted notices a peer that is dead */
	int defer_s; /* accepted once it has sent something, or after so long
			   without; 0: at once */
};

/* The same, as asked for. */
int evt_net_listen_(const struct sockaddr *addr, socklen_t len,
	const struct evt_net_listen *how, const char **step);

/* A non-blocking, close-on-exec stream socket to connect with, with the options
 * of an accepted one. */
int evt_net_client_socket_(int family);

/* The system's limit for a listening backlog; -1 if it does not tell. */
int evt_net_backlog_limit_(void);

/* One accepted connection, close-on-exec, and blocking or not; *len is 0 when
 * the peer has no address any more; peer NULL: nobody wants to know.
 * Interrupted calls are repeated. */
int evt_net_accept_(int fd, bool nonblocking, struct sockaddr_storage *peer,
	socklen_t *len);

/* What came with a datagram. */
struct evt_net_datagram {
	struct sockaddr_storage peer;
	socklen_t peer_len; /* 0: the sender has no address */
	bool truncated;
	unsigned errors; /* of earlier answers, passed over */
};

/* Receives one datagram as recv(2); its length, or -1. */
ssize_t evt_net_receive_(int fd, void *buf, size_t size, int flags,
	struct evt_net_datagram *datagram);

/* A blocking socket connected to addr, given up after timeout_ms. */
int evt_net_connect_(const struct sockaddr *addr, socklen_t len, int socktype,
	int timeout_ms);

int evt_net_set_nonblocking_(int fd, bool on);

/*
 * fd itself, or, if it is one of the three standard descriptors, a copy above
 * them in its place: what a program prints must not reach a client. -1
 * if that cannot be, fd being closed then.
 */
int evt_net_above_stdio_(int fd);

/* How many CPUs this process may use, at least 1. root: "" for the system,
 * or a folder that has the files of /proc and /sys in it. */
int evt_net_cpus_(const char *root);

#endif /* EVT_NET_INTERNAL_H */
