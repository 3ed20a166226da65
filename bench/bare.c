/*
 * bare.c: servers on bare epoll, pthreads and a pipe of descriptors per worker,
 * without any library: the limit to compare with. As a rule that of
 * test/evt_test, which closes after one answer; with -k an echo whose
 * connections stay, each in the epoll instance of its worker.
 *
 *	bench/bare PORT [WORKERS [-k]]
 *
 * An answer is written at once, from the buffer it was read into. Only when the
 * kernel does not take all of it is the rest kept, and the connection waits to
 * be writable and is not read.
 */
#include "piped.h"

#define EVENTS 128

/* rest is NULL unless something is unsent. */
struct conn {
	int fd;
	size_t sent, len; /* of rest */
	char *rest;
};

static _Thread_local int ready; /* its epoll instance */
static _Thread_local char received[READ_SIZE];

/* One transaction */

static void on_conn(int conn, short what, void *client)
{
	(void)what;
	serve(conn, client);
}

/* Connections that stay */

static void watch(int op, struct conn *conn, uint32_t events)
{
	struct epoll_event event = {.events = events};

	event.data.ptr = conn;
	if (epoll_ctl(ready, op, conn->fd, &event) == -1)
		die("epoll_ctl");
}

static struct conn *new_conn(int fd)
{
	struct conn *conn = calloc(1, sizeof(*conn));

	if (!conn)
		die("calloc");
	conn->fd = fd;
	return conn;
}

static void on_conn_that_stays(int fd, short what, void *client)
{
	(void)what;
	free(client);
	watch(EPOLL_CTL_ADD, new_conn(fd), EPOLLIN);
}

static void end(struct conn *conn)
{
	close(conn->fd);
	free(conn->rest);
	free(conn);
}

/* How much the kernel took, or -1. */
static ssize_t send_some(const struct conn *conn, const char *data, size_t len)
{
	ssize_t sent = send(conn->fd, data, len, 0);

	return sent == -1 && errno == EAGAIN ? 0 : sent;
}

static void keep_rest(struct conn *conn, const char *data, size_t len)
{
	conn->rest = malloc(len);
	if (!conn->rest)
		die("malloc");
	memcpy(conn->rest, data, len);
	conn->sent = 0;
	conn->len = len;
	watch(EPOLL_CTL_MOD, conn, EPOLLOUT);
}

static void send_rest(struct conn *conn)
{
	ssize_t sent = send_some(
		conn, conn->rest + conn->sent, conn->len - conn->sent);

	if (sent == -1) {
		end(conn);
		return;
	}
	conn->sent += (size_t)sent;
	if (conn->sent < conn->len)
		return;
	free(conn->rest);
	conn->rest = NULL;
	watch(EPOLL_CTL_MOD, conn, EPOLLIN);
}

static void answer(struct conn *conn)
{
	ssize_t len = recv(conn->fd, received, sizeof(received), 0);
	ssize_t sent;

	if (len == -1 && errno == EAGAIN)
		return;
	if (len <= 0) {
		end(conn);
		return;
	}
	sent = send_some(conn, received, (size_t)len);
	if (sent == -1)
		end(conn);
	else if (sent < len)
		keep_rest(conn, received + sent, (size_t)(len - sent));
}

static void on_ready(struct conn *conn)
{
	if (conn->rest)
		send_rest(conn);
	else
		answer(conn);
}

static void *run_echo(void *out)
{
	int fd = *(int *)out;
	struct epoll_event events[EVENTS];
	struct record batch[PIPES_BATCH];

	ready = epoll_of(fd);
	for (;;) {
		int count = epoll_wait(ready, events, EVENTS, -1);

		for (int i = 0; i < count; i++) {
			if (events[i].data.ptr)
				on_ready(events[i].data.ptr);
			else
				run_records(fd, batch);
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int stays = argc > 3 && strcmp(argv[3], "-k") == 0;

	if (argc < 2 || argc > 3 + stays) {
		fprintf(stderr, "usage: bench/bare PORT [WORKERS [-k]]\n");
		return 2;
	}
	piped.run_worker = stays ? run_echo : run_pipe_worker;
	piped.on_conn = stays ? on_conn_that_stays : on_conn;
	piped.flags = stays ? SOCK_NONBLOCK : 0;
	return serve_piped(
		argument(argc, argv, 1, 0), argument(argc, argv, 2, 2));
}
