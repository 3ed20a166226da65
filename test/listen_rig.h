/*
 * listen_rig.h: beside server_rig.h, for suites of listeners: a pool before it
 * runs, more than one listener, clients in numbers, and the sums that have to
 * be even once a pool has stopped.
 */
#ifndef LISTEN_RIG_H
#define LISTEN_RIG_H

#include "rig.h"
#include "server_rig.h"

#define ANY_PORT "tcp://127.0.0.1:0"

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static const struct evt_handlers echo_handlers = {
	.on_open = note_open, .on_data = echo_data, .on_close = note_close};

/* A pool that does not run yet. */
static inline void make_pool(int workers)
{
	const struct evt_pool_options options = {.workers = workers};

	stop_server();
	forget_seen();
	server.pool = evt_pool_new(&options);
	assert_non_null(server.pool);
}

static inline struct evt_listener *listen_at(
	const char *url, const struct evt_listen_options *options)
{
	struct evt_listener *listener = evt_listen(
		server.pool, url, &echo_handlers, options, NULL);

	assert_non_null(listener);
	server.listener = listener;
	server.port = evt_listener_port(listener);
	return listener;
}

static inline void run_pool(void)
{
	assert_int_equal(evt_pool_start(server.pool), 0);
}

static inline void start_echo(
	const struct evt_listen_options *options, int workers)
{
	make_pool(workers);
	listen_at(ANY_PORT, options);
	run_pool();
}

/* Stops and frees the pool: the counters, of which none may miss. */
static inline struct evt_stats end_server(void)
{
	struct evt_stats it;

	evt_pool_stop(server.pool);
	assert_int_equal(evt_pool_wait(server.pool), 0);
	it = server_stats();
	stop_server();
	assert_int_equal(it.accepted, it.opened + it.refused + it.dropped);
	assert_int_equal(it.open, 0);
	assert_int_equal(it.opened + it.connected,
		it.closed_peer + it.closed_ours + it.closed_reset +
			it.closed_idle + it.closed_deadline +
			it.closed_overflow + it.closed_stopped +
			it.closed_failed);
	return it;
}

/* Clients */

/* A byte comes back. */
static inline bool echoes(int fd)
{
	char byte = 'x';

	return send_all(fd, "e", 1) && receive_all(fd, &byte, 1) && byte == 'e';
}

static inline bool is_served(int fd)
{
	bool good = fd != -1 && echoes(fd);

	if (fd != -1)
		close(fd);
	return good;
}

static inline bool serves(int port)
{
	return is_served(connect_to(port));
}

static inline void dial_all(int fds[], int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		fds[i] = dial();
}

static inline void hang_up(const int fds[], int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		close(fds[i]);
}

/* The port that client fd has, which its peer sees. */
static inline int own_port(int fd)
{
	struct sockaddr_in in = {0};
	socklen_t len = sizeof(in);

	getsockname(fd, (struct sockaddr *)&in, &len);
	return ntohs(in.sin_port);
}

#endif /* LISTEN_RIG_H */
