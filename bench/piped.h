/*
 * piped.h: a server whose listener hands accepted connections to its workers
 * through pipes (pipes.h), whatever the workers' loops are made of: bare epoll,
 * libevent's bufferevents or libuv. What it shares is not what is compared.
 */
#ifndef BENCH_PIPED_H
#define BENCH_PIPED_H

#include "common.h"
#include "pipes.h"

#include <limits.h>

#define READ_SIZE 65536 /* of a worker's buffer */

struct piped {
	void *(*run_worker)(void *out); /* see pipes_start_loops */
	on_record on_conn;              /* on the worker; its arg is malloced */
	int flags; /* for accept4: SOCK_NONBLOCK if connections stay */
	struct pipes pipes;
};

static struct piped piped;

static inline void hand_over(int conn, struct sockaddr_in6 *client)
{
	pipes_dispatch(&piped.pipes, piped.on_conn, conn, EPOLLIN, client);
}

/* As evt_listen does, where connections stay. */
static inline void keep_alive(int fd)
{
	set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 300);
	set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 30);
	set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
}

/* Serves until SIGINT or SIGTERM, as piped says. */
static inline int serve_piped(int port, int workers)
{
	struct listener listener = {
		.flags = piped.flags, .accepted = hand_over};
	sigset_t signals;

	if (workers < 1 || workers > PIPES_MAX) {
		fprintf(stderr, "bench: 1 to %d workers\n", PIPES_MAX);
		return 2;
	}
	block_signals(&signals);
	raise_descriptor_limit();
	listener.fd = listen_on(port, INT_MAX);
	if (piped.flags & SOCK_NONBLOCK)
		keep_alive(listener.fd);
	pipes_start_loops(&piped.pipes, workers, piped.run_worker);
	start_thread(run_listener, &listener);
	print_port(listener.fd);
	wait_for_end(&signals);
	return 0;
}

#endif /* BENCH_PIPED_H */
