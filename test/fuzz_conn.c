/*
 * fuzz_conn.c: a connection, driven by a program. Its bytes choose calls of
 * evt-conn.h, from the handlers and between them, and what the peer does, who
 * has the other end of a pair of sockets. What is promised is looked at all the
 * time: bytes arrive as they were written, in order and up to the last one
 * where the end was orderly; handlers are called when they may be; each opened
 * connection has one on_close, for a reason that there was; counters are even.
 *
 * All of it runs on the worker, a step of the program in each turn of its loop:
 * so an input does the same whenever it comes, but for timeouts.
 *
 * fuzz: -max_len=256
 */
#include "fuzz.h"
#include "network.h"
#include "../evt-conn-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <time.h>

#define PERIOD     8191  /* bytes after which the stream is as at its start */
#define MOST       70000 /* bytes of one call */
#define MOST_STEPS 300
#define PATIENCE_S 10

static char pattern[PERIOD + MOST];
static int file; /* has it too */
static int listening;

/* One input, and what has become of it. */
static struct {
	struct input input;
	struct evt_pool *pool;
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
	bool is_closing; /* no handler but on_close comes any more */
	bool has_finished, is_paused, saw_eof;
	bool has_closed, has_aborted; /* of the program's calls */
	bool has_stopped, has_limits, has_times, has_short_file;
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
		at = sizeof(pattern) - 1;
	result = CALL(evt_conn_sendfile(my.conn, fd, at, (int64_t)len));
	if (result == -1)
		close(fd);
	else
		my.has_short_file |= is_short && len > 1;
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
		my.is_closing = my.has_closed = my.has_aborted = true;
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
		[EVT_REASON_FAILED] = my.has_short_file,
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

/* The peer */

static void peer_says(void)
{
	size_t len = take_len();
	ssize_t sent;

	if (my.peer == -1 || my.peer_ended)
		return;
	sent = send(my.peer, pattern + my.said % PERIOD, len,
		MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent > 0)
		my.said += (size_t)sent;
}

static void peer_hears_some(size_t most)
{
	static char bytes[MOST];
	ssize_t got;

	if (my.peer == -1 || my.heard_end || my.heard_reset)
		return;
	got = recv(my.peer, bytes, most, MSG_DONTWAIT);
	if (got > 0) {
		REQUIRE((size_t)got <= my.written - my.heard);
		REQUIRE(memcmp(bytes, pattern + my.heard % PERIOD,
				(size_t)got) == 0);
		my.heard += (size_t)got;
	} else if (got == 0) {
		my.heard_end = true;
	} else if (errno != EAGAIN) {
		my.heard_reset = true;
	}
}

static void peer_hears(void)
{
	size_t len = take_len();

	if (len > 0)
		peer_hears_some(len);
}

static void peer_ends(void)
{
	if (my.peer != -1)
		shutdown(my.peer, SHUT_WR);
	my.peer_ended = true;
}

static void peer_leaves(void)
{
	const struct linger linger = {.l_onoff = 1};

	if (my.peer == -1)
		return;
	setsockopt(my.peer, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(my.peer);
	my.peer = -1;
	my.peer_left = true;
}

/* Steps between the handlers */

static void run_task(struct evt_conn *conn, void *arg)
{
	REQUIRE(conn == my.conn && arg == &my && !my.is_calling);
	my.tasks--;
}

static void step_post(void)
{
	if (!my.opened)
		return;
	if (CALL(evt_pool_post_conn(my.pool, my.id, run_task, &my)) == 0)
		my.tasks++;
	else
		REQUIRE(my.has_stopped && errno == ECANCELED);
}

static void step_send(void)
{
	size_t len = take_len() % 4096;
	const char *bytes = pattern + my.written % PERIOD;

	if (!my.opened || my.is_closing || my.has_finished)
		return;
	if (CALL(evt_pool_send(my.pool, my.id, bytes, len)) == -1)
		return;
	if (my.conn)
		my.written += len;
	my.is_sending = true;
}

/* Long enough for a short timeout. */
static void step_wait(void)
{
	const struct timespec time = {0, 3000000};

	if (my.has_times && my.waits++ < 2)
		nanosleep(&time, NULL);
}

static void step_stop(void)
{
	if (take_below(&my.input, 4))
		return;
	my.has_stopped = true;
	evt_pool_stop(my.pool);
}

static void (*const steps[])(void) = {peer_says, peer_hears, peer_says,
	peer_hears, peer_ends, peer_leaves, step_post, step_send, step_wait,
	step_stop};

#define NR_STEPS (sizeof(steps) / sizeof(steps[0]))

static void one_step(void)
{
	unsigned what = take_below(&my.input, NR_STEPS + NR_CALLS);

	if (what < NR_STEPS)
		steps[what]();
	else if (my.conn)
		calls[what - NR_STEPS]();
}

/* The program is over: everything comes to its end. */
static void end_step(void)
{
	REQUIRE(time(NULL) < my.until);
	if (my.conn && !my.has_closed) {
		if (my.ending % 4 == 0)
			call_abort();
		else if (my.ending % 4 == 1)
			peer_leaves();
		call_close();
	}
	peer_hears_some(MOST);
	if (my.heard_end || my.heard_reset)
		peer_leaves();
}

static void step(struct evt_worker *worker, void *arg)
{
	my.is_sending = false;
	if (!is_over(&my.input) && my.steps++ < MOST_STEPS)
		one_step();
	else if (!my.gone)
		end_step();
	if (my.gone && (is_over(&my.input) || my.steps >= MOST_STEPS))
		sem_post(&my.over);
	else if (evt_worker_post(worker, step, arg) == -1)
		sem_post(&my.over);
}

/* Before the first */

static int connect_tcp(int fds[2])
{
	struct sockaddr_in in;
	socklen_t len = sizeof(in);

	REQUIRE(getsockname(listening, (struct sockaddr *)&in, &len) == 0);
	fds[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	REQUIRE(fds[1] != -1);
	REQUIRE(connect(fds[1], (struct sockaddr *)&in, len) == 0);
	fds[0] = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	return fds[0] == -1 ? -1 : 0;
}

static void make_setup(unsigned flags)
{
	struct evt_limits limits = {.call = "fuzz"};
	struct evt_handlers handlers = {
		.on_open = on_open, .on_data = on_data, .on_close = on_close};

	if (flags & 1)
		handlers.on_eof = on_eof;
	if (flags & 2)
		handlers.on_drain = on_drain;
	if (flags & 4)
		handlers.on_timeout = on_timeout;
	if (flags & 8)
		handlers.on_stop = on_stop;
	if (flags & 16) {
		my.has_limits = true;
		limits.max_input = 1000;
		limits.low_mark = 500;
		limits.high_mark = 2000;
		limits.max_output = 40000;
	}
	if (flags & 32) {
		my.has_times = true;
		limits.first_byte_ms = 1;
		limits.idle_ms = 2;
	}
	REQUIRE(evt_setup_init_(&my.setup, &limits, &handlers, sizeof(handlers),
			&my) == 0);
	my.setup.on_gone = on_gone;
}

static void begin(struct evt_worker *worker, void *arg)
{
	unsigned flags = take_byte(&my.input);
	const int small = 1;
	int fds[2];

	my.ending = take_byte(&my.input);
	make_setup(flags);
	if (flags & 64)
		REQUIRE(connect_tcp(fds) == 0);
	else
		REQUIRE(socketpair(AF_UNIX,
				SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
				fds) == 0);
	if (flags & 128)
		setsockopt(
			fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	my.peer = fds[1];
	REQUIRE(evt_conn_accept_(worker, fds[0], &my.setup, 0) == 0);
	step(worker, arg);
}

/* After the last */

static void look_at_counters(const struct evt_stats *stats)
{
	REQUIRE(stats->opened == 1 && stats->open == 0);
	REQUIRE(stats->closed_peer + stats->closed_ours + stats->closed_reset +
			stats->closed_idle + stats->closed_deadline +
			stats->closed_overflow + stats->closed_stopped +
			stats->closed_failed ==
		1);
	REQUIRE(stats->bytes_in <= my.said);
	REQUIRE(stats->bytes_in >= my.consumed);
	REQUIRE(stats->bytes_out >= my.heard);
	REQUIRE(stats->bytes_out <= my.written);
}

static void look_at_end(void)
{
	REQUIRE(my.opened && my.closed && my.gone);
	REQUIRE(my.refs == 0 && my.tasks == 0);
	if (my.heard_end &&
		(my.reason == EVT_REASON_OURS || my.reason == EVT_REASON_PEER))
		REQUIRE(my.heard == my.written);
}

static void be_silent(int level, const char *line, void *arg)
{
	(void)level;
	(void)line;
	(void)arg;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	size_t i;

	(void)argc;
	(void)argv;
	(void)own_network(CLONE_NEWNET);
	for (i = 0; i < sizeof(pattern); i++)
		pattern[i] = (char)(1 + (i % PERIOD) * 2654435761U % 127);
	file = memfd_create("pattern", MFD_CLOEXEC);
	REQUIRE(write(file, pattern, sizeof(pattern)) == sizeof(pattern));
	listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	REQUIRE(listen(listening, 16) == 0); /* the kernel chooses a port */
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct evt_pool_options options = {
		.workers = 1, .grace_ms = 1, .stall_ms = -1};
	struct evt_stats stats;

	evt_set_log(be_silent, NULL);
	memset(&my, 0, sizeof(my));
	my.input = (struct input){data, data + size};
	my.until = time(NULL) + PATIENCE_S;
	my.peer = -1;
	sem_init(&my.over, 0, 0);
	my.pool = evt_pool_new(&options);
	REQUIRE(my.pool && evt_pool_start(my.pool) == 0);
	REQUIRE(evt_worker_post(evt_pool_worker(my.pool, 0), begin, NULL) == 0);
	while (sem_wait(&my.over) == -1)
		REQUIRE(errno == EINTR);
	evt_pool_stop(my.pool);
	REQUIRE(evt_pool_wait(my.pool) == 0);
	REQUIRE(evt_pool_stats(my.pool, &stats) == 0);
	evt_pool_free(my.pool);
	if (my.peer != -1)
		close(my.peer);
	sem_destroy(&my.over);
	look_at_counters(&stats);
	look_at_end();
	return 0;
}
