/*
 * evt-udp-send.c: sending datagrams.
 *
 * What on_datagrams answers is gathered and goes out in one sendmmsg(2) when it
 * returns: nothing is copied but the address, if it may change. Answers of one
 * size to one peer that follow each other are one message, which the kernel
 * takes apart (UDP_SEGMENT in udp(7)), late, and so goes the way through itself
 * once for all of them.
 *
 * What the kernel does not take is copied and waits for room; then what comes
 * later waits too, or it would overtake. A unix socket has no such queue: it
 * would be one receiver who is full, and the others need not wait for him.
 */
#include "evt-udp-internal.h"
#include "evt-log-internal.h"
#include "evt-net-internal.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>

#define GATHERED     ((size_t)256 << 10) /* bytes, and it is time to send */
#define LONGEST      65507               /* with a header of IPv4, 65,535 */
#define LONGEST_IPV6 65527               /* without that of IPv6 */
#define JOINED_MAX   64    /* datagrams in one message: UDP_MAX_SEGMENTS */
#define JOINED_BYTES 65000 /* and bytes */
#define ROUNDS       16    /* of a batch each, in one turn */
#define APART_MS     10000 /* before joining is tried again */
#define QUIET_MS     1000  /* after a line about what failed */

/* Control data */

static char *add_control(struct msghdr *msg, int level, int type, size_t len)
{
	char *at = (char *)msg->msg_control + msg->msg_controllen;
	struct cmsghdr *cmsg = (struct cmsghdr *)(void *)at;

	cmsg->cmsg_level = level;
	cmsg->cmsg_type = type;
	cmsg->cmsg_len = CMSG_LEN(len);
	msg->msg_controllen += CMSG_SPACE(len);
	return (char *)CMSG_DATA(cmsg);
}

/* From which address. A group's, which is no sender's, the kernel refuses. */
static void add_from(struct msghdr *msg, const struct sockaddr *from)
{
	if (from->sa_family == AF_INET) {
		struct in_pktinfo info = {0};

		info.ipi_spec_dst =
			((const struct sockaddr_in *)(const void *)from)
				->sin_addr;
		memcpy(add_control(msg, IPPROTO_IP, IP_PKTINFO, sizeof(info)),
			&info, sizeof(info));
	} else if (from->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)from;
		struct in6_pktinfo info = {0};

		if (IN6_IS_ADDR_MULTICAST(&in6->sin6_addr))
			return;
		info.ipi6_addr = in6->sin6_addr;
		info.ipi6_ifindex = in6->sin6_scope_id;
		memcpy(add_control(
			       msg, IPPROTO_IPV6, IPV6_PKTINFO, sizeof(info)),
			&info, sizeof(info));
	}
}

/* Sending one, and what to do if that fails */

static void count_sent(
	struct evt_udp_socket *sock, unsigned long nr, unsigned long bytes)
{
	struct evt_counters *counters = evt_udp_counters_(sock);

	evt_count_(&counters->datagrams_out, nr);
	evt_count_(&counters->bytes_out, bytes);
}

static void count_failed(struct evt_udp_socket *sock, unsigned long nr)
{
	evt_count_(&evt_udp_counters_(sock)->sends_failed, nr);
}

/* In a line; but strangers bring this about, each as often as he likes, and by
 * turns: so there is one a second at most. Always -1. */
static int say_failed(struct evt_udp_socket *sock, int error, size_t nr)
{
	int64_t now_ms = evt_now_ms_();

	count_failed(sock, nr);
	errno = error;
	if (now_ms < sock->quiet_until_ms) {
		sock->untold += nr;
		return -1;
	}
	if (sock->untold > 0)
		evt_log_(EVT_LOG_WARN, "sending on %s: %zu more have failed",
			sock->where, sock->untold);
	sock->untold = 0;
	sock->quiet_until_ms = now_ms + QUIET_MS;
	return evt_fail_(error, "sending on %s", sock->where);
}

static ssize_t transmit(struct evt_udp_socket *sock, const struct msghdr *msg)
{
	int fd = atomic_load_explicit(&sock->fd, memory_order_relaxed);
	ssize_t sent;

	do
		sent = sendmsg(fd, msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (sent == -1 && errno == EINTR);
	return sent;
}

/* Without what says how large the parts of a joined one are. */
static size_t control_of_one(const struct msghdr *msg)
{
	const struct cmsghdr *first = CMSG_FIRSTHDR(msg);

	if (!first || first->cmsg_level == IPPROTO_UDP)
		return 0;
	return CMSG_ALIGN(first->cmsg_len);
}

/* Without the address from which it was to leave; false: it has none. */
static bool drop_from(struct msghdr *msg)
{
	size_t len = control_of_one(msg);
	char *control = msg->msg_control;

	if (len == 0)
		return false;
	msg->msg_controllen -= len;
	memmove(control, control + len, msg->msg_controllen);
	return true;
}

/* What the kernel says of an address that is not ours, as a broadcast's is not
 * from which one cannot send; but also of others. */
static bool is_of_from(int error)
{
	return error == EINVAL || error == ENETUNREACH ||
		error == EADDRNOTAVAIL;
}

/* The parts are too long for the device they would go through, or it cannot
 * take them apart. */
static bool is_of_joining(int error)
{
	return error == EINVAL || error == EMSGSIZE || error == EIO ||
		error == EOPNOTSUPP;
}

static size_t transmit_apart(
	struct evt_udp_socket *sock, struct msghdr *msg, bool *is_full);

/* One by one; and if that is better, so from now on, for a while. */
static size_t try_apart(
	struct evt_udp_socket *sock, struct msghdr *msg, bool *is_full)
{
	size_t nr = msg->msg_iovlen;
	size_t len = msg->msg_iov->iov_len;
	size_t failed = transmit_apart(sock, msg, is_full);

	if (failed == 0 && msg->msg_iovlen < nr) {
		sock->joins_below = len;
		sock->joins_again_ms = evt_now_ms_() + APART_MS;
	}
	return failed;
}

/*
 * The second try: what the kernel has said may be of an earlier answer; it may
 * be that we do not have the address that was asked; or that it cannot be sent
 * joined. How many datagrams failed again, and errno why. is_full: there is no
 * room, for what then is left in msg.
 */
static size_t try_otherwise(struct evt_udp_socket *sock, struct msghdr *msg,
	int error, bool *is_full)
{
	ssize_t sent = -1;

	errno = error;
	if (evt_udp_is_of_answer_(error))
		sent = transmit(sock, msg);
	if (sent == -1 && is_of_from(errno) && drop_from(msg))
		sent = transmit(sock, msg);
	if (sent == -1 && is_of_joining(errno) && msg->msg_iovlen > 1)
		return try_apart(sock, msg, is_full);
	*is_full = sent == -1 && errno == EAGAIN;
	if (*is_full)
		return 0;
	if (sent == -1)
		return msg->msg_iovlen;
	count_sent(sock, msg->msg_iovlen, (unsigned long)sent);
	return 0;
}

static size_t transmit_apart(
	struct evt_udp_socket *sock, struct msghdr *msg, bool *is_full)
{
	size_t failed = 0;
	int error = 0;

	for (; msg->msg_iovlen > 0; msg->msg_iov++, msg->msg_iovlen--) {
		struct msghdr one = *msg;
		ssize_t sent;

		one.msg_iovlen = 1;
		one.msg_controllen = control_of_one(msg);
		sent = transmit(sock, &one);
		*is_full = sent == -1 && errno == EAGAIN;
		if (sent != -1)
			count_sent(sock, 1, (unsigned long)sent);
		else if (!*is_full &&
			try_otherwise(sock, &one, errno, is_full) > 0)
			failed++, error = errno;
		if (*is_full)
			break;
	}
	errno = error;
	return failed;
}

/* Those that the kernel did not take */

static int keep(struct evt_udp_socket *sock, const struct msghdr *msg,
	const struct iovec *part)
{
	struct evt_udp_unsent *it = malloc(sizeof(*it) + part->iov_len);

	if (!it)
		return -1;
	it->next = NULL;
	it->len = part->iov_len;
	it->to_len = msg->msg_namelen;
	memcpy(&it->to, msg->msg_name, msg->msg_namelen);
	it->control_len = control_of_one(msg);
	if (it->control_len > 0)
		memcpy(it->control, msg->msg_control, it->control_len);
	if (it->len > 0)
		memcpy(it->bytes, part->iov_base, it->len);
	if (sock->last_unsent)
		sock->last_unsent->next = it;
	else
		sock->first_unsent = it;
	sock->last_unsent = it;
	sock->unsent += sizeof(*it) + it->len;
	return 0;
}

static void take_first(struct evt_udp_socket *sock)
{
	struct evt_udp_unsent *it = sock->first_unsent;

	sock->first_unsent = it->next;
	if (!it->next)
		sock->last_unsent = NULL;
	sock->unsent -= sizeof(*it) + it->len;
	free(it);
}

/* If it cannot be waited for, it is tried again after a while. */
static void await_room(struct evt_udp_socket *sock)
{
	if (sock->first_unsent && evt_udp_await_room_(sock, true) == -1)
		evt_udp_pause_(sock);
}

static bool has_room_for(const struct evt_udp_socket *sock, size_t len)
{
	size_t max = sock->setup->max_output;

	return sock->unsent < max &&
		max - sock->unsent >= sizeof(struct evt_udp_unsent) + len;
}

/* Messages together */

/* How many are done with; the kernel does not take the one after them. */
static int send_messages(struct evt_udp_socket *sock)
{
	struct evt_udp_out *out = &sock->out;
	int fd = atomic_load_explicit(&sock->fd, memory_order_relaxed);
	int done = 0;

	while (done < out->nr_messages) {
		struct mmsghdr *from = &out->messages[done];
		unsigned long bytes = 0;
		unsigned long nr = 0;
		int sent = sendmmsg(fd, from,
			(unsigned)(out->nr_messages - done),
			MSG_DONTWAIT | MSG_NOSIGNAL);
		int i;

		if (sent == -1 && errno == EAGAIN)
			break;
		if (sent == -1 && errno != EINTR) {
			bool is_full = false;
			size_t failed = try_otherwise(
				sock, &from->msg_hdr, errno, &is_full);

			if (failed > 0)
				say_failed(sock, errno, failed);
			if (is_full)
				break;
			done++;
		}
		for (i = 0; i < sent; i++) {
			bytes += from[i].msg_len;
			nr += from[i].msg_hdr.msg_iovlen;
		}
		if (sent > 0)
			count_sent(sock, nr, bytes);
		done += sent > 0 ? sent : 0;
	}
	return done;
}

static void keep_messages(struct evt_udp_socket *sock, int from)
{
	struct evt_udp_out *out = &sock->out;
	int i;

	for (i = from; i < out->nr_messages; i++) {
		struct msghdr *msg = &out->messages[i].msg_hdr;
		size_t j;

		for (j = 0; j < msg->msg_iovlen; j++)
			if (keep(sock, msg, &msg->msg_iov[j]) == -1)
				say_failed(sock, ENOMEM, 1);
	}
	await_room(sock);
}

/* Says into how large parts each message is to be taken apart. */
static void mark_parts(struct evt_udp_out *out)
{
	int i;

	for (i = 0; i < out->nr_messages; i++) {
		struct msghdr *msg = &out->messages[i].msg_hdr;
		uint16_t each;

		if (msg->msg_iovlen == 1)
			continue;
		each = (uint16_t)msg->msg_iov[0].iov_len;
		memcpy(add_control(msg, IPPROTO_UDP, UDP_SEGMENT, sizeof(each)),
			&each, sizeof(each));
	}
}

static void begin_again(struct evt_udp_out *out)
{
	out->nr_messages = out->nr_parts = 0;
	out->bytes = 0;
	out->last_from = NULL;
}

void evt_udp_flush_(struct evt_udp_socket *sock)
{
	struct evt_udp_out *out = &sock->out;
	int done;

	if (out->nr_messages == 0)
		return;
	mark_parts(out);
	/* What a log hook sends meanwhile is not gathered. */
	sock->is_sending = true;
	done = send_messages(sock);
	if (done < out->nr_messages)
		keep_messages(sock, done);
	sock->is_sending = false;
	begin_again(out);
}

/* Gathering */

static bool is_same(const struct sockaddr *a, const struct sockaddr *b,
	socklen_t a_len, socklen_t b_len)
{
	return a == b || (a_len == b_len && memcmp(a, b, a_len) == 0);
}

/* From which address, as far as that has to be said: or NULL. */
static const struct sockaddr *from_of(
	const struct evt_udp_socket *sock, const struct sockaddr *from)
{
	return sock->asks_local ? from : NULL;
}

/* Long ones too. */
static bool may_join_again(struct evt_udp_socket *sock)
{
	if (evt_now_ms_() < sock->joins_again_ms)
		return false;
	sock->joins_below = SIZE_MAX;
	return true;
}

/* Whether it becomes one more part of the last message. */
static bool joins_last(struct evt_udp_socket *sock, const struct sockaddr *to,
	socklen_t to_len, const struct sockaddr *from, size_t len)
{
	const struct evt_udp_out *out = &sock->out;
	const struct msghdr *last;

	if (out->nr_messages == 0 || !sock->joins_parts || len == 0 ||
		(len >= sock->joins_below && !may_join_again(sock)))
		return false;
	last = &out->messages[out->nr_messages - 1].msg_hdr;
	if (last->msg_iov[0].iov_len != len || last->msg_iovlen == JOINED_MAX ||
		(last->msg_iovlen + 1) * len > JOINED_BYTES)
		return false;
	if (!is_same(last->msg_name, to, last->msg_namelen, to_len))
		return false;
	if (!from && !out->last_from)
		return last->msg_controllen == 0;
	if (!from || !out->last_from)
		return false;
	return is_same(from, out->last_from, sock->bound_len, sock->bound_len);
}

static void begin_message(struct evt_udp_socket *sock,
	const struct sockaddr *to, socklen_t to_len, bool keeps,
	const struct sockaddr *from)
{
	struct evt_udp_out *out = &sock->out;
	int i = out->nr_messages++;
	struct msghdr *msg = &out->messages[i].msg_hdr;

	msg->msg_iov = &out->parts[out->nr_parts];
	msg->msg_iovlen = 0;
	msg->msg_name = keeps ? (void *)to : memcpy(&out->names[i], to, to_len);
	msg->msg_namelen = to_len;
	msg->msg_control = out->control[i];
	msg->msg_controllen = 0;
	if (from)
		add_from(msg, from);
	out->last_from = keeps ? from : NULL;
}

/* The last message is not to be joined by others, if it does not stay. */
static void gather(struct evt_udp_socket *sock, const struct sockaddr *to,
	socklen_t to_len, bool keeps, const struct sockaddr *from,
	const void *data, size_t len)
{
	struct evt_udp_out *out = &sock->out;

	if (!joins_last(sock, to, to_len, from, len))
		begin_message(sock, to, to_len, keeps, from);
	out->parts[out->nr_parts++] = (struct iovec){(void *)data, len};
	out->messages[out->nr_messages - 1].msg_hdr.msg_iovlen++;
	out->bytes += len;
}

static bool has_gathered_enough(const struct evt_udp_socket *sock, size_t len)
{
	const struct evt_udp_out *out = &sock->out;

	return out->nr_parts == EVT_UDP_BATCH ||
		(out->nr_parts > 0 &&
			(out->bytes + len > GATHERED ||
				out->bytes + len > sock->setup->max_output));
}

/* At once */

static int send_now(struct evt_udp_socket *sock, struct msghdr *msg)
{
	bool can_wait = sock->port != -1 && sock->resume && !sock->paused;
	ssize_t sent = transmit(sock, msg);
	bool is_full = sent == -1 && errno == EAGAIN;

	if (sent != -1) {
		count_sent(sock, 1, (unsigned long)sent);
		return 0;
	}
	if (!is_full && try_otherwise(sock, msg, errno, &is_full) > 0)
		return say_failed(sock, errno, 1);
	if (!is_full)
		return 0;
	if (!can_wait || !has_room_for(sock, msg->msg_iov->iov_len)) {
		errno = EAGAIN;
		return -1;
	}
	if (keep(sock, msg, msg->msg_iov) == -1)
		return evt_fail_(ENOMEM, "sending on %s", sock->where);
	await_room(sock);
	return 0;
}

/* Behind those that wait. */
static int wait_behind(struct evt_udp_socket *sock, const struct msghdr *msg)
{
	if (!has_room_for(sock, msg->msg_iov->iov_len)) {
		errno = EAGAIN;
		return -1;
	}
	if (keep(sock, msg, msg->msg_iov) == -1)
		return evt_fail_(ENOMEM, "sending on %s", sock->where);
	return 0;
}

static int put_one(struct evt_udp_socket *sock, const struct sockaddr *to,
	socklen_t to_len, const struct sockaddr *from, const void *data,
	size_t len)
{
	_Alignas(struct cmsghdr) char control[EVT_UDP_CONTROL];
	struct iovec part = {(void *)data, len};
	struct msghdr msg = {.msg_name = (void *)to,
		.msg_namelen = to_len,
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control};

	if (from)
		add_from(&msg, from);
	return sock->first_unsent ? wait_behind(sock, &msg)
				  : send_now(sock, &msg);
}

/* Of the socket's kind, whole, and with a port: 0, or an error number. */
static int error_of_to(const struct evt_udp_socket *sock,
	const struct sockaddr *to, socklen_t to_len, size_t len)
{
	sa_family_t family = sock->bound.sa.sa_family;
	const struct sockaddr_in6 *in6 = (const void *)to;
	size_t longest = LONGEST;

	if (to_len < sizeof(to->sa_family))
		return EINVAL;
	if (sock->port == -1 && to->sa_family != AF_UNIX)
		return EAFNOSUPPORT;
	if (sock->port == -1)
		return to_len <= sizeof(struct sockaddr_un) ? 0 : EINVAL;
	if (to->sa_family != family &&
		!(family == AF_INET6 && to->sa_family == AF_INET))
		return EAFNOSUPPORT;
	if (to_len < evt_net_addr_len_(to->sa_family) ||
		evt_net_addr_port_(to) == 0)
		return EINVAL;
	if (to->sa_family == AF_INET6 && !IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
		longest = LONGEST_IPV6;
	return len > longest ? EMSGSIZE : 0;
}

int evt_udp_check_to_(const struct evt_udp_socket *sock,
	const struct sockaddr *to, socklen_t *to_len, size_t len)
{
	int error = error_of_to(sock, to, *to_len, len);

	if (error)
		return evt_fail_(
			error, "sending %zu bytes on %s", len, sock->where);
	/* It may have come with the room there was for it. */
	if (sock->port != -1)
		*to_len = evt_net_addr_len_(to->sa_family);
	return 0;
}

int evt_udp_put_(struct evt_udp_socket *sock, const struct sockaddr *to,
	socklen_t to_len, bool keeps, const struct sockaddr *from,
	const void *data, size_t len)
{
	if (keeps && len > LONGEST &&
		evt_udp_check_to_(sock, to, &to_len, len) == -1)
		return -1;
	from = from_of(sock, from);
	if (!sock->in_callback || sock->is_sending || sock->port == -1)
		return put_one(sock, to, to_len, from, data, len);
	if (has_gathered_enough(sock, len))
		evt_udp_flush_(sock);
	if (sock->first_unsent)
		return put_one(sock, to, to_len, from, data, len);
	gather(sock, to, to_len, keeps, from, data, len);
	return 0;
}

/* When there is room again */

/* Takes the first of those that wait, as many as go out in one call. */
static void load(struct evt_udp_socket *sock)
{
	struct evt_udp_out *out = &sock->out;
	struct evt_udp_unsent *it = sock->first_unsent;

	for (; it && out->nr_messages < EVT_UDP_BATCH; it = it->next) {
		int i = out->nr_messages++;
		struct msghdr *msg = &out->messages[i].msg_hdr;

		out->parts[i] = (struct iovec){it->bytes, it->len};
		msg->msg_iov = &out->parts[i];
		msg->msg_iovlen = 1;
		msg->msg_name = &it->to;
		msg->msg_namelen = it->to_len;
		msg->msg_control = it->control;
		msg->msg_controllen = it->control_len;
	}
}

void evt_udp_send_unsent_(struct evt_udp_socket *sock)
{
	struct evt_udp_out *out = &sock->out;
	int round;

	if (sock->is_sending || !sock->first_unsent)
		return;
	sock->is_sending = true;
	for (round = 0; sock->first_unsent && round < ROUNDS; round++) {
		int nr;
		int done;

		load(sock);
		nr = out->nr_messages;
		done = send_messages(sock);
		begin_again(out);
		for (; done > 0; done--, nr--)
			take_first(sock);
		if (nr > 0)
			break;
	}
	sock->is_sending = false;
	if (sock->first_unsent)
		await_room(sock);
	else
		evt_udp_await_room_(sock, false);
}

void evt_udp_drop_unsent_(struct evt_udp_socket *sock)
{
	unsigned long nr = 0;

	for (; sock->first_unsent; nr++)
		take_first(sock);
	if (nr > 0) {
		count_failed(sock, nr);
		evt_log_(EVT_LOG_WARN,
			"%lu datagrams that waited on %s are lost: it is "
			"closed",
			nr, sock->where);
	}
	begin_again(&sock->out);
	sock->in_callback = sock->is_sending = false;
}
