/*
 * soak_server.h: the server of soak.c, an echo on two workers whose pool is
 * made and freed again and again, while one call in a hundred fails that may.
 */
#ifndef SOAK_SERVER_H
#define SOAK_SERVER_H

#include "soak.h"

#include <malloc.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define CYCLE_MS   5000
#define MOST_TRIES 10000

static atomic_bool faults_on; /* in the server alone */
static atomic_long opened;
static atomic_long closed;

/* Faults, with what the manual of each call says that it may give. */

static bool fails(const int *errors, unsigned int nr)
{
	if (!atomic_load_explicit(&faults_on, memory_order_relaxed) ||
		draw(ONE_IN) != 0)
		return false;
	NOTE(faults);
	errno = errors[draw(nr)];
	return true;
}

#define FAULTY(type, name, errors, parameters, arguments)          \
	type __real_##name parameters;                             \
	type __wrap_##name parameters                              \
	{                                                          \
		static const int list[] = errors;                  \
                                                                   \
		return fails(list, sizeof(list) / sizeof(list[0])) \
			? -1                                       \
			: __real_##name arguments;                 \
	}
#define ERRORS(...)         \
	{                   \
		__VA_ARGS__ \
	}

FAULTY(int, accept4,
	ERRORS(EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED, EINTR),
	(int fd, struct sockaddr *peer, socklen_t *len, int flags),
	(fd, peer, len, flags))
FAULTY(ssize_t, recv, ERRORS(ECONNRESET, ETIMEDOUT, ENOMEM, EINTR),
	(int fd, void *bytes, size_t len, int flags), (fd, bytes, len, flags))
FAULTY(ssize_t, send, ERRORS(ECONNRESET, EPIPE, ENOBUFS, EAGAIN, EINTR),
	(int fd, const void *bytes, size_t len, int flags),
	(fd, bytes, len, flags))
FAULTY(ssize_t, sendmsg, ERRORS(ECONNRESET, EPIPE, ENOBUFS, EAGAIN, EINTR),
	(int fd, const struct msghdr *message, int flags), (fd, message, flags))
FAULTY(ssize_t, write, ERRORS(EAGAIN, EINTR),
	(int fd, const void *bytes, size_t len), (fd, bytes, len))
FAULTY(ssize_t, read, ERRORS(EINTR), (int fd, void *bytes, size_t len),
	(fd, bytes, len))
FAULTY(int, epoll_ctl, ERRORS(ENOMEM, ENOSPC),
	(int epoll, int what, int fd, struct epoll_event *event),
	(epoll, what, fd, event))
FAULTY(int, epoll_wait, ERRORS(EINTR),
	(int fd, struct epoll_event *events, int nr, int ms),
	(fd, events, nr, ms))
FAULTY(int, epoll_create1, ERRORS(EMFILE, ENOMEM), (int flags), (flags))
FAULTY(int, pipe2, ERRORS(EMFILE, ENFILE), (int ends[2], int flags),
	(ends, flags))
FAULTY(int, socket, ERRORS(EMFILE, ENOBUFS), (int family, int type, int what),
	(family, type, what))
FAULTY(int, listen, ERRORS(EADDRINUSE), (int fd, int backlog), (fd, backlog))

static void set_faults(bool on)
{
	atomic_store(&faults_on, on);
	fail_allocations_by_chance(on ? ONE_IN : 0, draw(1u << 30));
}

/* The pool */

static void soak_open(struct evt_conn *conn, void *arg)
{
	(void)conn, (void)arg;
	atomic_fetch_add(&opened, 1);
}

static size_t soak_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)arg;
	(void)evt_conn_write(conn, data, len);
	return len;
}

static void soak_close(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	(void)conn, (void)reason, (void)arg;
	atomic_fetch_add(&closed, 1);
}

static void soak_error(struct evt_listener *listener, int error, void *arg)
{
	(void)listener, (void)error, (void)arg;
	NOTE(errors);
}

static void no_line(int level, const char *line, void *arg)
{
	(void)level, (void)line, (void)arg;
}

/* NULL when a fault was in the way. */
static struct evt_pool *try_to_serve(void)
{
	static const struct evt_pool_options options = {
		.workers = 2, .grace_ms = 500};
	static const struct evt_handlers handlers = {.on_open = soak_open,
		.on_data = soak_data,
		.on_close = soak_close};
	static const struct evt_listen_options how = {.first_byte_ms = 1000,
		.idle_ms = 2000,
		.lifetime_ms = 4000,
		.on_error = soak_error};
	struct evt_pool *pool = evt_pool_new(&options);
	struct evt_listener *listener = pool
		? evt_listen(pool, "tcp://127.0.0.1:0", &handlers, &how, NULL)
		: NULL;

	if (listener && evt_pool_start(pool) == 0) {
		atomic_store(&board->port, evt_listener_port(listener));
		return pool;
	}
	if (pool)
		evt_pool_free(pool);
	NOTE(failed_makes);
	return NULL;
}

static struct evt_pool *make_server(void)
{
	struct evt_pool *pool = NULL;
	int tries;

	for (tries = 0; !pool; tries++) {
		CHECK(tries < MOST_TRIES);
		pool = try_to_serve();
	}
	return pool;
}

static void end_server(struct evt_pool *pool, struct cycle *it)
{
	const struct evt_stats *stats = &it->stats;

	atomic_store(&board->port, 0);
	evt_pool_stop(pool);
	it->stopped_cleanly = evt_pool_wait(pool) == 0;
	CHECK(evt_pool_stats(pool, &it->stats) == 0);
	it->counters_even = stats->open == 0 &&
		stats->accepted ==
			stats->opened + stats->refused + stats->dropped &&
		stats->opened + stats->connected ==
			stats->closed_peer + stats->closed_ours +
				stats->closed_reset + stats->closed_idle +
				stats->closed_deadline +
				stats->closed_overflow + stats->closed_stopped +
				stats->closed_failed;
	evt_pool_free(pool);
	it->callbacks_even = atomic_load(&opened) == atomic_load(&closed);
}

static void run_cycle(long allocations)
{
	int64_t until = now_ms() + CYCLE_MS;
	struct evt_pool *pool;

	set_faults(true);
	pool = make_server();
	while (now_ms() < until && !atomic_load(&board->over))
		usleep(1000);
	end_server(pool, &board->last);
	set_faults(false);
	malloc_trim(0);
	board->last.allocations = count_allocations() - allocations;
	atomic_fetch_add(&board->ended, 1);
}

/* Ends with its parent. */
static void soak_server(pid_t parent)
{
	long allocations;

	evt_set_log(no_line, NULL);
	/* What malloc holds free it gives back of its first arena only. */
	CHECK(mallopt(M_ARENA_MAX, 1) == 1);
	allocations = count_allocations();
	while (!atomic_load(&board->over)) {
		run_cycle(allocations);
		while (atomic_load(&board->noted) < atomic_load(&board->ended))
			if (usleep(1000) == 0 && getppid() != parent)
				_exit(1);
	}
	_exit(0);
}

#endif /* SOAK_SERVER_H */
