/*
 * evt-conn-poll.c: what a connection waits for, on its worker's epoll(7).
 *
 * Connections are not events of libevent's: each would cost a struct event of
 * 128 bytes and 60 more in its tables, a system call when it is closed, and a
 * walk through its queues for each event. They are on an epoll instance of the
 * worker's own, beside its pipe and its timer. A worker on whose event_base the
 * program has no event sleeps in epoll_wait(2) itself; else that instance is
 * one event on the base.
 *
 * An event carries the number of the connection's slot and its generation: one
 * that was closed by what came before it in the same batch is not found.
 *
 * Input is waited for edge-triggered: the kernel tells once that bytes came,
 * and need not look at the connection again at the next epoll_wait, which is
 * some 2 % of a small request. So whoever reads must go on until a read is
 * short, or have the kernel look again (EVT_CONN_MORE). After a short read
 * there may yet be an end of the stream, which EPOLLRDHUP announces, or bytes
 * behind urgent ones, where recv(2) stops: EPOLLPRI. On a unix socket it stops
 * behind a descriptor that was passed too: there each read goes to the end.
 */
#include "evt-conn-internal.h"

#include <sys/epoll.h>

#define WAITS (uint32_t)(EVT_CONN_READING | EVT_CONN_WRITING)

/* Above the keys of evt-pool-internal.h. */
static uint64_t key_of(const struct evt_conn *conn)
{
	return ((uint64_t)conn->slot.index + 1) << EVT_GENERATION_BITS |
		conn->slot.generation;
}

static struct evt_conn *conn_of(struct evt_home *home, uint64_t key)
{
	return evt_slots_find_(&home->slots,
		(uint32_t)(key >> EVT_GENERATION_BITS) - 1,
		(uint32_t)key & EVT_GENERATION_MAX);
}

int evt_conn_await_(struct evt_conn *conn, uint32_t wanted)
{
	uint32_t now = conn->flags & WAITS;
	struct epoll_event event = {.data.u64 = key_of(conn)};
	int what = EPOLL_CTL_MOD;

	if (now == wanted && !(conn->flags & EVT_CONN_MORE))
		return 0;
	conn->flags &= ~(uint32_t)EVT_CONN_MORE;
	if ((now | wanted) == 0)
		return 0;
	if (now == 0)
		what = EPOLL_CTL_ADD;
	else if (wanted == 0)
		what = EPOLL_CTL_DEL;
	if (wanted & EVT_CONN_READING)
		event.events |= EPOLLIN | EPOLLRDHUP;
	if (wanted & EVT_CONN_WRITING)
		event.events |= EPOLLOUT;
	else
		event.events |= EPOLLET | EPOLLPRI;
	if (epoll_ctl(conn->home->worker->poll_fd, what, conn->fd, &event) ==
			-1 &&
		wanted != 0)
		return -1;
	conn->flags = (conn->flags & ~WAITS) | wanted;
	return 0;
}

/* An error or a hang-up is found by whatever is tried then. */
static void on_ready(struct evt_conn *conn, uint32_t events)
{
	const uint32_t failed = EPOLLERR | EPOLLHUP;

	bool lingers = conn->flags & EVT_CONN_LINGERING;

	/* First what came: it may lie there unread before a reset. */
	if (events & (EPOLLIN | EPOLLPRI | failed) &&
		conn->flags & EVT_CONN_READING)
		evt_conn_readable_(
			conn, events & (EPOLLRDHUP | EPOLLPRI | failed));
	if (lingers) /* it may be gone, and has nothing to write */
		return;
	if (events & (EPOLLOUT | failed) && conn->flags & EVT_CONN_WRITING) {
		if (conn->flags & EVT_CONN_CONNECTING)
			evt_conn_connecting_(conn);
		else
			evt_conn_send_(conn);
	}
}

void evt_home_on_event_(
	struct evt_worker *worker, uint64_t key, uint32_t events)
{
	struct evt_home *home = worker->state;
	struct evt_conn *conn;

	if (key == EVT_KEY_TIMER) {
		evt_home_tick_(home);
		return;
	}
	conn = conn_of(home, key);
	if (!conn)
		return;
	evt_turn_begin_(worker);
	/* Bytes move before a callback can take long. */
	worker->clock_used = false;
	on_ready(conn, events);
	evt_turn_end_(worker);
}
