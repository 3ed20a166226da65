/*
 * evt-echo.c: the library's side of the comparison: the echo server that stands
 * at the top of evt-listener.h, with every limit and deadline at its default.
 *
 *	bench/evt-echo PORT [WORKERS [-c | -s]]
 *
 *	-c	close after the first answer, as test/evt_test does
 *	-s	a message that begins with an s keeps its worker busy for a
 *		second; a worker counts as stalled after 100 ms
 */
#include "common.h"

#include "evt-listener.h"

/* What is no error is expected here. */
static void print_errors(int level, const char *line, void *arg)
{
	(void)arg;
	if (level >= EVT_LOG_ERROR)
		fprintf(stderr, "bench: %s\n", line);
}

static size_t echo(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	(void)arg;
	evt_conn_write(conn, data, len);
	return len;
}

static size_t echo_once(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	echo(conn, data, len, arg);
	evt_conn_close(conn);
	return len;
}

static size_t echo_or_stall(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	if (data[0] == 's')
		sleep(1);
	return echo(conn, data, len, arg);
}

static int serve_echo(struct evt_pool *pool, int port, int mode)
{
	struct evt_handlers handlers = {.on_data = echo};
	struct evt_listener *listener;
	char url[32];

	if (mode == 'c')
		handlers.on_data = echo_once;
	if (mode == 's')
		handlers.on_data = echo_or_stall;
	snprintf(url, sizeof(url), "tcp://[::]:%d", port);
	listener = evt_listen(pool, url, &handlers, NULL, NULL);
	if (!listener)
		return -1;
	printf("listening on port %d\n", evt_listener_port(listener));
	fflush(stdout);
	return evt_pool_run(pool);
}

int main(int argc, char **argv)
{
	int mode = argc > 3 && argv[3][0] == '-' ? argv[3][1] : 0;
	struct evt_pool_options options = {
		.workers = argument(argc, argv, 2, 2),
		.stall_ms = mode == 's' ? 100 : 0};
	struct evt_pool *pool;
	int served;

	if (argc < 2 || (argc > 3 && mode != 'c' && mode != 's')) {
		fprintf(stderr,
			"usage: bench/evt-echo PORT [WORKERS "
			"[-c | -s]]\n");
		return 2;
	}
	evt_set_log(print_errors, NULL);
	raise_descriptor_limit();
	pool = evt_pool_new(&options);
	if (!pool)
		return 1;
	served = serve_echo(pool, argument(argc, argv, 1, 0), mode);
	evt_pool_free(pool);
	return served == 0 ? 0 : 1;
}
