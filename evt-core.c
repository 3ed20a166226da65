/*
 * evt-core.c: the helpers of the classic interface.
 *
 * Many of them have names that a program may use for functions of its own, as
 * all names once were free. So they are weak, a program's own function of such
 * a name takes their place without a clash, and the library calls none of them.
 */
#include "evt-core.h"
#include "evt-log-internal.h"
#include "evt-net-internal.h"
#include "evt-server-internal.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#define WEAK               __attribute__((weak))
#define CONNECT_TIMEOUT_MS 10000

/* The families as serialize_addr writes them, whatever the system's are. */
#define WIRE_IPV4     2
#define WIRE_IPV6     10
#define WIRE_IPV4_LEN 8
#define WIRE_IPV6_LEN 28

/* Addresses */

/* An address of the program's need not be aligned. */
static int family_of(const struct sockaddr *addr)
{
	const size_t at = offsetof(struct sockaddr, sa_family);
	sa_family_t family;

	memcpy(&family, (const char *)addr + at, sizeof(family));
	return family;
}

WEAK struct addrinfo *get_server_addrinfo(void)
{
	return evt_server_addrinfo_();
}

WEAK struct addrinfo *getnetinfo(const char *host, int port, int socktype)
{
	struct addrinfo *list;

	if (evt_net_resolve_(
		    host, port, socktype, AF_UNSPEC, AI_PASSIVE, &list) == -1)
		return NULL;
	return list;
}

WEAK void print_addrinfo(struct addrinfo *ai)
{
	char text[EVT_NET_TEXT];

	if (!ai) {
		puts("no address");
		return;
	}
	printf("flags %d, family %d, socktype %d, protocol %d, addrlen %u, "
	       "address %s, canonname %s\n",
		ai->ai_flags, ai->ai_family, ai->ai_socktype, ai->ai_protocol,
		(unsigned)ai->ai_addrlen,
		ai->ai_addr ? evt_net_text_(ai->ai_addr, text) : "none",
		ai->ai_canonname ? ai->ai_canonname : "none");
}

WEAK int get_sockaddr_size(void)
{
	return (int)evt_net_addr_len_(evt_server_family_());
}

WEAK struct sockaddr *new_sockaddr(void)
{
	int family = evt_server_family_();
	struct sockaddr *addr;

	if (family == 0) {
		evt_fail_(EINVAL, "new_sockaddr before evt_server_init");
		return NULL;
	}
	addr = calloc(1, evt_net_addr_len_(family));
	if (!addr) {
		evt_fail_(ENOMEM, "new_sockaddr");
		return NULL;
	}
	addr->sa_family = (sa_family_t)family;
	return addr;
}

static void put_u16(char *dest, uint16_t value)
{
	dest[0] = (char)(value >> 8);
	dest[1] = (char)(value & 0xff);
}

WEAK int serialize_addr(struct sockaddr *src, char *dest, int size)
{
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	uint32_t scope;

	if (!src || !dest)
		return 0;
	if (family_of(src) == AF_INET && size >= WIRE_IPV4_LEN) {
		memcpy(&in, src, sizeof(in));
		put_u16(dest, WIRE_IPV4);
		memcpy(dest + 2, &in.sin_port, 2);
		memcpy(dest + 4, &in.sin_addr, 4);
		return WIRE_IPV4_LEN;
	}
	if (family_of(src) == AF_INET6 && size >= WIRE_IPV6_LEN) {
		memcpy(&in6, src, sizeof(in6));
		scope = htonl(in6.sin6_scope_id); /* the one in host order */
		put_u16(dest, WIRE_IPV6);
		memcpy(dest + 2, &in6.sin6_port, 2);
		memcpy(dest + 4, &in6.sin6_flowinfo, 4);
		memcpy(dest + 8, &in6.sin6_addr, 16);
		memcpy(dest + 24, &scope, 4);
		return WIRE_IPV6_LEN;
	}
	return 0;
}

static int deserialize_ipv4(const char *src, struct sockaddr *dest)
{
	struct sockaddr_in in = {.sin_family = AF_INET};

	memcpy(&in.sin_port, src + 2, 2);
	memcpy(&in.sin_addr, src + 4, 4);
	memcpy(dest, &in, sizeof(in));
	return WIRE_IPV4_LEN;
}

static int deserialize_ipv6(const char *src, struct sockaddr *dest)
{
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	uint32_t scope;

	memcpy(&in6.sin6_port, src + 2, 2);
	memcpy(&in6.sin6_flowinfo, src + 4, 4);
	memcpy(&in6.sin6_addr, src + 8, 16);
	memcpy(&scope, src + 24, 4);
	in6.sin6_scope_id = ntohl(scope);
	memcpy(dest, &in6, sizeof(in6));
	return WIRE_IPV6_LEN;
}

WEAK int deserialize_addr(char *src, struct sockaddr *dest, int size)
{
	bool room_for_ipv6 = evt_server_family_() != AF_INET;

	if (!src || !dest || size < 2 || src[0] != 0)
		return 0;
	if (src[1] == WIRE_IPV4 && size >= WIRE_IPV4_LEN)
		return deserialize_ipv4(src, dest);
	if (src[1] == WIRE_IPV6 && size >= WIRE_IPV6_LEN && room_for_ipv6)
		return deserialize_ipv6(src, dest);
	return 0;
}

static int copy_bytes(char *buf, int size, const void *bytes, int len)
{
	if (size < len)
		return 0;
	memcpy(buf, bytes, (size_t)len);
	return len;
}

WEAK int copy_ip_addr(struct sockaddr *src, char *buf, int size)
{
	struct sockaddr_in in;
	struct sockaddr_in6 in6;

	if (!src || !buf)
		return 0;
	if (family_of(src) == AF_INET) {
		memcpy(&in, src, sizeof(in));
		return copy_bytes(buf, size, &in.sin_addr, 4);
	}
	if (family_of(src) != AF_INET6)
		return 0;
	memcpy(&in6, src, sizeof(in6));
	if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr))
		return copy_bytes(buf, size, in6.sin6_addr.s6_addr + 12, 4);
	return copy_bytes(buf, size, &in6.sin6_addr, 16);
}

/* Connecting */

static bool is_socktype(int socktype)
{
	return socktype == SOCK_STREAM || socktype == SOCK_DGRAM;
}

WEAK int get_conn_to_host(const char *host, int port, int socktype)
{
	const char *name = host ? host : "this machine";
	struct addrinfo *list;
	struct addrinfo *ai;
	int fd = -1;
	int error;

	if (!is_socktype(socktype))
		return evt_fail_(
			EINVAL, "get_conn_to_host: socktype %d", socktype);
	if (evt_net_resolve_(host, port, socktype, AF_UNSPEC, 0, &list) == -1)
		return -1;
	for (ai = list; ai && fd == -1; ai = ai->ai_next)
		fd = evt_net_connect_(ai->ai_addr, ai->ai_addrlen, socktype,
			CONNECT_TIMEOUT_MS);
	error = errno;
	freeaddrinfo(list);
	if (fd == -1)
		return evt_fault_(
			error, "connecting to %s, port %d", name, port);
	return fd;
}

WEAK int get_conn_to_addr(struct sockaddr *addr, int port, int socktype)
{
	struct sockaddr_storage to = {0};
	char text[EVT_NET_TEXT];
	socklen_t len = addr ? evt_net_addr_len_(family_of(addr)) : 0;
	in_port_t net_port = (in_port_t)port;
	const size_t port_at = offsetof(struct sockaddr_in, sin_port);
	int fd;

	if (len == 0 || !is_socktype(socktype) || port < 0 || port > 65535)
		return evt_fail_(EINVAL, "get_conn_to_addr: %s",
			len == 0 ? "address" : "port or socktype");
	memcpy(&to, addr, len);
	/* Both families have the port in the same place. */
	memcpy((char *)&to + port_at, &net_port, sizeof(net_port));
	fd = evt_net_connect_(
		(struct sockaddr *)&to, len, socktype, CONNECT_TIMEOUT_MS);
	if (fd == -1)
		return evt_fault_(errno, "connecting to %s",
			evt_net_text_((struct sockaddr *)&to, text));
	return fd;
}

/* The rest */

WEAK int get_nr_cpus(void)
{
	return evt_net_cpus_("");
}

WEAK int set_nonblocking(sockfd_t fd)
{
	if (evt_net_set_nonblocking_(fd, true) == 0)
		return 0;
	return evt_fail_(errno, "set_nonblocking %d", fd);
}

WEAK void print_buffer(const char *name, void *buf, int size)
{
	const unsigned char *bytes = buf;
	int i;
	int j;

	printf("%s (%d bytes)\n", name ? name : "buffer", buf ? size : 0);
	for (i = 0; buf && i < size; i += 16) {
		printf("%8d ", i);
		for (j = i; j < i + 16; j++)
			if (j < size)
				printf(" %02x", bytes[j]);
			else
				printf("   ");
		printf("  ");
		for (j = i; j < i + 16 && j < size; j++)
			putchar(isprint(bytes[j]) ? bytes[j] : '.');
		putchar('\n');
	}
}

WEAK int sys_error(const char *msg)
{
	return evt_fault_(errno, "%s", msg ? msg : "error");
}
