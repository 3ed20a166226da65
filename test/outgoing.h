/*
 * outgoing.h: for suites of evt_connect: connections that a worker of the
 * server's pool makes, what their handlers have seen, and addresses that refuse
 * or do not answer.
 */
#ifndef OUTGOING_H
#define OUTGOING_H

#include "addresses.h"
#include "server_rig.h"

#include <netdb.h>
#include <sys/un.h>

/* What the handlers of outgoing connections have seen. */
static struct {
	atomic_int opened;
	atomic_int eofs;
	atomic_int drains;
	atomic_int stops;
	atomic_int dones;
	atomic_int dones_at_close; /* how many of them before on_close */
	atomic_int closed;
	atomic_int reason;
	atomic_int error;
	atomic_size_t len; /* of got */
	char got[1024];
	_Atomic(struct evt_conn *) conn;
} out;

static inline void forget_out(void)
{
	atomic_store(&out.opened, 0);
	atomic_store(&out.eofs, 0);
	atomic_store(&out.drains, 0);
	atomic_store(&out.stops, 0);
	atomic_store(&out.dones, 0);
	atomic_store(&out.dones_at_close, 0);
	atomic_store(&out.closed, 0);
	atomic_store(&out.reason, -1);
	atomic_store(&out.error, -1);
	atomic_store(&out.len, 0);
	atomic_store(&out.conn, NULL);
}

static inline void out_open(struct evt_conn *conn, void *arg)
{
	(void)arg;
	atomic_store(&out.conn, conn);
	atomic_fetch_add(&out.opened, 1);
}

static inline size_t out_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	size_t at = atomic_load(&out.len);
	size_t fits = len < sizeof(out.got) - at ? len : sizeof(out.got) - at;

	(void)conn, (void)arg;
	memcpy(out.got + at, data, fits);
	atomic_store(&out.len, at + fits);
	return len;
}

static inline void out_eof(struct evt_conn *conn, void *arg)
{
	(void)arg;
	atomic_fetch_add(&out.eofs, 1);
	evt_conn_close(conn);
}

static inline void out_drain(struct evt_conn *conn, void *arg)
{
	(void)conn, (void)arg;
	atomic_fetch_add(&out.drains, 1);
}

static inline void out_stop(struct evt_conn *conn, void *arg)
{
	(void)conn, (void)arg;
	atomic_fetch_add(&out.stops, 1);
}

static inline void out_done(void *arg)
{
	(void)arg;
	atomic_fetch_add(&out.dones, 1);
}

static inline void out_close(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	(void)arg;
	atomic_store(&out.reason, (int)reason);
	atomic_store(&out.error, evt_conn_error(conn));
	atomic_store(&out.dones_at_close, atomic_load(&out.dones));
	atomic_fetch_add(&out.closed, 1);
}

static const struct evt_handlers out_handlers = {.on_open = out_open,
	.on_data = out_data,
	.on_eof = out_eof,
	.on_drain = out_drain,
	.on_close = out_close};

/* A call of evt_connect (or, with addrs, of evt_connect_addrs) on worker 0, and
 * what is done with the connection in the same callback. */
struct call {
	const char *url;
	const struct addrinfo *addrs;
	const struct evt_handlers *handlers; /* NULL: out_handlers */
	const struct evt_connect_options *options;
	void (*then)(struct evt_conn *conn);
	struct evt_conn *conn; /* the result */
	int error;
};

static inline void make_call(struct evt_worker *worker, void *arg)
{
	struct call *it = arg;
	const struct evt_handlers *handlers = it->handlers ? it->handlers
							   : &out_handlers;

	errno = 0;
	if (it->addrs)
		it->conn = evt_connect_addrs(
			worker, it->addrs, handlers, it->options, NULL);
	else
		it->conn = evt_connect(
			worker, it->url, handlers, it->options, NULL);
	it->error = errno;
	if (it->conn && it->then)
		it->then(it->conn);
}

/* Makes the call, which has to give a connection. */
static inline void call_out(struct call *it)
{
	forget_out();
	assert_true(on_worker(0, make_call, it));
	assert_non_null(it->conn);
}

/* The next call fails, and calls nothing. */
static inline void refuses_call(struct call *it, int error)
{
	forget_out();
	assert_true(on_worker(0, make_call, it));
	assert_null(it->conn);
	assert_int_equal(it->error, error);
	assert_int_equal(atomic_load(&out.closed), 0);
}

/* It has ended once, for this reason, and never was open. */
static inline void expect_failure(enum evt_reason reason, int error)
{
	assert_true(WAIT_FOR(atomic_load(&out.closed) == 1));
	assert_int_equal(atomic_load(&out.reason), reason);
	assert_int_equal(atomic_load(&out.error), error);
	assert_int_equal(atomic_load(&out.opened), 0);
}

/* The last answer is exactly text. */
static inline void out_gets(const char *text)
{
	assert_true(WAIT_FOR(atomic_load(&out.len) >= strlen(text)));
	assert_int_equal(atomic_load(&out.len), strlen(text));
	assert_memory_equal(out.got, text, strlen(text));
}

/* tcp://127.0.0.1:port; static. */
static inline const char *url_of(int port)
{
	static char url[64];

	snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", port);
	return url;
}

/* A client of a listener of the test's own. */
static inline int take_client(int listener)
{
	int fd;

	assert_true(has_client(listener));
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_int_not_equal(fd, -1);
	return fd;
}

/* A list of addresses for evt_connect_addrs. */
struct addr_list {
	struct addrinfo info[80];
	struct sockaddr_in in[80];
	int nr;
};

static inline void add_addr(struct addr_list *list, int port)
{
	struct addrinfo *info = &list->info[list->nr];

	list->in[list->nr] = ipv4("127.0.0.1", port);
	info->ai_family = AF_INET;
	info->ai_socktype = SOCK_STREAM;
	info->ai_addr = (struct sockaddr *)&list->in[list->nr];
	info->ai_addrlen = sizeof(list->in[0]);
	if (list->nr > 0)
		list->info[list->nr - 1].ai_next = info;
	list->nr++;
}

/* A listener that answers nobody: its queue is full. */

#define FILLERS 8

struct blackhole {
	int listener;
	int port;
	int fillers[FILLERS];
	char url[64];
};

static inline void fill(
	struct blackhole *it, const struct sockaddr *addr, socklen_t len)
{
	int i;

	for (i = 0; i < FILLERS; i++) {
		it->fillers[i] = socket(addr->sa_family,
			SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)!connect(it->fillers[i], addr, len);
	}
}

static inline void open_blackhole(struct blackhole *it)
{
	struct sockaddr_in in = ipv4("127.0.0.1", 0);

	it->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(
		bind(it->listener, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(listen(it->listener, 0), 0);
	it->port = evt_net_port_(it->listener);
	in.sin_port = htons((uint16_t)it->port);
	fill(it, (struct sockaddr *)&in, sizeof(in));
	snprintf(it->url, sizeof(it->url), "tcp://127.0.0.1:%d", it->port);
}

/* The same of a unix socket, where the queue's being full is an EAGAIN. */
static inline void open_unix_blackhole(struct blackhole *it)
{
	static int nr; /* one that a failed test left has its name still */
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	socklen_t len;

	snprintf(it->url, sizeof(it->url), "unix:@evt-blackhole-%d-%d",
		getpid(), ++nr);
	memcpy(un.sun_path + 1, it->url + 6, strlen(it->url + 6));
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
		strlen(it->url + 6));
	it->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(it->listener, (struct sockaddr *)&un, len), 0);
	assert_int_equal(listen(it->listener, 0), 0);
	fill(it, (struct sockaddr *)&un, len);
}

static inline void close_blackhole(struct blackhole *it)
{
	int i;

	for (i = 0; i < FILLERS; i++)
		close(it->fillers[i]);
	close(it->listener);
}

#endif /* OUTGOING_H */
