/*
 * server_rig.h: a pool that listens on 127.0.0.1, for suites of evt-listener.h:
 * handlers that count, clients that check what they get, tasks on a worker or
 * on a connection. Everything is static, one of each in a suite.
 *
 *	const struct evt_handlers handlers = {.on_data = echo_data};
 *	int fd;
 *
 *	start_server(&handlers, NULL, 1);
 *	fd = dial();
 *	say(fd, "hello");
 *	hears(fd, "hello");
 *	close(fd);
 *	assert_true(WAIT_FOR(nr_closed() == 1));
 *	assert_int_equal(last_reason(), EVT_REASON_PEER);
 *
 * SERVER_TEST(fn) is LEDGER_TEST(fn) that stops what fn has left running.
 */
#ifndef SERVER_RIG_H
#define SERVER_RIG_H

#include "ledger.h"
#include "../evt-listener.h"

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#define SERVER_TEST(fn)                                         \
	{                                                       \
#fn, fn, ledger_open, server_close, (void *)#fn \
	}

static struct {
	struct evt_pool *pool;
	struct evt_listener *listener;
	int port;
} server;

/* What the handlers below have seen since start_server. */
static struct {
	atomic_int opened;
	atomic_int calls; /* of on_data */
	atomic_size_t bytes;
	atomic_int eofs;
	atomic_int drains;
	atomic_int timeouts;
	atomic_int stops;
	atomic_int closed;
	atomic_int reasons[8];
	atomic_int dones;
	atomic_int reason; /* of the last on_close; -1: none yet */
	atomic_int error;
	atomic_uint_least64_t id; /* of the last that was opened */
	_Atomic(struct evt_conn *) conn;
} seen;

/* What happened, in order: words that callbacks append, with a space after
 * each. */
static struct {
	pthread_mutex_t lock;
	size_t len;
	char text[16384];
} story = {.lock = PTHREAD_MUTEX_INITIALIZER};

__attribute__((format(printf, 1, 2))) static inline void tell(
	const char *format, ...)
{
	size_t room;
	va_list args;
	int len;

	pthread_mutex_lock(&story.lock);
	room = sizeof(story.text) - story.len - 1;
	va_start(args, format);
	len = vsnprintf(story.text + story.len, room, format, args);
	va_end(args);
	story.len += (size_t)len < room - 1 ? (size_t)len : room - 1;
	story.text[story.len++] = ' ';
	story.text[story.len] = '\0';
	pthread_mutex_unlock(&story.lock);
}

static inline bool story_is(const char *text)
{
	bool same;

	pthread_mutex_lock(&story.lock);
	same = strcmp(story.text, text) == 0;
	pthread_mutex_unlock(&story.lock);
	return same;
}

static inline bool story_has(const char *part)
{
	bool found;

	pthread_mutex_lock(&story.lock);
	found = strstr(story.text, part) != NULL;
	pthread_mutex_unlock(&story.lock);
	return found;
}

/* Waits until the story is this one, each word with a space after it. */
static inline void story_becomes(const char *text)
{
	static char now[sizeof(story.text)]; /* others may go on telling */

	(void)WAIT_FOR(story_is(text));
	pthread_mutex_lock(&story.lock);
	memcpy(now, story.text, story.len);
	now[story.len] = '\0';
	pthread_mutex_unlock(&story.lock);
	assert_string_equal(now, text);
}

static inline void forget_story(void)
{
	pthread_mutex_lock(&story.lock);
	story.len = 0;
	story.text[0] = '\0';
	pthread_mutex_unlock(&story.lock);
}

static inline void forget_seen(void)
{
	int i;

	forget_story();

	atomic_store(&seen.opened, 0);
	atomic_store(&seen.calls, 0);
	atomic_store(&seen.bytes, 0);
	atomic_store(&seen.eofs, 0);
	atomic_store(&seen.drains, 0);
	atomic_store(&seen.timeouts, 0);
	atomic_store(&seen.stops, 0);
	atomic_store(&seen.closed, 0);
	for (i = 0; i < 8; i++)
		atomic_store(&seen.reasons[i], 0);
	atomic_store(&seen.dones, 0);
	atomic_store(&seen.reason, -1);
	atomic_store(&seen.error, -1);
	atomic_store(&seen.id, 0);
	atomic_store(&seen.conn, NULL);
}

static inline int nr_opened(void)
{
	return atomic_load(&seen.opened);
}

static inline int nr_closed(void)
{
	return atomic_load(&seen.closed);
}

static inline int last_reason(void)
{
	return atomic_load(&seen.reason);
}

static inline int last_error(void)
{
	return atomic_load(&seen.error);
}

/* A long stream that tells when a byte is lost, doubled or misplaced: byte at
 * of it, for any at. */
static inline char pattern_at(size_t at)
{
	return (char)((at * 2654435761u) >> 13 & 0x7f);
}

static inline void fill_pattern(char *bytes, size_t from, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		bytes[i] = pattern_at(from + i);
}

static inline bool is_pattern(const char *bytes, size_t from, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		if (bytes[i] != pattern_at(from + i))
			return false;
	return true;
}

/* len bytes of the pattern from from; to be freed. */
static inline char *new_pattern(size_t from, size_t len)
{
	char *bytes = malloc(len);

	assert_non_null(bytes);
	fill_pattern(bytes, from, len);
	return bytes;
}

/* LARGE bytes of it, more than the kernel takes at once, for main to make:
 * a test that made them would have to keep them until the worker has gone. */
#define LARGE ((size_t)8 << 20)

static char *large;

static inline void make_large(void)
{
	large = malloc(LARGE);
	if (!large)
		abort();
	fill_pattern(large, 0, LARGE);
}

/* The end of main: the result of ledger_run. */
static inline int free_large(int failed)
{
	free(large);
	return failed;
}

/* Handlers */

static inline void note_open(struct evt_conn *conn, void *arg)
{
	(void)arg;
	atomic_store(&seen.id, evt_conn_id(conn));
	atomic_store(&seen.conn, conn);
	atomic_fetch_add(&seen.opened, 1);
}

static inline void note_close(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	(void)arg;
	atomic_store(&seen.reason, (int)reason);
	atomic_store(&seen.error, evt_conn_error(conn));
	atomic_fetch_add(&seen.reasons[reason], 1);
	atomic_fetch_add(&seen.closed, 1);
}

static inline void note_bytes(size_t len)
{
	atomic_fetch_add(&seen.bytes, len);
	atomic_fetch_add(&seen.calls, 1);
}

/* on_data: */
static inline size_t echo_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)arg;
	evt_conn_write(conn, data, len);
	note_bytes(len);
	return len;
}

static inline size_t eat_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)conn, (void)data, (void)arg;
	note_bytes(len);
	return len;
}

static inline size_t leave_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)conn, (void)data, (void)arg;
	note_bytes(len);
	return 0;
}

/* Answers whatever comes with all of large. */
static inline size_t answer_at_length(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	evt_conn_write(conn, large, LARGE);
	note_bytes(len);
	return len;
}

static inline size_t answer_and_close(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)data, (void)arg;
	evt_conn_write(conn, large, LARGE);
	evt_conn_close(conn);
	note_bytes(len);
	return len;
}

static inline size_t tell_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)conn, (void)arg;
	note_bytes(len);
	tell("%.*s", (int)len, data);
	return len;
}

static inline void note_eof(struct evt_conn *conn, void *arg)
{
	(void)conn, (void)arg;
	atomic_fetch_add(&seen.eofs, 1);
}

static inline void note_drain(struct evt_conn *conn, void *arg)
{
	(void)conn, (void)arg;
	atomic_fetch_add(&seen.drains, 1);
}

static inline void note_stop(struct evt_conn *conn, void *arg)
{
	(void)conn, (void)arg;
	atomic_fetch_add(&seen.stops, 1);
}

static inline void note_timeout(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	(void)conn, (void)reason, (void)arg;
	atomic_fetch_add(&seen.timeouts, 1);
}

static inline void note_done(void *arg)
{
	(void)arg;
	atomic_fetch_add(&seen.dones, 1);
}

/* The same, which tell their names. */

static inline void tell_open(struct evt_conn *conn, void *arg)
{
	note_open(conn, arg);
	tell("open");
}

static inline void tell_eof(struct evt_conn *conn, void *arg)
{
	note_eof(conn, arg);
	tell("eof");
}

static inline void tell_drain(struct evt_conn *conn, void *arg)
{
	note_drain(conn, arg);
	tell("drain");
}

static inline void tell_close(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	note_close(conn, reason, arg);
	tell("close:%s", evt_reason_name(reason));
}

static inline void tell_done(void *arg)
{
	note_done(arg);
	tell("done:%s", arg ? (const char *)arg : "");
}

/* The server */

static inline void stop_server(void)
{
	if (server.pool)
		evt_pool_free(server.pool);
	server.pool = NULL;
}

static inline int server_close(void **state)
{
	fail_allocation(0, false);
	stop_server();
	return ledger_close(state);
}

/* Starts it on any tcp:// or unix: URL. on_open and on_close count where the
 * handlers have none of their own. */
static inline void start_server_at(const char *url,
	const struct evt_handlers *theirs,
	const struct evt_listen_options *options, int workers, void *arg)
{
	const struct evt_pool_options pool_options = {.workers = workers};
	struct evt_handlers handlers = *theirs;

	if (!handlers.on_open)
		handlers.on_open = note_open;
	if (!handlers.on_close)
		handlers.on_close = note_close;
	stop_server();
	forget_seen();
	server.pool = evt_pool_new(&pool_options);
	assert_non_null(server.pool);
	server.listener = evt_listen(server.pool, url, &handlers, options, arg);
	assert_non_null(server.listener);
	server.port = evt_listener_port(server.listener);
	assert_int_equal(evt_pool_start(server.pool), 0);
}

static inline void start_server(const struct evt_handlers *handlers,
	const struct evt_listen_options *options, int workers)
{
	start_server_at("tcp://127.0.0.1:0", handlers, options, workers, NULL);
}

/* The counters, exact if the pool has stopped. */
static inline struct evt_stats server_stats(void)
{
	struct evt_stats stats;

	assert_int_equal(evt_pool_stats(server.pool, &stats), 0);
	return stats;
}

/* Tasks: each of these returns when the task has, and gives false when it could
 * not be posted or did not run in time. */

struct errand {
	evt_task task;
	void (*conn_task)(struct evt_conn *conn, void *arg);
	void *arg;
	atomic_bool done;
};

static inline void run_errand(struct evt_worker *worker, void *arg)
{
	struct errand *it = arg;

	it->task(worker, it->arg);
	atomic_store(&it->done, true);
}

static inline void run_conn_errand(struct evt_conn *conn, void *arg)
{
	struct errand *it = arg;

	it->conn_task(conn, it->arg);
	atomic_store(&it->done, true);
}

static inline bool on_worker(int index, evt_task task, void *arg)
{
	static struct errand it; /* static: a late one finds it still there */

	it.task = task;
	it.arg = arg;
	atomic_store(&it.done, false);
	return evt_worker_post(evt_pool_worker(server.pool, index), run_errand,
		       &it) == 0 &&
		WAIT_FOR(atomic_load(&it.done));
}

/* task gets NULL if the connection is gone. */
static inline bool on_conn(uint64_t id,
	void (*task)(struct evt_conn *conn_or_null, void *arg), void *arg)
{
	static struct errand it;

	it.conn_task = task;
	it.arg = arg;
	atomic_store(&it.done, false);
	return evt_pool_post_conn(server.pool, id, run_conn_errand, &it) == 0 &&
		WAIT_FOR(atomic_load(&it.done));
}

/* On the connection that was opened last. */
static inline bool on_last_conn(
	void (*task)(struct evt_conn *conn_or_null, void *arg), void *arg)
{
	return on_conn(atomic_load(&seen.id), task, arg);
}

static inline void do_nothing(struct evt_conn *conn, void *arg)
{
	(void)conn, (void)arg;
}

/* Returns when whatever the worker of the last connection had to do for it
 * before is done. */
static inline void catch_up(void)
{
	assert_true(on_last_conn(do_nothing, NULL));
}

/* Tasks of a connection. */

static inline void close_task(struct evt_conn *conn, void *last_words)
{
	if (last_words)
		evt_conn_write(conn, last_words, strlen(last_words));
	evt_conn_close(conn);
}

static inline void abort_task(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_abort(conn);
}

static inline void pause_task(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_pause(conn);
}

static inline void resume_task(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_resume(conn);
}

/* Clients: blocking sockets, of which no call waits longer than 10 s (more
 * under a tool). */

/* Until the server has read so many bytes in all. */
static inline bool server_has_read(size_t bytes)
{
	return WAIT_FOR(server_stats().bytes_in >= bytes);
}

/* A connection to the server. */
static inline int dial(void)
{
	int fd = connect_to(server.port);

	assert_int_not_equal(fd, -1);
	return fd;
}

/* ... that is open on its worker: seen.id is its id. */
static inline int dial_and_wait(void)
{
	int before = nr_opened();
	int fd = dial();

	assert_true(WAIT_FOR(nr_opened() == before + 1));
	return fd;
}

/* The kernel does not let what waits to be read by fd grow, up to all of LARGE:
 * who sends it that has to wait. */
static inline void keep_small(int fd)
{
	const int size = 65536;

	assert_int_equal(
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)), 0);
}

static inline void say(int fd, const char *text)
{
	assert_true(send_all(fd, text, strlen(text)));
}

/* The next bytes are exactly text. */
static inline void hears(int fd, const char *text)
{
	size_t len = strlen(text);
	char *got = malloc(len + 1);
	bool all;

	assert_non_null(got);
	all = receive_all(fd, got, len);
	got[all ? len : 0] = '\0';
	if (strcmp(got, text) != 0) {
		free(got);
		fail_msg("not heard: %.200s", text);
	}
	free(got);
}

/* How a stream ends. */
enum ending { STILL_OPEN, CLEAN_END, RESET_END };

/* Reads and throws away up to the end, which it tells; *len: how much came. */
static inline enum ending drain_to_end(int fd, size_t *len)
{
	char bytes[16384];
	ssize_t got;

	*len = 0;
	do {
		got = recv(fd, bytes, sizeof(bytes), 0);
		if (got > 0)
			*len += (size_t)got;
	} while (got > 0 || (got == -1 && errno == EINTR));
	if (got == 0)
		return CLEAN_END;
	return errno == EAGAIN ? STILL_OPEN : RESET_END;
}

/* True if the end comes next, clean or not. */
static inline bool ends_cleanly(int fd)
{
	size_t len;

	return drain_to_end(fd, &len) == CLEAN_END && len == 0;
}

static inline bool ends_with_reset(int fd)
{
	size_t len;

	return drain_to_end(fd, &len) == RESET_END;
}

/* True if nothing comes for this long. */
static inline bool stays_silent(int fd, int ms)
{
	struct pollfd it = {.fd = fd, .events = POLLIN};

	return poll(&it, 1, ms) == 0;
}

/* How many bytes came and were right, of at most len, from byte from on. */
static inline size_t hear_pattern(int fd, size_t from, size_t len)
{
	char bytes[16384];
	size_t heard = 0;

	while (heard < len) {
		size_t room = len - heard < sizeof(bytes) ? len - heard
							  : sizeof(bytes);
		ssize_t got = recv(fd, bytes, room, 0);

		if (got == -1 && errno == EINTR)
			continue;
		if (got <= 0 || !is_pattern(bytes, from + heard, (size_t)got))
			break;
		heard += (size_t)got;
	}
	return heard;
}

#endif /* SERVER_RIG_H */
