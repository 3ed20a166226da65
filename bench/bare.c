/*
 * bare.c: the server of test/evt_test on bare epoll, pthreads and a pipe of
 * descriptors per worker, without any library: the limit to compare with.
 *
 *	bench/bare PORT [WORKERS]
 */
#include "common.h"
#include "pipes.h"

#include <limits.h>

static struct pipes pipes;

static void on_conn(int conn, short what, void *client)
{
	(void)what;
	serve(conn, client);
}

static void hand_over(int conn, struct sockaddr_in6 *client)
{
	pipes_dispatch(&pipes, on_conn, conn, EPOLLIN, client);
}

int main(int argc, char **argv)
{
	struct listener listener = {.accepted = hand_over};
	int workers = argument(argc, argv, 2, 2);
	sigset_t signals;

	if (argc < 2 || workers < 1 || workers > PIPES_MAX) {
		fprintf(stderr, "usage: bench/bare PORT [WORKERS]\n");
		return 2;
	}
	block_signals(&signals);
	listener.fd = listen_on(argument(argc, argv, 1, 0), INT_MAX);
	pipes_start(&pipes, workers);
	start_thread(run_listener, &listener);
	print_port(listener.fd);
	wait_for_end(&signals);
	return 0;
}
