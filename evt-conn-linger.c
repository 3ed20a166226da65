/*
 * evt-conn-linger.c: after the last byte, until the peer ends its stream too.
 *
 * A plain close(2) with unread input, or with input on its way, makes the
 * kernel send a reset, and that destroys the answer the peer is about to read.
 * So our end of the stream is shut down, and what still comes is thrown away,
 * for some seconds at most. For the program the connection has ended before.
 *
 * Most peers end within a millisecond. To have each waited for by the loop
 * costs two epoll_ctl(2) and a wake-up, a third of all that a short connection
 * costs; so they first stand in a line, oldest first, and are looked at in
 * passing at the end of later turns. Who has not ended by then is waited for.
 */
#include "evt-conn-internal.h"

#include <errno.h>
#include <sys/socket.h>

#define LINGER_MS      5000
#define LINGER_STOP_MS 500  /* while the pool stops */
#define LINGER_MAX     1024 /* at a time, on a worker */
#define LINGER_BYTES   ((size_t)64 << 20)
#define READS_A_TURN   4
#define LOOKS_A_TURN   8
#define YOUNG_MS       2 /* not worth a look yet */
#define PAUSE_MS       4 /* after a look in vain */

/* Throws away what has come: 1 if there may be more, or 0 once the peer has
 * ended, or -1 and errno: EAGAIN, or why there is no more. */
static int throw_away(struct evt_conn *conn)
{
	struct evt_home *home = conn->home;
	int reads = 0;
	ssize_t len;

	while (reads++ < READS_A_TURN) {
		do
			len = recv(conn->fd, home->buffer, EVT_READ_BYTES, 0);
		while (len == -1 && errno == EINTR);
		if (len <= 0)
			return (int)len;
		conn->want += (size_t)len;
		if (conn->want > LINGER_BYTES) {
			errno = ENOBUFS;
			return -1;
		}
	}
	return 1;
}

/* Closing, with output that waits. What is thrown away does not count as a byte
 * that moves: only the output keeps it from being idle. */
void evt_conn_throw_away_(struct evt_conn *conn)
{
	int result = throw_away(conn);

	if (result == 1) {
		conn->flags |= EVT_CONN_MORE;
		evt_conn_touch_(conn);
	} else if (result == 0) {
		conn->flags |= EVT_CONN_EOF_SEEN;
		evt_conn_touch_(conn);
	} else if (result == -1 && errno == ENOBUFS) {
		conn->flags |= EVT_CONN_RESET;
		evt_conn_fail_(conn, EVT_REASON_OVERFLOW, ENOBUFS);
	} else if (result == -1 && errno != EAGAIN) {
		evt_conn_break_(conn, errno);
	}
}

/* False once there is nothing to wait for any more. */
static bool discard(struct evt_conn *conn)
{
	int result = throw_away(conn);

	if (result == 1)
		conn->flags |= EVT_CONN_MORE;
	return result == 1 || (result == -1 && errno == EAGAIN);
}

void evt_conn_discard_(struct evt_conn *conn)
{
	if (!discard(conn) || evt_conn_await_(conn, EVT_CONN_READING) == -1)
		evt_conn_dispose_(conn);
}

/* The line */

static void line_up(struct evt_conn *conn)
{
	struct evt_home *home = conn->home;

	conn->next_touched = NULL; /* CLOSED: nobody touches it any more */
	if (home->last_lingering)
		home->last_lingering->next_touched = conn;
	else
		home->first_lingering = conn;
	home->last_lingering = conn;
}

static void leave_line(struct evt_conn *conn)
{
	struct evt_home *home = conn->home;
	struct evt_conn *before = NULL;
	struct evt_conn *here = home->first_lingering;

	for (; here != conn; here = here->next_touched)
		before = here;
	if (before)
		before->next_touched = conn->next_touched;
	else
		home->first_lingering = conn->next_touched;
	if (home->last_lingering == conn)
		home->last_lingering = before;
}

void evt_conn_end_lingering_(struct evt_conn *conn)
{
	if (!(conn->flags & EVT_CONN_LINGERING))
		return;
	conn->home->nr_lingering--;
	if (!(conn->flags & EVT_CONN_READING))
		leave_line(conn);
}

/* From the line into the loop. */
static void watch(struct evt_conn *conn)
{
	if (evt_conn_await_(conn, EVT_CONN_READING) == -1) {
		evt_conn_dispose_(conn);
		return;
	}
	leave_line(conn);
	evt_conn_schedule_(conn);
}

bool evt_conn_linger_(struct evt_conn *conn)
{
	const uint32_t needless = EVT_CONN_EOF_SEEN | EVT_CONN_ENDED |
		EVT_CONN_RESET;
	struct evt_home *home = conn->home;
	uint32_t now_ms = home->worker->now_ms;

	/* In this order: the shutdown sends what MSG_MORE has kept back. */
	if (conn->flags & needless || shutdown(conn->fd, SHUT_WR) == -1 ||
		home->nr_lingering >= LINGER_MAX)
		return false;
	conn->flags |= EVT_CONN_LINGERING;
	conn->opened_ms = now_ms;
	conn->deadline_ms = now_ms +
		(home->draining ? LINGER_STOP_MS : LINGER_MS);
	home->nr_lingering++;
	(void)evt_conn_await_(conn, conn->flags & EVT_CONN_READING);
	if (!(conn->flags & EVT_CONN_READING))
		line_up(conn);
	evt_conn_schedule_(conn);
	return true;
}

void evt_conn_hasten_(struct evt_conn *conn)
{
	uint32_t until_ms = conn->home->worker->now_ms + LINGER_STOP_MS;

	if ((int32_t)(conn->deadline_ms - until_ms) > 0)
		conn->deadline_ms = until_ms;
	evt_conn_schedule_(conn);
}

void evt_home_look_at_line_(struct evt_home *home)
{
	uint32_t now_ms = home->worker->now_ms;
	struct evt_conn *conn;
	int looks = 0;

	/* So, since look_ms may be from weeks ago. */
	if (now_ms - home->look_ms < PAUSE_MS)
		return;
	while ((conn = home->first_lingering) && looks++ < LOOKS_A_TURN &&
		now_ms - conn->opened_ms >= YOUNG_MS) {
		if (!discard(conn)) {
			evt_conn_dispose_(conn);
			continue;
		}
		home->look_ms = now_ms;
		if (now_ms - conn->opened_ms < EVT_LINE_MS)
			break;
		watch(conn);
	}
}

/* It has stood in the line for EVT_LINE_MS, or been waited for long enough. */
void evt_conn_lingered_(struct evt_conn *conn)
{
	if (conn->flags & EVT_CONN_READING || !discard(conn))
		evt_conn_dispose_(conn);
	else
		watch(conn);
}
