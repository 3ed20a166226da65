/*
 * evt-udp.c: a socket of datagrams on its worker, from its first wait to its
 * end, and the calls of evt-udp.h.
 *
 * It is waited for beside the worker's pipe, level-triggered: each time it is
 * read once, up to a batch, and if there is more, the others have their turn
 * first.
 */
#include "evt-udp-internal.h"
#include "evt-log-internal.h"
#include "evt-net-internal.h"

#include <errno.h>
#include <event2/event.h>
#include <limits.h>
#include <linux/filter.h>
#include <unistd.h>

#define AWAITED     (uint32_t)(EPOLLIN | EPOLLRDHUP) /* shut by another */
#define PAUSE_US    100000
#define LAST_PASSES 256 /* of a batch each, when it is closed */

/* Waiting */

static int await(struct evt_udp_socket *sock)
{
	return evt_worker_add_watch_(
		sock->worker, atomic_load(&sock->fd), &sock->watch, AWAITED);
}

int evt_udp_await_room_(struct evt_udp_socket *sock, bool wanted)
{
	if (!sock->resume || sock->paused)
		return -1;
	return evt_worker_change_watch_(sock->worker, atomic_load(&sock->fd),
		&sock->watch, wanted ? AWAITED | EPOLLOUT : AWAITED);
}

void evt_udp_pause_(struct evt_udp_socket *sock)
{
	if (sock->paused || !sock->resume ||
		evt_timer_add_(sock->resume, PAUSE_US / 1000) == -1)
		return;
	evt_worker_drop_watch_(sock->worker, atomic_load(&sock->fd));
	sock->paused = true;
}

static void go_on(struct evt_udp_socket *sock)
{
	const struct timeval delay = {.tv_usec = PAUSE_US};

	if (await(sock) == -1) {
		event_add(sock->resume, &delay);
		return;
	}
	sock->paused = false;
	evt_udp_send_unsent_(sock);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	struct evt_udp_socket *sock = arg;
	int state = evt_callback_begin_(sock->worker);

	(void)fd;
	(void)what;
	if (sock->resume && sock->paused)
		go_on(sock);
	evt_callback_end_(sock->worker, state);
}

static void on_ready(struct evt_watch *watch, uint32_t events)
{
	struct evt_udp_socket *sock = (struct evt_udp_socket *)(void *)watch;
	struct evt_worker *worker = sock->worker;

	/* Or what came before it in the same wait has ended it. */
	if (!sock->resume || sock->paused)
		return;
	evt_turn_begin_(worker);
	if (events & EPOLLERR)
		evt_udp_take_errors_(sock);
	if (events & EPOLLOUT)
		evt_udp_send_unsent_(sock);
	if (events & (EPOLLIN | EPOLLERR))
		evt_udp_receive_(sock);
	if (events & (EPOLLRDHUP | EPOLLHUP) && sock->resume)
		evt_udp_end_(sock);
	evt_turn_end_(worker);
}

int evt_udp_begin_(struct evt_udp_socket *sock)
{
	struct evt_worker *worker = sock->worker;

	errno = ENOMEM; /* what libevent does not say */
	sock->watch.on_ready = on_ready;
	sock->resume = event_new(worker->base, -1, 0, on_resume, sock);
	if (!sock->resume)
		return -1;
	if (evt_timer_reserve_(sock->resume) == -1 || await(sock) == -1) {
		event_free(sock->resume);
		sock->resume = NULL;
		return -1;
	}
	sock->next = worker->udp_sockets;
	worker->udp_sockets = sock;
	return 0;
}

void evt_udp_stop_waiting_(struct evt_udp_socket *sock)
{
	struct evt_udp_socket **link = &sock->worker->udp_sockets;

	if (!sock->resume)
		return;
	while (*link != sock)
		link = &(*link)->next;
	*link = sock->next;
	if (!sock->paused)
		evt_worker_drop_watch_(sock->worker, atomic_load(&sock->fd));
	event_free(sock->resume);
	sock->resume = NULL;
}

/* From now on the kernel drops what comes, and counts it. */
static bool take_no_more(struct evt_udp_socket *sock)
{
	struct sock_filter none = BPF_STMT(BPF_RET | BPF_K, 0);
	const struct sock_fprog filter = {.len = 1, .filter = &none};

	return sock->port != -1 &&
		setsockopt(atomic_load(&sock->fd), SOL_SOCKET, SO_ATTACH_FILTER,
			&filter, sizeof(filter)) == 0;
}

/* The kernel would throw away what waits in the socket. Where it goes on
 * taking, not for ever. */
static void hand_over_the_rest(struct evt_udp_socket *sock)
{
	int passes = take_no_more(sock) ? INT_MAX : LAST_PASSES;

	while (passes-- > 0 && evt_udp_receive_(sock))
		;
}

/* As long as the kernel takes some. */
static void send_what_waits(struct evt_udp_socket *sock)
{
	size_t before;

	do {
		before = sock->unsent;
		evt_udp_send_unsent_(sock);
	} while (sock->unsent > 0 && sock->unsent < before);
}

void evt_udp_shut_(struct evt_udp_socket *sock)
{
	int fd = atomic_exchange(&sock->fd, -1);

	if (fd != -1)
		close(fd);
}

void evt_udp_close_(struct evt_udp_socket *sock, bool last)
{
	if (last && atomic_load(&sock->fd) != -1) {
		hand_over_the_rest(sock);
		send_what_waits(sock);
		evt_udp_count_dropped_(sock);
	}
	/* Or it has failed just now. */
	evt_udp_stop_waiting_(sock);
	evt_udp_drop_unsent_(sock);
	evt_udp_forget_ours_(sock);
	evt_udp_shut_(sock);
}

void evt_udp_forget_senders_(struct evt_worker *worker)
{
	evt_known_free_(worker->known);
	worker->known = NULL;
}

/* evt-udp.h */

int evt_udp_check_(const struct evt_udp_socket *sock, const char *call)
{
	if (evt_forked_())
		return evt_fail_(EPERM, "%s in a forked child", call);
	if (!sock)
		return evt_fail_(EINVAL, "%s without a socket", call);
	if (evt_thread_self_() != sock->worker)
		return evt_fail_(
			EINVAL, "%s on another thread than the socket's", call);
	return 0;
}

/* 0, or -1 if what is to be sent cannot be. */
static int check_data(struct evt_udp_socket *sock, const char *call,
	const void *data, size_t len)
{
	if (evt_udp_check_(sock, call) == -1)
		return -1;
	if (!data && len > 0)
		return evt_fail_(EINVAL, "%s of NULL", call);
	if (atomic_load_explicit(&sock->fd, memory_order_relaxed) != -1)
		return 0;
	errno = ENOTCONN;
	return -1;
}

/* True if the sender was validated, or need not be. */
static bool is_trusted(struct evt_udp_socket *sock, const struct sockaddr *addr)
{
	struct evt_worker *worker = sock->worker;

	if (sock->setup->amplification == -1)
		return true;
	return worker->known &&
		evt_known_has_(worker->known, addr, evt_now_ms_());
}

static int refuse(struct evt_udp_socket *sock)
{
	evt_count_(&evt_udp_counters_(sock)->answers_refused, 1);
	errno = EPERM;
	return -1;
}

/* To whoever it is, but the sender of a datagram that is in the batch. */
static int put_to(struct evt_udp_socket *sock, const struct sockaddr *to,
	socklen_t to_len, const struct sockaddr *from, const void *data,
	size_t len)
{
	if (evt_udp_check_to_(sock, to, &to_len, len) == -1)
		return -1;
	if (!is_trusted(sock, to))
		return refuse(sock);
	return evt_udp_put_(sock, to, to_len, false, from, data, len);
}

int evt_udp_reply(struct evt_udp_socket *sock,
	const struct evt_datagram *datagram, const void *data, size_t len)
{
	struct evt_udp_in *in;
	size_t *answered;
	uint64_t limit;
	bool is_here;

	if (check_data(sock, "evt_udp_reply", data, len) == -1)
		return -1;
	if (!datagram)
		return evt_fail_(EINVAL, "evt_udp_reply without a datagram");
	if (datagram->sender_len == 0 || !datagram->sender) {
		errno = EDESTADDRREQ;
		return -1;
	}
	in = &sock->in;
	is_here = sock->in_callback && datagram >= in->batch &&
		datagram < in->batch + in->nr;
	if (!is_here)
		return put_to(sock, datagram->sender, datagram->sender_len,
			datagram->local, data, len);
	answered = &in->answered[datagram - in->batch];
	limit = (uint64_t)sock->setup->amplification * datagram->len;
	if (*answered + len > limit && !is_trusted(sock, datagram->sender))
		return refuse(sock);
	if (evt_udp_put_(sock, datagram->sender, datagram->sender_len, true,
		    datagram->local, data, len) == -1)
		return -1;
	*answered += len;
	return 0;
}

int evt_udp_send(struct evt_udp_socket *sock, const struct sockaddr *to,
	socklen_t to_len, const void *data, size_t len)
{
	if (check_data(sock, "evt_udp_send", data, len) == -1)
		return -1;
	if (!to)
		return evt_fail_(EINVAL, "evt_udp_send without an address");
	return put_to(sock, to, to_len, NULL, data, len);
}

int evt_udp_validated(
	struct evt_udp_socket *sock, const struct sockaddr *sender)
{
	struct evt_worker *worker;

	if (evt_udp_check_(sock, "evt_udp_validated") == -1)
		return -1;
	if (!sender)
		return evt_fail_(EINVAL, "evt_udp_validated without a sender");
	worker = sock->worker;
	if (!worker->known)
		worker->known = evt_known_new_();
	if (!worker->known)
		return evt_fail_(ENOMEM, "evt_udp_validated");
	if (!evt_known_add_(worker->known, sender, evt_now_ms_()))
		return evt_fail_(EINVAL,
			"evt_udp_validated: no address of the internet");
	return 0;
}
