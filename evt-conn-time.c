/*
 * evt-conn-time.c: timeouts of connections, all on one timer of the worker's.
 *
 * A connection is in the worker's wheel at the time at which its earliest
 * timeout may be over. A byte that moves only notes when it did; whether the
 * connection has been idle for long is looked at when the wheel comes round to
 * it, and then it is put back for the rest. So traffic costs nothing here, and
 * a deadline is a number that no byte changes.
 *
 * The timer is a timerfd(2). With one of libevent's every wait for events would
 * have a time limit, and the kernel set up and take down a timer of its own for
 * each: that was measured at 5 % of a small echo.
 *
 * Times are milliseconds modulo 2^32: only differences below 2^31 are looked
 * at, and the wheel looks at each connection at least every half hour.
 */
#include "evt-conn-internal.h"
#include "evt-log-internal.h"
#include "evt-net-internal.h"

#include <errno.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define RETRY_MS   10
#define DUE_A_TURN 256 /* then the rest waits: others have their turn */

/* Both are rounded down: when_ms itself is up to a millisecond too early. */
static bool is_reached(uint32_t when_ms, uint32_t now_ms)
{
	return (int32_t)(now_ms - when_ms) > 0;
}

static bool waits_for_first_byte(const struct evt_conn *conn)
{
	/* While it is paused it is we who do not listen. */
	return conn->setup->first_byte_ms > 0 &&
		!(conn->flags & (EVT_CONN_GOT_BYTE | EVT_CONN_PAUSED));
}

static bool stands_in_line(const struct evt_conn *conn)
{
	return conn->flags & EVT_CONN_LINGERING &&
		!(conn->flags & EVT_CONN_READING);
}

/* Lowers *delay to what is left until when_ms. */
static void consider(uint32_t when_ms, uint32_t now_ms, uint32_t *delay)
{
	int32_t left = (int32_t)(when_ms - now_ms);
	uint32_t ms = left > 0 ? (uint32_t)left + 1 : 1;

	if (*delay == 0 || ms < *delay)
		*delay = ms;
}

/* How long until it has to be looked at; 0: never. */
static uint32_t delay_of(struct evt_conn *conn, uint32_t now_ms)
{
	uint32_t delay = 0;

	if (conn->flags & EVT_CONN_RETRY)
		consider(now_ms + RETRY_MS, now_ms, &delay);
	if (stands_in_line(conn))
		consider(conn->opened_ms + EVT_LINE_MS, now_ms, &delay);
	else if (conn->flags & (EVT_CONN_HAS_DEADLINE | EVT_CONN_LINGERING))
		consider(conn->deadline_ms, now_ms, &delay);
	if (conn->flags & EVT_CONN_CONNECTING)
		consider(evt_conn_connect_until_(conn), now_ms, &delay);
	if (conn->flags & (EVT_CONN_CONNECTING | EVT_CONN_LINGERING))
		return delay;
	if (waits_for_first_byte(conn))
		consider(conn->opened_ms + (uint32_t)conn->setup->first_byte_ms,
			now_ms, &delay);
	if (conn->idle_ms > 0)
		consider(conn->moved_ms + (uint32_t)conn->idle_ms, now_ms,
			&delay);
	return delay;
}

/* The timer */

static void set_tick(struct evt_home *home, uint32_t now_ms)
{
	int64_t next = home->fired ? 0
				   : evt_wheel_next_ms_(&home->wheel, now_ms);
	struct itimerspec when = {.it_value = {0, 1}}; /* 0 would be never */

	home->ticking = next != EVT_WHEEL_IDLE;
	if (!home->ticking)
		return;
	if (next > 0) {
		when.it_value.tv_sec = (time_t)(next / 1000);
		when.it_value.tv_nsec = (long)(next % 1000) * 1000000;
	}
	home->tick_ms = now_ms + (uint32_t)next;
	if (timerfd_settime(home->tick_fd, 0, &when, NULL) == -1)
		home->ticking = false; /* whoever is next sets it */
}

/* The clock is read when a turn begins, which will do for the first thing that
 * happens in it; callbacks may have taken long by the second. */
uint32_t evt_home_now_ms_(struct evt_home *home)
{
	struct evt_worker *worker = home->worker;

	if (worker->depth == 0 || worker->clock_used)
		return (uint32_t)evt_now_ms_();
	worker->clock_used = true;
	return worker->now_ms;
}

static void schedule(struct evt_conn *conn, uint32_t now_ms)
{
	struct evt_home *home = conn->home;
	uint32_t delay = delay_of(conn, now_ms);

	if (delay == 0) {
		evt_wheel_remove_(&home->wheel, &conn->timer);
		return;
	}
	evt_wheel_add_(&home->wheel, &conn->timer, now_ms, delay);
	if (!home->ticking || !is_reached(home->tick_ms, now_ms + delay))
		set_tick(home, now_ms);
}

void evt_conn_schedule_(struct evt_conn *conn)
{
	schedule(conn, evt_home_now_ms_(conn->home));
}

/* What the time has come for */

static void time_out(struct evt_conn *conn, enum evt_reason reason)
{
	const struct evt_setup *setup = conn->setup;

	if (!setup->handlers.on_timeout ||
		conn->flags & (EVT_CONN_CLOSING | EVT_CONN_CONNECTING)) {
		conn->flags |= EVT_CONN_RESET;
		evt_conn_fail_(conn, reason, ETIMEDOUT);
		return;
	}
	conn->moved_ms = conn->home->worker->now_ms;
	conn->flags |= EVT_CONN_TIMED_OUT;
	conn->reason = (unsigned)reason & 7u;
	setup->handlers.on_timeout(conn, reason, setup->arg);
	if (!(conn->flags & EVT_CONN_OVER))
		conn->flags &= ~(uint32_t)EVT_CONN_TIMED_OUT;
}

/* True if something is due; acts if act is set. */
static bool first_byte_due(struct evt_conn *conn, uint32_t now_ms, bool act)
{
	if (!waits_for_first_byte(conn) ||
		!is_reached(
			conn->opened_ms + (uint32_t)conn->setup->first_byte_ms,
			now_ms))
		return false;
	if (act) {
		conn->flags |= EVT_CONN_GOT_BYTE; /* it is waited for once */
		time_out(conn, EVT_REASON_DEADLINE);
	}
	return true;
}

static bool deadline_due(struct evt_conn *conn, uint32_t now_ms, bool act)
{
	if (!(conn->flags & EVT_CONN_HAS_DEADLINE) ||
		!is_reached(conn->deadline_ms, now_ms))
		return false;
	if (act) {
		conn->flags &= ~(uint32_t)EVT_CONN_HAS_DEADLINE;
		time_out(conn, EVT_REASON_DEADLINE);
	}
	return true;
}

static bool idle_due(struct evt_conn *conn, uint32_t now_ms, bool act)
{
	uint32_t idle_ms = now_ms - conn->moved_ms;

	/* What moved in this turn may be a little ahead of its time. */
	if (conn->idle_ms <= 0 || idle_ms > UINT32_MAX / 4 * 3 ||
		idle_ms <= (uint32_t)conn->idle_ms)
		return false;
	if (act)
		time_out(conn, EVT_REASON_IDLE);
	return true;
}

static bool lingered_enough(struct evt_conn *conn, uint32_t now_ms, bool act)
{
	uint32_t until_ms = stands_in_line(conn) ? conn->opened_ms + EVT_LINE_MS
						 : conn->deadline_ms;

	if (!is_reached(until_ms, now_ms))
		return false;
	if (act)
		evt_conn_lingered_(conn);
	return true;
}

static bool connect_due(struct evt_conn *conn, uint32_t now_ms, bool act)
{
	if (!(conn->flags & EVT_CONN_CONNECTING) ||
		!is_reached(evt_conn_connect_until_(conn), now_ms))
		return false;
	if (act)
		evt_conn_connect_timeout_(conn);
	return true;
}

static bool retry_due(struct evt_conn *conn, bool act)
{
	if (!(conn->flags & EVT_CONN_RETRY))
		return false;
	if (act) {
		conn->flags &= ~(uint32_t)EVT_CONN_RETRY;
		if (conn->flags & EVT_CONN_CONNECTING)
			evt_conn_connect_retry_(conn);
		else
			evt_conn_send_(conn);
	}
	return true;
}

/* The first thing that is due; a connection that goes on comes again for the
 * next. */
static bool look(struct evt_conn *conn, uint32_t now_ms, bool act)
{
	if (conn->flags & EVT_CONN_LINGERING)
		return lingered_enough(conn, now_ms, act);
	if (deadline_due(conn, now_ms, act) || connect_due(conn, now_ms, act) ||
		retry_due(conn, act))
		return true;
	return !(conn->flags & EVT_CONN_CONNECTING) &&
		(first_byte_due(conn, now_ms, act) ||
			idle_due(conn, now_ms, act));
}

static struct evt_conn *owner(struct evt_timer *timer)
{
	char *bytes = (char *)timer - offsetof(struct evt_conn, timer);

	return (struct evt_conn *)(void *)bytes;
}

/* Closed by what was due before it: its output may not have been sent yet, and
 * it is no fault of the peer's that it is still there. */
static bool is_just_closing(const struct evt_conn *conn)
{
	const uint32_t both = EVT_CONN_CLOSING | EVT_CONN_TOUCHED;

	return (conn->flags & both) == both;
}

/* A turn begins only when something is due: to put connections back is not
 * worth the boss's attention. */
void evt_home_tick_(struct evt_home *home)
{
	uint32_t now_ms = (uint32_t)evt_now_ms_();
	uint64_t ticks;
	int acted = 0;

	/* Whatever else it may say, setting it anew makes it quiet. */
	if (read(home->tick_fd, &ticks, sizeof(ticks)) == -1 && errno == EAGAIN)
		return;         /* it was set anew meanwhile */
	home->tick_ms = now_ms; /* it is set at the end */
	if (!home->fired)
		evt_wheel_advance_(&home->wheel, now_ms, &home->fired);
	while (home->fired && acted < DUE_A_TURN) {
		struct evt_conn *conn = owner(home->fired);
		bool goes = conn->flags & EVT_CONN_LINGERING;

		evt_wheel_remove_(&home->wheel, &conn->timer);
		if ((conn->flags & (EVT_CONN_ENDED | EVT_CONN_CLOSED)) ==
			EVT_CONN_ENDED)
			continue; /* by what was due before it */
		if (is_just_closing(conn) || !look(conn, now_ms, false)) {
			schedule(conn, now_ms);
			continue;
		}
		if (acted++ == 0)
			evt_turn_begin_(home->worker);
		look(conn, now_ms, true);
		if (!goes && !(conn->flags & EVT_CONN_ENDED))
			schedule(conn, now_ms);
	}
	if (acted > 0)
		evt_turn_end_(home->worker);
	set_tick(home, (uint32_t)evt_now_ms_());
}

int evt_home_init_time_(struct evt_home *home)
{
	evt_wheel_init_(&home->wheel, (uint32_t)evt_now_ms_());
	home->tick_fd = evt_net_above_stdio_(
		timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
	if (home->tick_fd == -1)
		return -1;
	if (evt_worker_watch_(home->worker, home->tick_fd, EVT_KEY_TIMER) == 0)
		return 0;
	evt_home_end_time_(home);
	return -1;
}

void evt_home_end_time_(struct evt_home *home)
{
	close(home->tick_fd);
}

/* evt-conn.h */

int evt_conn_set_timeout(
	struct evt_conn *conn, enum evt_timeout timeout, int ms)
{
	/* Not that of the turn, in which much may have happened. */
	uint32_t now_ms = (uint32_t)evt_now_ms_();

	if (evt_conn_check_(conn, "evt_conn_set_timeout") == -1)
		return -1;
	if (ms < -1 || ms == 0 ||
		(timeout != EVT_TIMEOUT_IDLE &&
			timeout != EVT_TIMEOUT_DEADLINE))
		return evt_fail_(EINVAL, "evt_conn_set_timeout %d: %d ms",
			(int)timeout, ms);
	if (conn->flags & EVT_CONN_OVER) {
		errno = ENOTCONN;
		return -1;
	}
	if (timeout == EVT_TIMEOUT_IDLE) {
		conn->idle_ms = ms;
		conn->moved_ms = now_ms;
	} else if (ms == -1) {
		conn->flags &= ~(uint32_t)EVT_CONN_HAS_DEADLINE;
	} else {
		conn->deadline_ms = now_ms + (uint32_t)ms;
		conn->flags |= EVT_CONN_HAS_DEADLINE;
	}
	schedule(conn, now_ms);
	return 0;
}
