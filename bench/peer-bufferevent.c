/*
 * peer-bufferevent.c: the echo of bare -k with libevent's bufferevents: what
 * one writes who follows libevent's book. Its bases have no locks, and what is
 * read moves to the output without a copy.
 *
 *	bench/peer-bufferevent PORT [WORKERS]
 */
#include "piped.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>

static _Thread_local struct event_base *base;

static void on_read(struct bufferevent *conn, void *arg)
{
	(void)arg;
	if (bufferevent_write_buffer(conn, bufferevent_get_input(conn)) == -1)
		die("bufferevent_write_buffer");
}

/* The end of the stream, or an error. */
static void on_end(struct bufferevent *conn, short what, void *arg)
{
	(void)what;
	(void)arg;
	bufferevent_free(conn);
}

static void on_conn(int fd, short what, void *client)
{
	struct bufferevent *conn = bufferevent_socket_new(
		base, fd, BEV_OPT_CLOSE_ON_FREE);

	(void)what;
	free(client);
	if (!conn)
		die("bufferevent_socket_new");
	bufferevent_set_max_single_read(conn, READ_SIZE);
	bufferevent_set_max_single_write(conn, READ_SIZE);
	bufferevent_setcb(conn, on_read, NULL, on_end, NULL);
	if (bufferevent_enable(conn, EV_READ) == -1)
		die("bufferevent_enable");
}

static void on_pipe(evutil_socket_t fd, short what, void *batch)
{
	(void)what;
	run_records(fd, batch);
}

static struct event_base *new_base(void)
{
	struct event_config *config = event_config_new();
	struct event_base *made;

	if (!config ||
		event_config_set_flag(config,
			EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_IGNORE_ENV) ==
			-1)
		die("event_config_new");
	made = event_base_new_with_config(config);
	if (!made)
		die("event_base_new_with_config");
	event_config_free(config);
	return made;
}

static void *run_worker(void *out)
{
	struct record batch[PIPES_BATCH];
	struct event *pipe_ready;

	base = new_base();
	pipe_ready = event_new(
		base, *(int *)out, EV_READ | EV_PERSIST, on_pipe, batch);
	if (!pipe_ready || event_add(pipe_ready, NULL) == -1)
		die("event_new");
	event_base_dispatch(base);
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr,
			"usage: bench/peer-bufferevent PORT "
			"[WORKERS]\n");
		return 2;
	}
	piped.run_worker = run_worker;
	piped.on_conn = on_conn;
	piped.flags = SOCK_NONBLOCK;
	return serve_piped(
		argument(argc, argv, 1, 0), argument(argc, argv, 2, 2));
}
