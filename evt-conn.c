/*
 * evt-conn.c: a connection from its first event to its last.
 *
 * It answers by writing at once, and waits for room only after the kernel has
 * said EAGAIN. libevent's bufferevents were measured at 1.3 to 1.5 times the
 * CPU for a small echo, since they wait for room around every answer and read
 * 4,096 bytes at a time, and at 980 bytes for each that is idle.
 */
#include "evt-conn-internal.h"
#include "evt-log-internal.h"
#include "evt-sources-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROUNDS_A_TURN 1000 /* then the rest waits: others have their turn */

/* The home */

static void on_deferred(evutil_socket_t fd, short what, void *arg)
{
	struct evt_home *home = arg;
	int state = evt_callback_begin_(home->worker);

	(void)fd;
	(void)what;
	home->is_deferred = false;
	evt_home_recall_(home);
	evt_callback_end_(home->worker, state);
}

int evt_home_init_(struct evt_worker *worker)
{
	struct evt_home *home;

	/* The buffers are not touched before they are used. */
	home = malloc(sizeof(*home));
	if (!home)
		return -1;
	memset(home, 0, offsetof(struct evt_home, memory));
	home->gather = home->memory + EVT_PAGE -
		(uintptr_t)home->memory % EVT_PAGE;
	home->buffer = home->gather + EVT_GATHER_BYTES;
	home->worker = worker;
	evt_slots_init_(&home->slots, sizeof(struct evt_conn));
	event_assign(&home->deferred, worker->base, -1, 0, on_deferred, home);
	errno = ENOMEM; /* what libevent does not say */
	if (evt_timer_reserve_(&home->deferred) == -1 ||
		evt_home_init_time_(home) == -1) {
		free(home);
		return -1;
	}
	worker->state = home;
	return 0;
}

/* Connections that are left have lost their worker: nobody is to be told. */
void evt_home_release_(struct evt_worker *worker)
{
	struct evt_home *home = worker->state;
	struct evt_conn *conn;

	if (!home)
		return;
	while ((conn = evt_slots_next_(&home->slots, 0))) {
		conn->flags |= EVT_CONN_CLOSED;
		evt_conn_dispose_(conn);
	}
	evt_done_call_(&home->done);
	event_del(&home->deferred);
	evt_home_end_time_(home);
	evt_slots_free_(&home->slots);
	free(home);
	worker->state = NULL;
}

/* Beginning */

struct evt_conn *evt_conn_new_(struct evt_home *home, struct evt_setup *setup)
{
	struct evt_conn *conn = evt_slots_take_(&home->slots);

	if (!conn)
		return NULL;
	home->worker->has_conns = true;
	conn->home = home;
	conn->setup = setup;
	conn->idle_ms = setup->idle_ms;
	conn->moved_ms = conn->opened_ms = home->worker->now_ms;
	conn->fd = -1;
	return conn;
}

void evt_conn_open_(struct evt_conn *conn, atomic_ulong *counter)
{
	struct evt_setup *setup = conn->setup;

	evt_count_(counter, 1);
	evt_count_(&evt_conn_counters_(conn)->open, 1);
	conn->moved_ms = conn->opened_ms = evt_home_now_ms_(conn->home);
	if (setup->lifetime_ms > 0 && !(conn->flags & EVT_CONN_HAS_DEADLINE)) {
		conn->deadline_ms = conn->opened_ms +
			(uint32_t)setup->lifetime_ms;
		conn->flags |= EVT_CONN_HAS_DEADLINE;
	}
	evt_conn_schedule_(conn);
	if (setup->handlers.on_open)
		setup->handlers.on_open(conn, setup->arg);
	evt_conn_touch_(conn);
}

int evt_conn_accept_(struct evt_worker *worker, int fd, struct evt_setup *setup,
	uint32_t source)
{
	struct evt_home *home = worker->state;
	struct evt_conn *conn = home ? evt_conn_new_(home, setup) : NULL;

	if (!conn)
		return -1;
	conn->fd = fd;
	conn->source = source & EVT_SOURCE_MAX;
	evt_conn_open_(conn, &worker->counters.opened);
	/* Often its first bytes are there, and it may be all over before
	 * anything has to be waited for. */
	evt_conn_read_(conn, false);
	if (home->draining)
		evt_conn_tell_stop_(conn);
	return 0;
}

/* Marking */

static void defer(struct evt_home *home)
{
	home->is_deferred = true;
	event_active(&home->deferred, EV_TIMEOUT, 1);
}

void evt_conn_touch_(struct evt_conn *conn)
{
	struct evt_home *home = conn->home;

	if (conn->flags & (EVT_CONN_TOUCHED | EVT_CONN_CLOSED))
		return;
	conn->flags |= EVT_CONN_TOUCHED;
	conn->next_touched = NULL;
	if (home->last_touched)
		home->last_touched->next_touched = conn;
	else
		home->first_touched = conn;
	home->last_touched = conn;
	if (home->worker->depth > 0 || home->is_deferred)
		return;
	defer(home);
}

void evt_conn_fail_(struct evt_conn *conn, enum evt_reason reason, int error)
{
	if (conn->flags & (EVT_CONN_ENDED | EVT_CONN_CLOSED))
		return;
	conn->flags |= EVT_CONN_ENDED;
	/* Half an answer with a clean end would pass for a whole one. */
	if (reason == EVT_REASON_FAILED)
		conn->flags |= EVT_CONN_RESET;
	conn->reason = (unsigned)reason & 7u;
	conn->error = (unsigned)error & 0xffu;
	evt_conn_touch_(conn);
}

void evt_conn_break_(struct evt_conn *conn, int error)
{
	switch (error) {
	case EPIPE:
	case ECONNRESET:
	case ETIMEDOUT:
	case EHOSTUNREACH:
	case ENETUNREACH:
	case ENETDOWN:
	case EHOSTDOWN:
	case ECONNREFUSED:
		evt_conn_fail_(conn, EVT_REASON_RESET, error);
		break;
	default:
		evt_conn_fail_(conn, EVT_REASON_FAILED, error);
	}
}

/* Ending */

static void release_slot(struct evt_conn *conn)
{
	struct evt_setup *setup = conn->setup;
	struct evt_home *home = conn->home;

	setup->on_gone(setup, conn->source);
	evt_slots_give_(&home->slots, &conn->slot);
	home->worker->has_conns = home->slots.nr_used > 0;
	evt_pool_nudge_(home->worker->pool);
}

/* No timer or memory is left, but for the struct, which may go on reading. */
static void strip(struct evt_conn *conn)
{
	struct evt_home *home = conn->home;

	if (home->gatherer == conn)
		home->gatherer = NULL;
	evt_wheel_remove_(&home->wheel, &conn->timer);
	if (conn->unsent) {
		conn->flags &= ~(uint32_t)EVT_CONN_CONNECTING;
		evt_output_clear_(conn->unsent, &home->done);
		evt_conn_free_unsent_(conn);
	}
	free(conn->input);
	conn->input = NULL;
}

void evt_conn_dispose_(struct evt_conn *conn)
{
	const struct linger at_once = {.l_onoff = 1};
	int fd = conn->fd;

	strip(conn);
	evt_conn_end_lingering_(conn);
	/* What is closed is waited for no more, unless a forked child has it
	 * open as well: see epoll(7). */
	if (atomic_load_explicit(&evt_has_forked_, memory_order_relaxed))
		(void)evt_conn_await_(conn, 0);
	if (conn->flags & EVT_CONN_RESET)
		setsockopt(
			fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	/* Or the peer would wait for that child to end. */
	if (fd != -1 &&
		atomic_load_explicit(&evt_has_forked_, memory_order_relaxed))
		shutdown(fd, SHUT_RDWR);
	if (fd != -1)
		close(fd);
	release_slot(conn);
}

static atomic_ulong *counter_of(struct evt_conn *conn, enum evt_reason reason)
{
	struct evt_counters *counters = evt_conn_counters_(conn);

	switch (reason) {
	case EVT_REASON_PEER:
		return &counters->closed_peer;
	case EVT_REASON_OURS:
		return &counters->closed_ours;
	case EVT_REASON_RESET:
		return &counters->closed_reset;
	case EVT_REASON_IDLE:
		return &counters->closed_idle;
	case EVT_REASON_DEADLINE:
		return &counters->closed_deadline;
	case EVT_REASON_OVERFLOW:
		return &counters->closed_overflow;
	case EVT_REASON_STOPPED:
		return &counters->closed_stopped;
	default:
		return &counters->closed_failed;
	}
}

static void count_end(struct evt_conn *conn, enum evt_reason reason)
{
	struct evt_counters *counters = evt_conn_counters_(conn);
	struct evt_pool *pool = conn->home->worker->pool;

	if (conn->flags & EVT_CONN_CONNECTING) {
		evt_count_(&counters->connects_failed, 1);
		return;
	}
	evt_count_(counter_of(conn, reason), 1);
	evt_count_(&counters->open, (unsigned long)-1);
	evt_count_(&conn->home->worker->ended, 1);
	if (!conn->home->draining)
		return;
	if (conn->flags & EVT_CONN_RESET)
		atomic_fetch_add(&pool->drained.aborted, 1);
	else if (conn->flags & EVT_CONN_STOP_TOLD)
		atomic_fetch_add(&pool->drained.finished, 1);
	else
		atomic_fetch_add(&pool->drained.idle, 1);
}

static void end(struct evt_conn *conn, enum evt_reason reason)
{
	const struct evt_handlers *handlers = &conn->setup->handlers;
	struct evt_home *home = conn->home;

	conn->flags |= EVT_CONN_CLOSED;
	count_end(conn, reason);
	strip(conn);
	evt_done_call_(&home->done);
	if (handlers->on_close)
		handlers->on_close(conn, reason, conn->setup->arg);
	if (!evt_conn_linger_(conn))
		evt_conn_dispose_(conn);
}

/* Settling */

static void finish_stream(struct evt_conn *conn)
{
	if (!(conn->flags & EVT_CONN_FINISH) || conn->flags & EVT_CONN_FINISHED)
		return;
	conn->flags |= EVT_CONN_FINISHED;
	if (shutdown(conn->fd, SHUT_WR) == -1)
		evt_conn_break_(conn, errno == ENOTCONN ? ECONNRESET : errno);
}

static void call_what_is_due(struct evt_conn *conn)
{
	const struct evt_setup *setup = conn->setup;

	if (conn->flags & EVT_CONN_DRAINED) {
		conn->flags &= ~(uint32_t)EVT_CONN_DRAINED;
		if (setup->handlers.on_drain && !(conn->flags & EVT_CONN_OVER))
			setup->handlers.on_drain(conn, setup->arg);
	}
	if (conn->flags & EVT_CONN_RESUMED) {
		conn->flags &= ~(uint32_t)EVT_CONN_RESUMED;
		evt_conn_go_on_(conn);
	}
}

/* LATER: its turn comes by the timer, when the others have had theirs. */
static void set_aside(struct evt_conn *conn)
{
	struct evt_home *home = conn->home;

	conn->flags |= EVT_CONN_TOUCHED;
	conn->next_touched = home->first_later;
	home->first_later = conn;
}

void evt_home_recall_(struct evt_home *home)
{
	struct evt_conn *conn;

	while ((conn = home->first_later)) {
		home->first_later = conn->next_touched;
		conn->flags &= ~(uint32_t)(EVT_CONN_TOUCHED | EVT_CONN_LATER);
		conn->flags |= EVT_CONN_RESUMED;
		evt_conn_touch_(conn);
	}
}

static void settle(struct evt_conn *conn)
{
	if (!(conn->flags & EVT_CONN_OVER))
		call_what_is_due(conn);
	if (conn->flags & EVT_CONN_TOUCHED)
		return; /* it is on the list again */
	if (conn->flags & EVT_CONN_ENDED) {
		end(conn, (enum evt_reason)conn->reason);
		return;
	}
	if (conn->flags & EVT_CONN_CONNECTING)
		return;
	if (evt_conn_is_flushed_(conn)) {
		evt_conn_free_unsent_(conn);
		if (conn->flags & EVT_CONN_CLOSING) {
			end(conn, (enum evt_reason)conn->reason);
			return;
		}
		finish_stream(conn);
	} else if (conn->home->gatherer == conn) {
		evt_conn_touch_(conn); /* again, when that is sent */
		return;
	}
	if (conn->flags & EVT_CONN_LATER) {
		set_aside(conn);
		return;
	}
	evt_conn_update_waits_(conn);
	if (conn->home->draining && evt_conn_is_idle_(conn) &&
		!conn->setup->handlers.on_stop)
		evt_conn_fail_(conn, EVT_REASON_STOPPED, 0);
}

static struct evt_conn *next_touched(struct evt_home *home)
{
	struct evt_conn *conn = home->first_touched;

	if (!conn)
		return NULL;
	home->first_touched = conn->next_touched;
	if (!home->first_touched)
		home->last_touched = NULL;
	conn->flags &= ~(uint32_t)EVT_CONN_TOUCHED;
	return conn;
}

void evt_home_settle_(struct evt_worker *worker)
{
	struct evt_home *home = worker->state;
	struct evt_conn *conn;
	const struct timeval at_once = {0};
	int rounds = 0;

	do {
		if (home->gatherer)
			evt_home_flush_(home);
		evt_done_call_(&home->done);
		conn = next_touched(home);
		if (conn)
			settle(conn);
	} while ((conn || home->gatherer || home->done.first) &&
		++rounds < ROUNDS_A_TURN);
	/* After the others, so by a timer, whose place is reserved. */
	if ((rounds == ROUNDS_A_TURN || home->first_later) &&
		!home->is_deferred)
		home->is_deferred = event_add(&home->deferred, &at_once) == 0;
	if (home->first_lingering)
		evt_home_look_at_line_(home);
	if (home->draining)
		evt_home_report_(home);
}

/* evt-conn.h */

const char *evt_reason_name(enum evt_reason reason)
{
	static const char *const names[] = {"peer", "ours", "reset", "idle",
		"deadline", "overflow", "stopped", "failed"};

	if ((unsigned)reason >= sizeof(names) / sizeof(names[0]))
		return "unknown";
	return names[reason];
}

int evt_conn_check_(const struct evt_conn *conn, const char *call)
{
	if (evt_forked_())
		return evt_fail_(EPERM, "%s in a forked child", call);
	if (!conn)
		return evt_fail_(EINVAL, "%s without a connection", call);
	if (evt_thread_self_() != conn->home->worker)
		return evt_fail_(EINVAL,
			"%s on another thread than the connection's", call);
	return 0;
}

void evt_conn_close(struct evt_conn *conn)
{
	if (evt_conn_check_(conn, "evt_conn_close") == -1 ||
		conn->flags & EVT_CONN_OVER)
		return;
	if (conn->flags & EVT_CONN_CONNECTING) {
		evt_conn_fail_(conn, EVT_REASON_OURS, 0);
		return;
	}
	if (!(conn->flags & EVT_CONN_TIMED_OUT))
		conn->reason = conn->flags & EVT_CONN_EOF_SEEN
			? EVT_REASON_PEER
			: EVT_REASON_OURS;
	conn->flags |= EVT_CONN_CLOSING;
	conn->want = 0;
	evt_conn_touch_(conn);
}

void evt_conn_abort(struct evt_conn *conn)
{
	if (evt_conn_check_(conn, "evt_conn_abort") == -1 ||
		conn->flags & (EVT_CONN_ENDED | EVT_CONN_CLOSED))
		return;
	conn->flags |= EVT_CONN_RESET;
	evt_conn_fail_(conn,
		conn->flags & EVT_CONN_TIMED_OUT ? (enum evt_reason)conn->reason
						 : EVT_REASON_OURS,
		0);
}

int evt_conn_finish(struct evt_conn *conn)
{
	if (evt_conn_check_(conn, "evt_conn_finish") == -1)
		return -1;
	if (conn->flags & EVT_CONN_OVER) {
		errno = ENOTCONN;
		return -1;
	}
	conn->flags |= EVT_CONN_FINISH;
	evt_conn_touch_(conn);
	return 0;
}

int evt_conn_error(struct evt_conn *conn)
{
	if (evt_conn_check_(conn, "evt_conn_error") == -1)
		return -1;
	return (int)conn->error;
}

static int get_name(struct evt_conn *conn, struct sockaddr_storage *addr,
	int (*ask)(int, struct sockaddr *, socklen_t *), const char *call)
{
	socklen_t len = sizeof(*addr);

	if (evt_conn_check_(conn, call) == -1)
		return -1;
	if (!addr)
		return evt_fail_(EINVAL, "%s without an address", call);
	memset(addr, 0, sizeof(*addr));
	if (ask(conn->fd, (struct sockaddr *)addr, &len) == -1)
		addr->ss_family = AF_UNSPEC;
	return 0;
}

static int ask_peer(int fd, struct sockaddr *addr, socklen_t *len)
{
	return getpeername(fd, addr, len);
}

static int ask_local(int fd, struct sockaddr *addr, socklen_t *len)
{
	return getsockname(fd, addr, len);
}

int evt_conn_peer(struct evt_conn *conn, struct sockaddr_storage *addr)
{
	return get_name(conn, addr, ask_peer, "evt_conn_peer");
}

int evt_conn_local(struct evt_conn *conn, struct sockaddr_storage *addr)
{
	return get_name(conn, addr, ask_local, "evt_conn_local");
}

int evt_conn_peer_uid(struct evt_conn *conn, uid_t *uid)
{
	struct ucred peer = {.uid = (uid_t)-1};
	socklen_t len = sizeof(peer);

	if (evt_conn_check_(conn, "evt_conn_peer_uid") == -1)
		return -1;
	if (!uid)
		return evt_fail_(EINVAL, "evt_conn_peer_uid without a uid");
	if (getsockopt(conn->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == -1)
		return evt_fail_(errno, "evt_conn_peer_uid");
	/* Of another kind of socket the kernel says that it is nobody. */
	if (peer.uid == (uid_t)-1)
		return evt_fail_(EOPNOTSUPP, "evt_conn_peer_uid");
	*uid = peer.uid;
	return 0;
}

struct evt_worker *evt_conn_worker(struct evt_conn *conn)
{
	if (conn)
		return conn->home->worker;
	evt_fail_(EINVAL, "evt_conn_worker");
	return NULL;
}

void *evt_conn_data(struct evt_conn *conn)
{
	if (evt_conn_check_(conn, "evt_conn_data") == -1)
		return NULL;
	return conn->data;
}

void evt_conn_set_data(struct evt_conn *conn, void *data)
{
	if (evt_conn_check_(conn, "evt_conn_set_data") == 0)
		conn->data = data;
}
