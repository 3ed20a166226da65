/*
 * evt-udp-receive.c: receiving datagrams.
 *
 * One recvmmsg(2) brings a batch. Where the kernel has put datagrams of one
 * sender together (UDP_GRO in udp(7)), a message is several, all of one size
 * but the last; they are handed over apart. What else it says of each message
 * comes as control data: see ip(7), ipv6(7) and socket(7).
 */
#include "evt-udp-internal.h"
#include "evt-log-internal.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <netinet/udp.h>
#include <string.h>

#define MAX_ERRORS 16 /* of earlier answers, in a row */
#define JOINED     8  /* messages at a time, where each may be 64 datagrams */

/* By a unix socket anybody may pass descriptors, which where there is no room
 * for control data the kernel does not even install: see unix(7). */
static void reset_message(const struct evt_udp_socket *sock, struct msghdr *msg)
{
	msg->msg_namelen = sizeof(union evt_udp_addr);
	msg->msg_controllen = sock->port == -1 ? 0 : EVT_UDP_CONTROL;
	msg->msg_flags = 0;
}

/* The kernel counts one byte more of a path that leaves no room for its NUL,
 * and does not take that back. */
static socklen_t name_len(const struct evt_udp_socket *sock, socklen_t len)
{
	socklen_t most = sizeof(struct sockaddr_un);

	return sock->port == -1 && len > most ? most : len;
}

void evt_udp_prepare_(struct evt_udp_socket *sock)
{
	struct evt_udp_in *in = &sock->in;
	int i;

	for (i = 0; i < EVT_UDP_BATCH; i++) {
		struct msghdr *msg = &in->messages[i].msg_hdr;

		in->parts[i].iov_base = in->bytes + (size_t)i * EVT_UDP_STRIDE;
		in->parts[i].iov_len = EVT_UDP_BYTES;
		in->locals[i] = sock->bound; /* the port is right */
		msg->msg_iov = &in->parts[i];
		msg->msg_iovlen = 1;
		msg->msg_name = &in->senders[i];
		msg->msg_control = in->control[i];
		reset_message(sock, msg);
	}
	in->takes = EVT_UDP_BATCH;
}

/* Drops */

/* all is how many there were since the socket was opened, modulo 2^32. */
static void note_dropped(struct evt_udp_socket *sock, uint32_t all)
{
	evt_count_(&evt_udp_counters_(sock)->datagrams_dropped,
		all - sock->dropped);
	sock->dropped = all;
}

/* Each datagram says what was dropped before it: this is of those after. */
void evt_udp_count_dropped_(struct evt_udp_socket *sock)
{
	uint32_t memory[SK_MEMINFO_VARS];
	socklen_t len = sizeof(memory);

	if (sock->port != -1 &&
		getsockopt(atomic_load(&sock->fd), SOL_SOCKET, SO_MEMINFO,
			memory, &len) == 0 &&
		len == sizeof(memory))
		note_dropped(sock, memory[SK_MEMINFO_DROPS]);
}

/* What was sent before */

void evt_udp_take_errors_(struct evt_udp_socket *sock)
{
	struct mmsghdr errors[MAX_ERRORS];
	int nr;

	memset(errors, 0, sizeof(errors));
	nr = recvmmsg(atomic_load(&sock->fd), errors, MAX_ERRORS,
		MSG_ERRQUEUE | MSG_DONTWAIT, NULL);
	if (nr > 0)
		evt_count_(&evt_udp_counters_(sock)->answer_errors,
			(unsigned long)nr);
}

/* Handing over */

static void hand_over(struct evt_udp_socket *sock)
{
	struct evt_udp_in *in = &sock->in;

	if (in->nr == 0)
		return;
	evt_count_(
		&evt_udp_counters_(sock)->datagrams_in, (unsigned long)in->nr);
	sock->in_callback = true;
	sock->setup->on_datagrams(sock, in->batch, in->nr, sock->setup->arg);
	sock->in_callback = false;
	in->nr = 0;
	evt_udp_flush_(sock);
}

/* A sender that cannot be answered, or whose answer would come back to us: each
 * worker has one of all sockets. */
static bool is_refused(
	struct evt_udp_socket *sock, const union evt_udp_addr *sender)
{
	const struct evt_udp_socket *other;
	in_port_t port = sender->in.sin_port; /* in one place in both */

	if (port == 0)
		return true;
	for (other = sock->worker->udp_sockets; other; other = other->next)
		if (other->port == ntohs(port) &&
			evt_udp_has_address_(sock, other, &sender->sa))
			return true;
	return false;
}

/* What the control data says. */
struct said {
	const struct sockaddr *local;
	socklen_t local_len;
	size_t each; /* of a message of several datagrams; or 0 */
};

static void note_local(struct evt_udp_socket *sock, int i,
	const struct cmsghdr *cmsg, struct said *said)
{
	union evt_udp_addr *local = &sock->in.locals[i];

	said->local = &local->sa;
	if (cmsg->cmsg_level == IPPROTO_IP) {
		struct in_pktinfo info;

		/* spec_dst is ours also where a group was addressed. */
		memcpy(&info, CMSG_DATA(cmsg), sizeof(info));
		local->in.sin_addr = info.ipi_spec_dst;
		said->local_len = sizeof(local->in);
	} else {
		struct in6_pktinfo info;

		memcpy(&info, CMSG_DATA(cmsg), sizeof(info));
		local->in6.sin6_addr = info.ipi6_addr;
		local->in6.sin6_scope_id = IN6_IS_ADDR_LINKLOCAL(
						   &info.ipi6_addr)
			? info.ipi6_ifindex
			: 0;
		said->local_len = sizeof(local->in6);
	}
}

static struct said listen_to(
	struct evt_udp_socket *sock, int i, struct msghdr *msg)
{
	struct said said = {.local = &sock->bound.sa,
		.local_len = name_len(sock, sock->bound_len)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg);
	uint32_t number;

	for (; cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		int type = cmsg->cmsg_type;

		if ((cmsg->cmsg_level == IPPROTO_IP && type == IP_PKTINFO) ||
			(cmsg->cmsg_level == IPPROTO_IPV6 &&
				type == IPV6_PKTINFO)) {
			note_local(sock, i, cmsg, &said);
			continue;
		}
		memcpy(&number, CMSG_DATA(cmsg), sizeof(number));
		if (cmsg->cmsg_level == SOL_SOCKET && type == SO_RXQ_OVFL)
			note_dropped(sock, number);
		else if (cmsg->cmsg_level == IPPROTO_UDP && type == UDP_GRO)
			said.each = number;
	}
	return said;
}

/* The datagrams of one message, or the one that it is: how many bytes. */
static size_t take_message(struct evt_udp_socket *sock, int i, bool *joined)
{
	struct evt_udp_in *in = &sock->in;
	struct msghdr *msg = &in->messages[i].msg_hdr;
	size_t left = in->messages[i].msg_len;
	size_t max = sock->setup->max_input;
	const char *data = in->parts[i].iov_base;
	struct said said = listen_to(sock, i, msg);
	size_t each = said.each > 0 ? said.each : left;
	unsigned long refused = 0;
	bool refuse = sock->port != -1 && is_refused(sock, &in->senders[i]);

	*joined = *joined || said.each > 0;
	do {
		struct evt_datagram *it = &in->batch[in->nr];
		size_t len = left < each ? left : each;

		*it = (struct evt_datagram){.data = data,
			.len = len < max ? len : max,
			.sender = msg->msg_namelen ? msg->msg_name : NULL,
			.sender_len = name_len(sock, msg->msg_namelen),
			.local = said.local,
			.local_len = said.local_len,
			.truncated = len > max || msg->msg_flags & MSG_TRUNC};
		in->answered[in->nr] = 0;
		refused += refuse;
		if (!refuse && ++in->nr == EVT_UDP_BATCH)
			hand_over(sock);
		data += len;
		left -= len;
	} while (left > 0);
	if (refused > 0)
		evt_count_(
			&evt_udp_counters_(sock)->datagrams_refused, refused);
	return in->messages[i].msg_len;
}

/* Reading */

/* Whatever an ICMP message can be: anybody may forge one. */
bool evt_udp_is_of_answer_(int error)
{
	switch (error) {
	case ECONNREFUSED:
	case EHOSTUNREACH:
	case ENETUNREACH:
	case EHOSTDOWN:
	case ENONET:
	case ENOPROTOOPT:
	case EPROTO:
	case EACCES:
	case EMSGSIZE:
	case EOPNOTSUPP:
		return true;
	default:
		return false;
	}
}

/* recvmmsg(2) says of an error of an earlier answer instead of reading. */
static int read_batch(struct evt_udp_socket *sock)
{
	int fd = atomic_load_explicit(&sock->fd, memory_order_relaxed);
	int tries;
	int nr;

	for (tries = 0; tries < MAX_ERRORS; tries++) {
		nr = recvmmsg(fd, sock->in.messages, (unsigned)sock->in.takes,
			MSG_DONTWAIT, NULL);
		if (nr >= 0)
			return nr;
		if (errno != EINTR && !evt_udp_is_of_answer_(errno))
			return -1;
	}
	return -1;
}

static void fail(struct evt_udp_socket *sock, int error)
{
	struct evt_udp_setup *setup = sock->setup;

	switch (error) {
	case EAGAIN:
		break;
	case EBADF:
	case ENOTSOCK:
	case EINVAL:
	case EFAULT:
	case ENOTCONN:
		evt_fail_(error, "receiving on %s has ended", sock->where);
		evt_udp_close_(sock, false);
		setup->on_broken(setup, error);
		break;
	default:
		if (!sock->fails)
			evt_fail_(error, "receiving on %s pauses", sock->where);
		sock->fails = true;
		evt_udp_pause_(sock);
	}
}

void evt_udp_end_(struct evt_udp_socket *sock)
{
	fail(sock, ENOTCONN);
}

bool evt_udp_receive_(struct evt_udp_socket *sock)
{
	struct evt_udp_in *in = &sock->in;
	int nr = read_batch(sock);
	bool joined = false;
	size_t bytes = 0;
	int i;

	if (nr == -1) {
		fail(sock, errno);
		return false;
	}
	sock->fails = false;
	for (i = 0; i < nr; i++) {
		bytes += take_message(sock, i, &joined);
		reset_message(sock, &in->messages[i].msg_hdr);
	}
	/* Else a turn could be long. */
	in->takes = joined ? JOINED : EVT_UDP_BATCH;
	evt_count_(&evt_udp_counters_(sock)->bytes_in, bytes);
	hand_over(sock);
	return nr > 0;
}
