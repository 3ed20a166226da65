/*
 * timed_conns.h: for suites of timeouts: handlers that note when they were
 * called, a client that trickles, and clocks that can be set.
 *
 * clock_gettime is defined here, so that libevent calls it too. Times that a
 * test measures are those of the real clock.
 */
#ifndef TIMED_CONNS_H
#define TIMED_CONNS_H

#include "server_rig.h"

#include <event2/event.h>
#include <sys/syscall.h>
#include <time.h>

static atomic_long realtime_shift; /* in seconds */
static atomic_long monotonic_shift;

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int error = (int)syscall(SYS_clock_gettime, clock, now);

	if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
		now->tv_sec += atomic_load(&realtime_shift);
	if (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE)
		now->tv_sec += atomic_load(&monotonic_shift);
	return error;
}

static inline int64_t real_us(void)
{
	struct timespec now;

	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* So many ms, and more where all is slower. */
static inline int scaled(int ms)
{
	return ms * slowness();
}

/* Handlers that note when they were called. */

static atomic_int_least64_t opened_us;
static atomic_int_least64_t set_us; /* before a timeout was set */
static atomic_int_least64_t closed_us;
static atomic_int_least64_t timeout_us[8];
static atomic_int timeout_reason;

static inline void open_now(struct evt_conn *conn, void *arg)
{
	atomic_store(&opened_us, real_us());
	note_open(conn, arg);
}

static inline void close_now(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	atomic_store(&closed_us, real_us());
	note_close(conn, reason, arg);
}

static inline void time_now(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	int nr = atomic_load(&seen.timeouts);

	if (nr < 8)
		atomic_store(&timeout_us[nr], real_us());
	atomic_store(&timeout_reason, (int)reason);
	note_timeout(conn, reason, arg);
}

static inline void farewell(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	time_now(conn, reason, arg);
	evt_conn_printf(conn, "%s", evt_reason_name(reason));
	evt_conn_close(conn);
}

static const struct evt_handlers plain_handlers = {
	.on_open = open_now, .on_data = echo_data, .on_close = close_now};

static inline int64_t lived_ms(void)
{
	return (atomic_load(&closed_us) - atomic_load(&opened_us)) / 1000;
}

/* A byte each time that pace_ms have passed without an answer, until the other
 * side ends it or nr are sent; true if it was ended. */
static inline bool trickle(int fd, int nr, int pace_ms)
{
	struct pollfd in = {.fd = fd, .events = POLLIN};
	char bytes[64];

	for (; nr > 0; nr--) {
		if (send(fd, "t", 1, MSG_NOSIGNAL) == -1)
			return true;
		while (poll(&in, 1, pace_ms) == 1)
			if (recv(fd, bytes, sizeof(bytes), 0) <= 0)
				return true;
	}
	return false;
}

static inline void expect_end(enum evt_reason reason)
{
	assert_true(WAIT_FOR(nr_closed() == 1));
	assert_int_equal(last_reason(), reason);
	assert_int_equal(nr_closed(), 1);
}

/* evt_conn_set_timeout on the last connection */

struct setting {
	enum evt_timeout timeout;
	int ms;
	int result;
	int error;
};

static inline void set_timeout(struct evt_conn *conn, void *arg)
{
	struct setting *it = arg;

	atomic_store(&set_us, real_us());
	errno = 0;
	it->result = conn ? evt_conn_set_timeout(conn, it->timeout, it->ms) : 9;
	it->error = errno;
}

static inline void apply(enum evt_timeout timeout, int ms)
{
	static struct setting it;

	it.timeout = timeout;
	it.ms = ms;
	assert_true(on_last_conn(set_timeout, &it));
	assert_int_equal(it.result, 0);
}

#endif /* TIMED_CONNS_H */
