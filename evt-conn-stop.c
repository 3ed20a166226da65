/*
 * evt-conn-stop.c: the end of all connections of a worker: when the pool stops,
 * when its grace is over, and when the worker has lost its thread.
 */
#include "evt-conn-internal.h"

#include <sys/ioctl.h>

/* A byte that the kernel has got is as good as one that was read. */
static bool has_unread(const struct evt_conn *conn)
{
	int bytes = 0;

	return ioctl(conn->fd, FIONREAD, &bytes) == 0 && bytes > 0;
}

bool evt_conn_is_idle_(const struct evt_conn *conn)
{
	const uint32_t busy = EVT_CONN_CONNECTING | EVT_CONN_PAUSED |
		EVT_CONN_THROTTLED | EVT_CONN_LATER | EVT_CONN_OVER;

	return !(conn->flags & busy) && !conn->input &&
		evt_conn_is_flushed_(conn) &&
		(conn->flags & EVT_CONN_EOF_SEEN || !has_unread(conn));
}

static void cut(struct evt_conn *conn)
{
	if (conn->flags & EVT_CONN_LINGERING) {
		evt_conn_dispose_(conn);
	} else if (!(conn->flags & EVT_CONN_CLOSED)) {
		conn->flags |= EVT_CONN_RESET;
		evt_conn_fail_(conn, EVT_REASON_STOPPED, 0);
	}
}

/* What lies in the kernel is read before it is called idle. */
void evt_conn_tell_stop_(struct evt_conn *conn)
{
	const struct evt_setup *setup = conn->setup;

	if (conn->flags & EVT_CONN_LINGERING)
		evt_conn_hasten_(conn);
	/* One that is connecting is told once it is open. */
	if (conn->flags &
		(EVT_CONN_CLOSED | EVT_CONN_STOP_TOLD | EVT_CONN_CONNECTING))
		return;
	/* Or it comes from a lost worker, when this one had said that it has
	 * none: nobody waits for it any more. */
	if (conn->home->hurried || atomic_load(&conn->home->worker->drained)) {
		cut(conn);
		return;
	}
	if (setup->handlers.on_stop) {
		conn->flags |= EVT_CONN_STOP_TOLD;
		if (!(conn->flags & EVT_CONN_OVER))
			setup->handlers.on_stop(conn, setup->arg);
		return;
	}
	evt_conn_read_(conn, false);
	if (evt_conn_is_idle_(conn))
		evt_conn_fail_(conn, EVT_REASON_STOPPED, 0);
	else
		conn->flags |= EVT_CONN_STOP_TOLD;
}

/* A new connection may come while it goes round: it is told when it opens. */
static void each(struct evt_home *home, void (*fn)(struct evt_conn *))
{
	struct evt_conn *conn = evt_slots_next_(&home->slots, 0);

	while (conn) {
		uint32_t next = conn->slot.index + 1;

		fn(conn);
		conn = evt_slots_next_(&home->slots, next);
	}
}

void evt_home_stop_(struct evt_worker *worker)
{
	struct evt_home *home = worker->state;
	struct evt_pool *pool = worker->pool;

	if (atomic_load(&pool->draining) && !home->draining) {
		home->draining = true;
		/* The boss accepts no more: its last is among these. Tasks
		 * that come later do not keep the pool from stopping. */
		home->inbox_end = worker->batch.taken +
			evt_worker_unread_(worker);
		each(home, evt_conn_tell_stop_);
	}
	if (atomic_load(&pool->hurry)) {
		home->hurried = true;
		each(home, cut);
	}
}

void evt_home_report_(struct evt_home *home)
{
	struct evt_worker *worker = home->worker;

	if (home->slots.nr_used > 0 || atomic_load(&worker->drained) ||
		(ptrdiff_t)(worker->batch.taken - home->inbox_end) < 0)
		return;
	atomic_store(&worker->drained, true);
	evt_pool_wake_boss_(worker->pool);
}

static void lose(struct evt_conn *conn)
{
	/* Or its on_close has ended the thread. */
	if (conn->flags & EVT_CONN_CLOSED)
		evt_conn_dispose_(conn);
	else
		evt_conn_fail_(conn, EVT_REASON_FAILED, ECANCELED);
}

void evt_home_lose_(struct evt_worker *worker)
{
	struct evt_home *home = worker->state;
	int state = evt_callback_begin_(worker);

	evt_home_recall_(home);
	each(home, lose);
	evt_callback_end_(worker, state);
	/* There are no later turns in which the rest would be settled. */
	while (home->first_touched || home->done.first || home->gatherer) {
		state = evt_callback_begin_(worker);
		evt_callback_end_(worker, state);
	}
}
