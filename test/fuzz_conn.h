/*
 * fuzz_conn.h: the connection of fuzz_conn.c: what has become of it, the calls
 * that its program may make, and its handlers.
 */
#ifndef FUZZ_CONN_H
#define FUZZ_CONN_H

#include "fuzz.h"
#include "../evt-conn-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <time.h>

#define PERIOD 8191  /* bytes after which the stream is as at its start */
#define MOST   70000 /* bytes of one call */

static char pattern[PERIOD + MOST];
static int file; /* has it too */

/* One input, and what has become of it. */
static struct {
	struct input input;
	struct evt_setup setup;
	struct evt_conn *conn; /* NULL once on_close was there */
	uint64_t id;
	int peer; /* -1: closed */
	sem_t over;
	time_t until;
	int steps;
	int waits;
	unsigned ending;

	size_t written, heard; /* from the connection to the peer */
	size_t said, consumed; /* and back */
	size_t want;
	int refs;  /* given, and not done */
	int tasks; /* posted, and not run */

	bool opened, closed, gone;
	bool is_calling; /* the library: it calls nobody meanwhile */
	bool is_sending; /* what arrives before other writes is not known */
	bool is_unsure;  /* ... or whether it has come in time */
	bool is_closing; /* no handler but on_close comes any more */
	bool has_finished, is_paused, saw_eof;
	bool has_closed, has_aborted; /* of the program's calls */
	bool has_stopped, has_limits, has_times, has_fault;
	bool peer_ended, peer_left;  /* half, or wholly */
	bool heard_end, heard_reset; /* by the peer */
	enum evt_reason reason;
} my;

/* Calls of the program */

#define CALL(call)                        \
	__extension__({                   \
		__typeof__(call) result_; \
		my.is_calling = true;     \
		result_ = (call);         \
		my.is_calling = false;    \
		result_;                  \
	})

#define DO(call)                       \
	do {                           \
		my.is_calling = true;  \
		call;                  \
		my.is_calling = false; \
	} while (0)

/* 0 to 1,023, or more. */
static size_t take_len(void)
{
	unsigned len = take_16(&my.input);

	return len < 0xfc00 ? len % 1024 : MOST - (len & 1023);
}

/* What a write may give. */
static void has_written(int result, size_t len)
{
	if (result == 0) {
		REQUIRE(!my.is_closing && !my.has_finished);
		my.written += len;
		return;
	}
	REQUIRE(result == -1);
	if (errno == ENOBUFS) {
		REQUIRE(my.has_limits);
		my.is_closing = true;
		my.written += len; /* a part of it may be on its way */
	} else {
		REQUIRE(errno ==
				(my.has_finished && !my.is_closing
						? EPIPE
						: ENOTCONN) ||
			errno == ENOTCONN);
	}
}

static void call_write(void)
{
	size_t len = take_len();
	char *copy = exact_copy(pattern + my.written % PERIOD, len);

	has_written(CALL(evt_conn_write(my.conn, copy, len)), len);
	free(copy);
}

static void call_printf(void)
{
	const char *text = pattern + my.written % PERIOD;
	int len = (int)(take_len() % 300);

	has_written(CALL(evt_conn_printf(my.conn, "%.*s", len, text)),
		strnlen(text, (size_t)len));
}

static void on_done(void *arg)
{
	REQUIRE(!my.closed);
	my.refs--;
	free(arg);
}

static void call_write_ref(void)
{
	size_t len = take_len();
	char *copy = exact_copy(pattern + my.written % PERIOD, len);
	int result;

	my.refs++;
	/* Small ones are copied, and done at once. */
	result = evt_conn_write_ref(my.conn, copy, len, on_done, copy);
	has_written(result, len);
	if (result == 0)
		return;
	my.refs--;
	free(copy);
}

static void call_sendfile(void)
{
	bool is_short = take_below(&my.input, 16) == 15;
	size_t len = take_len();
	int64_t at = (int64_t)(my.written % PERIOD);
	int fd = fcntl(file, F_DUPFD_CLOEXEC, 3);
	int result;

	REQUIRE(fd != -1);
	if (is_short)
		len = sizeof(pattern);
	result = CALL(evt_conn_sendfile(my.conn, fd, at, (int64_t)len));
	if (result == -1)
		close(fd);
	else
		my.has_fault |= is_short && at > 0;
	has_written(result, len);
}

static void call_want(void)
{
	size_t len = take_len();
	int result = CALL(evt_conn_want(my.conn, len));

	if (result == 0)
		my.want = len;
	else
		REQUIRE(errno == EINVAL || errno == ENOTCONN);
}

static void call_pause(void)
{
	DO(evt_conn_pause(my.conn));
	my.is_paused = true;
}

static void call_resume(void)
{
	DO(evt_conn_resume(my.conn));
	my.is_paused = false;
}

static void call_finish(void)
{
	if (CALL(evt_conn_finish(my.conn)) == 0)
		my.has_finished = true;
	else
		REQUIRE(errno == ENOTCONN || errno == EPIPE);
}

static void call_close(void)
{
	DO(evt_conn_close(my.conn));
	my.is_closing = my.has_closed = true;
}

static void call_abort(void)
{
	DO(evt_conn_abort(my.conn));
	my.is_closing = my.has_closed = my.has_aborted = true;
}

static void call_timeout(void)
{
	static const int times[] = {1, 2, 1000, -1, 0, -2, INT32_MAX};
	enum evt_timeout which = take_below(&my.input, 2)
		? EVT_TIMEOUT_IDLE
		: EVT_TIMEOUT_DEADLINE;
	int ms = times[take_below(&my.input, 7)];

	if (CALL(evt_conn_set_timeout(my.conn, which, ms)) == 0) {
		REQUIRE(ms > 0 || ms == -1);
		my.has_times = true;
	} else {
		REQUIRE(errno == EINVAL || errno == ENOTCONN);
	}
}

static void count_conn(struct evt_conn *conn, void *arg)
{
	int *count = arg;

	REQUIRE(conn == my.conn);
	++*count;
}

static void call_ask(void)
{
	struct sockaddr_storage addr;
	int count = 0;

	REQUIRE(evt_conn_pending(my.conn) <= my.written - my.heard);
	REQUIRE(evt_conn_id(my.conn) == my.id);
	REQUIRE(evt_conn_data(my.conn) == &my);
	REQUIRE(evt_conn_worker(my.conn) == evt_worker_self());
	(void)evt_conn_error(my.conn);
	(void)evt_conn_peer(my.conn, &addr);
	(void)evt_conn_local(my.conn, &addr);
	if (evt_conn_at_eof(my.conn))
		REQUIRE(my.peer_ended || my.peer_left);
	evt_worker_each_conn(evt_worker_self(), count_conn, &count);
	REQUIRE(count <= 1);
}

static void call_wrongly(void)
{
	REQUIRE(CALL(evt_conn_write(my.conn, NULL, 5)) == -1);
	REQUIRE(errno == EINVAL || errno == ENOTCONN || errno == EPIPE);
	REQUIRE(CALL(evt_conn_write(NULL, "x", 1)) == -1 && errno == EINVAL);
	REQUIRE(CALL(evt_conn_want(my.conn, SIZE_MAX)) == -1 || !my.has_limits);
	REQUIRE(CALL(evt_conn_sendfile(my.conn, -1, 0, 5)) == -1);
	REQUIRE(CALL(evt_conn_sendfile(my.conn, file, -1, 5)) == -1);
	REQUIRE(CALL(evt_conn_sendfile(my.conn, file, 0, -5)) == -1);
}

static void (*const calls[])(void) = {call_write, call_printf, call_write_ref,
	call_sendfile, call_want, call_pause, call_resume, call_finish,
	call_close, call_abort, call_timeout, call_ask, call_wrongly};

#define NR_CALLS (sizeof(calls) / sizeof(calls[0]))

/* In a handler: none to three calls. */
static void act(void)
{
	unsigned nr = take_below(&my.input, 4);

	while (nr-- > 0 && my.conn && !my.is_sending && !is_over(&my.input))
		calls[take_below(&my.input, NR_CALLS)]();
}

/* Handlers */

static void look_at_call(struct evt_conn *conn)
{
	REQUIRE(conn == my.conn && my.opened && !my.closed);
	REQUIRE(!my.is_calling && !my.is_closing);
}

static void on_open(struct evt_conn *conn, void *arg)
{
	REQUIRE(arg == &my && !my.opened && !my.closed);
	my.opened = true;
	my.conn = conn;
	my.id = evt_conn_id(conn);
	REQUIRE(my.id != 0 && !evt_conn_data(conn));
	evt_conn_set_data(conn, &my);
	act();
}

static size_t on_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	size_t eaten = len;

	(void)arg;
	look_at_call(conn);
	REQUIRE(!my.is_paused && !my.saw_eof && len > 0);
	REQUIRE(len <= my.said - my.consumed);
	REQUIRE(len >= my.want || evt_conn_at_eof(conn));
	REQUIRE(memcmp(data, pattern + my.consumed % PERIOD,
			len < MOST ? len : MOST) == 0);
	my.want = 0;
	switch (take_below(&my.input, 8)) {
	case 0:
		eaten = 0;
		break;
	case 1:
		eaten = 1;
		break;
	case 2:
		eaten = len / 2;
		break;
	case 3:
		if (take_below(&my.input, 8) == 0)
			eaten = len + 1;
		break;
	default:
		break;
	}
	act();
	if (eaten > len)
		my.is_closing = my.has_fault = true;
	else
		my.consumed += eaten;
	return eaten;
}

static void on_eof(struct evt_conn *conn, void *arg)
{
	(void)arg;
	look_at_call(conn);
	REQUIRE(!my.saw_eof && (my.peer_ended || my.peer_left));
	my.saw_eof = true;
	act();
}

static void on_drain(struct evt_conn *conn, void *arg)
{
	(void)arg;
	look_at_call(conn);
	act();
}

static void on_timeout(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	(void)arg;
	look_at_call(conn);
	REQUIRE(my.has_times);
	REQUIRE(reason == EVT_REASON_IDLE || reason == EVT_REASON_DEADLINE);
	act();
}

static void on_stop(struct evt_conn *conn, void *arg)
{
	(void)arg;
	look_at_call(conn);
	REQUIRE(my.has_stopped);
	act();
}

static void look_at_reason(enum evt_reason reason)
{
	const bool had[] = {
		[EVT_REASON_PEER] = my.peer_ended || my.peer_left,
		[EVT_REASON_OURS] = my.has_closed || my.has_finished,
		[EVT_REASON_RESET] = my.peer_left,
		[EVT_REASON_IDLE] = my.has_times,
		[EVT_REASON_DEADLINE] = my.has_times,
		[EVT_REASON_OVERFLOW] = my.has_limits,
		[EVT_REASON_STOPPED] = my.has_stopped,
		[EVT_REASON_FAILED] = my.has_fault,
	};

	REQUIRE((size_t)reason < sizeof(had) / sizeof(had[0]));
	REQUIRE(had[reason]);
}

static void on_close(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	REQUIRE(arg == &my && conn == my.conn && !my.closed);
	REQUIRE(!my.is_calling && my.refs == 0);
	look_at_reason(reason);
	REQUIRE(evt_conn_write(conn, "x", 1) == -1 && errno == ENOTCONN);
	evt_conn_close(conn);
	evt_conn_abort(conn);
	my.closed = true;
	my.reason = reason;
	my.conn = NULL;
}

static void on_gone(struct evt_setup *setup, uint32_t source)
{
	REQUIRE(setup == &my.setup && source == 0 && my.closed && !my.gone);
	my.gone = true;
}

#endif /* FUZZ_CONN_H */
