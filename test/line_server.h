/*
 * line_server.h: a server that echoes until its client has ended, for suites
 * that look at the process around it. Everything is static, one in a suite.
 */
#ifndef LINE_SERVER_H
#define LINE_SERVER_H

#include "ledger.h"
#include "../evt-server.h"

static atomic_int served;
static atomic_int in_tcb;
static atomic_int result;
static atomic_bool gate;
static atomic_int lowest_conn;

static inline void on_client(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn = evt_tcp(fd, NULL);

	if (conn == -1)
		return;
	if (conn < atomic_load(&lowest_conn))
		atomic_store(&lowest_conn, conn);
	if (evt_thread_dispatch(conn, evt, arg) == -1)
		evt_close(conn);
}

static inline void echo(sockfd_t conn, short evt, void *arg)
{
	char bytes[4096];
	ssize_t len;

	(void)evt, (void)arg;
	atomic_fetch_add(&in_tcb, 1);
	while ((len = read(conn, bytes, sizeof(bytes))) > 0)
		if (!send_all(conn, bytes, (size_t)len))
			break;
	evt_close(conn);
	atomic_fetch_add(&served, 1);
}

static inline int start_server(evt_callback cb, evt_callback tcb, int workers)
{
	atomic_store(&served, 0);
	atomic_store(&in_tcb, 0);
	atomic_store(&result, -2);
	atomic_store(&gate, false);
	atomic_store(&lowest_conn, INT32_MAX);
	if (evt_server_init(0, SOCK_STREAM) == -1 ||
		evt_server_start(cb, NULL) == -1 ||
		evt_server_threads(tcb, workers) != workers)
		return -1;
	return evt_server_port();
}

/* A test that fails must not leave its server to the next one. */
static inline int stop_and_close(void **state)
{
	atomic_store(&gate, true);
	evt_server_stop();
	evt_server_grace_ms(5000);
	return ledger_close(state);
}

#define LINE_TEST(fn)                                             \
	{                                                         \
#fn, fn, ledger_open, stop_and_close, (void *)#fn \
	}

static inline bool serves(int port)
{
	char answer[6];
	int fd = connect_to(port);
	bool ok = fd != -1 && send_all(fd, "a line", 6) &&
		receive_all(fd, answer, 6) && memcmp(answer, "a line", 6) == 0;

	if (fd != -1)
		close(fd);
	return ok;
}

#endif /* LINE_SERVER_H */
