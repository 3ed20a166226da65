/*
 * peer-libuv.c: the echo of bare -k on libuv, a loop for each worker. What is
 * read into the worker's one buffer is written at once with uv_try_write; what
 * the kernel does not take is copied and left to uv_write, and the connection
 * is not read meanwhile. Built only where libuv is.
 *
 *	bench/peer-libuv PORT [WORKERS]
 */
#include "piped.h"

#include <uv.h>

static _Thread_local uv_loop_t loop;
static _Thread_local char received[READ_SIZE];

/* The rest of an answer. */
struct rest {
	uv_write_t request;
	char data[];
};

static void check(const char *what, int error)
{
	if (error < 0) {
		fprintf(stderr, "bench: %s: %s\n", what, uv_strerror(error));
		exit(1);
	}
}

static void on_closed(uv_handle_t *conn)
{
	free(conn);
}

static void end(uv_stream_t *conn)
{
	if (!uv_is_closing((uv_handle_t *)conn))
		uv_close((uv_handle_t *)conn, on_closed);
}

static void give_buffer(uv_handle_t *conn, size_t wanted, uv_buf_t *given)
{
	(void)conn;
	(void)wanted;
	*given = uv_buf_init(received, sizeof(received));
}

static void on_read(uv_stream_t *conn, ssize_t len, const uv_buf_t *data);

static void on_rest_sent(uv_write_t *request, int error)
{
	uv_stream_t *conn = request->handle;

	free(request->data);
	if (error < 0)
		end(conn);
	else
		check("uv_read_start",
			uv_read_start(conn, give_buffer, on_read));
}

static void write_rest(uv_stream_t *conn, const char *data, size_t len)
{
	struct rest *rest = malloc(sizeof(*rest) + len);
	uv_buf_t bytes;

	if (!rest)
		die("malloc");
	memcpy(rest->data, data, len);
	rest->request.data = rest;
	bytes = uv_buf_init(rest->data, (unsigned)len);
	uv_read_stop(conn);
	check("uv_write",
		uv_write(&rest->request, conn, &bytes, 1, on_rest_sent));
}

static void on_read(uv_stream_t *conn, ssize_t len, const uv_buf_t *data)
{
	uv_buf_t answer;
	int sent;

	if (len < 0) {
		end(conn);
		return;
	}
	if (len == 0) /* EAGAIN */
		return;
	answer = uv_buf_init(data->base, (unsigned)len);
	sent = uv_try_write(conn, &answer, 1);
	if (sent == UV_EAGAIN)
		sent = 0;
	if (sent < 0)
		end(conn);
	else if (sent < len)
		write_rest(conn, data->base + sent, (size_t)(len - sent));
}

static void on_conn(int fd, short what, void *client)
{
	uv_tcp_t *conn = malloc(sizeof(*conn));

	(void)what;
	free(client);
	if (!conn)
		die("malloc");
	check("uv_tcp_init", uv_tcp_init(&loop, conn));
	check("uv_tcp_open", uv_tcp_open(conn, fd));
	check("uv_read_start",
		uv_read_start((uv_stream_t *)conn, give_buffer, on_read));
}

static void on_pipe(uv_poll_t *pipe_ready, int error, int what)
{
	struct record batch[PIPES_BATCH];
	const int *out = pipe_ready->data;

	(void)what;
	check("uv_poll", error);
	run_records(*out, batch);
}

static void *run_worker(void *out)
{
	uv_poll_t pipe_ready;

	check("uv_loop_init", uv_loop_init(&loop));
	check("uv_poll_init", uv_poll_init(&loop, &pipe_ready, *(int *)out));
	pipe_ready.data = out;
	check("uv_poll_start",
		uv_poll_start(&pipe_ready, UV_READABLE, on_pipe));
	uv_run(&loop, UV_RUN_DEFAULT);
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: bench/peer-libuv PORT [WORKERS]\n");
		return 2;
	}
	piped.run_worker = run_worker;
	piped.on_conn = on_conn;
	piped.flags = SOCK_NONBLOCK;
	return serve_piped(
		argument(argc, argv, 1, 0), argument(argc, argv, 2, 2));
}
