/*
 * evt-udp-ours.c: whether a socket has an address, asked of the few datagrams
 * that come from a port of ours. One that is bound to any has all that the
 * machine has. getifaddrs(3) knows them, and takes some time: it is asked once
 * a second at most, whatever comes.
 */
#include "evt-udp-internal.h"
#include "evt-log-internal.h"

#include <ifaddrs.h>
#include <string.h>

#define STALE_MS 1000

void evt_udp_forget_ours_(struct evt_udp_socket *sock)
{
	if (sock->ours)
		freeifaddrs(sock->ours);
	sock->ours = NULL;
	sock->ours_at_ms = 0;
}

static void look(struct evt_udp_socket *sock)
{
	int64_t now_ms = evt_now_ms_();

	if (sock->ours_at_ms != 0 && now_ms - sock->ours_at_ms < STALE_MS)
		return;
	evt_udp_forget_ours_(sock);
	sock->ours_at_ms = now_ms;
	if (getifaddrs(&sock->ours) == -1)
		sock->ours = NULL;
}

static bool is_loopback(const struct in6_addr *addr)
{
	return IN6_IS_ADDR_LOOPBACK(addr) ||
		(IN6_IS_ADDR_V4MAPPED(addr) && addr->s6_addr[12] == 127);
}

/* IPv4 as ::ffff:192.0.2.1. */
static bool to_in6(const struct sockaddr *from, struct in6_addr *addr)
{
	struct sockaddr_in6 in6;
	struct sockaddr_in in;

	if (from->sa_family == AF_INET6) {
		memcpy(&in6, from, sizeof(in6));
		*addr = in6.sin6_addr;
		return true;
	}
	if (from->sa_family != AF_INET)
		return false;
	memcpy(&in, from, sizeof(in));
	memset(addr, 0, sizeof(*addr));
	addr->s6_addr[10] = addr->s6_addr[11] = 0xff;
	memcpy(&addr->s6_addr[12], &in.sin_addr, sizeof(in.sin_addr));
	return true;
}

bool evt_udp_has_address_(struct evt_udp_socket *sock,
	const struct evt_udp_socket *other, const struct sockaddr *addr)
{
	const struct ifaddrs *it;
	struct in6_addr asked;
	struct in6_addr ours;

	if (!to_in6(addr, &asked) || !to_in6(&other->bound.sa, &ours))
		return false;
	if (!other->asks_local)
		return memcmp(&ours, &asked, sizeof(ours)) == 0;
	if (is_loopback(&asked))
		return true;
	look(sock);
	for (it = sock->ours; it; it = it->ifa_next)
		if (it->ifa_addr && to_in6(it->ifa_addr, &ours) &&
			memcmp(&ours, &asked, sizeof(ours)) == 0)
			return true;
	return false;
}
