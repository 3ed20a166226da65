/*
 * evt-conn-out.c: connections that we make.
 *
 * Until it is connected such a connection has no handler called; what is
 * written waits with the output that every connection may have, and the event
 * that waits for room there tells of the connect's end too. Addresses are tried
 * one after the other, each for its share of what is left of the time. To start
 * several at once (RFC 8305) was rejected: it hides a broken address at the
 * cost of the other side's accepts.
 */
#include "evt-conn-internal.h"
#include "evt-log-internal.h"
#include "evt-net-internal.h"
#include "evt-unix-internal.h"
#include "evt-url-internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECT_MS    10000
#define MAX_ADDRESSES 64

struct address {
	struct sockaddr_storage addr;
	socklen_t len;
};

/* What such a connection has beside its struct. */
struct outgoing {
	struct evt_setup setup; /* must be first */
	uint32_t until_ms;      /* for all of them, while has_end */
	uint32_t this_until_ms; /* for the one that is being tried */
	bool has_end;
	int next; /* the address to try next */
	int nr;
	struct address addresses[];
};

static struct outgoing *outgoing_of(struct evt_conn *conn)
{
	return (struct outgoing *)(void *)conn->setup;
}

static void on_gone(struct evt_setup *setup, uint32_t source)
{
	(void)source;
	free(setup);
}

/* The time that the next address may take: its share of what is left. */
static void share_time(struct evt_conn *conn, struct outgoing *out)
{
	uint32_t now_ms = conn->home->worker->now_ms;
	int32_t left = (int32_t)(out->until_ms - now_ms);
	int others = out->nr - out->next - 1;

	if (!out->has_end) {
		out->this_until_ms = now_ms + INT32_MAX;
		return;
	}
	left = left > 0 ? left / (others + 1) : 0;
	out->this_until_ms = now_ms + (uint32_t)(left > 0 ? left : 1);
}

uint32_t evt_conn_connect_until_(struct evt_conn *conn)
{
	return outgoing_of(conn)->this_until_ms;
}

/* Trying */

/* The events of the connection are for fd from now on. */
static int watch(struct evt_conn *conn, int fd)
{
	conn->fd = fd;
	return evt_conn_await_(conn, EVT_CONN_WRITING);
}

static void unwatch(struct evt_conn *conn)
{
	if (conn->fd == -1)
		return;
	(void)evt_conn_await_(conn, 0);
	close(conn->fd);
	conn->fd = -1;
}

/* 0: it is on its way, or done. A full backlog of a unix socket is EAGAIN:
 * asked again in a moment. */
static int try_one(struct evt_conn *conn, const struct address *address)
{
	const struct sockaddr *addr = (const struct sockaddr *)&address->addr;
	int fd = evt_net_client_socket_(addr->sa_family);
	int error;

	if (fd == -1)
		return errno;
	conn->setup->reads_to_end = addr->sa_family == AF_UNIX;
	if (connect(fd, addr, address->len) == -1 && errno != EINPROGRESS &&
		errno != EINTR) {
		error = errno;
		close(fd);
		return error;
	}
	if (watch(conn, fd) == 0)
		return 0;
	unwatch(conn);
	return ENOMEM;
}

/* The next address that is not refused at once; if there is none, the
 * connection ends with error, or the last one's. again: the first is one that
 * had no room, whose time runs already. */
static void try_next(struct evt_conn *conn, int error, bool again)
{
	struct outgoing *out = outgoing_of(conn);

	while (out->next < out->nr) {
		struct address *address = &out->addresses[out->next];

		if (!again)
			share_time(conn, out);
		again = false;
		error = try_one(conn, address);
		if (error == EAGAIN)
			conn->flags |= EVT_CONN_RETRY;
		else
			out->next++;
		if (error && error != EAGAIN)
			continue;
		evt_conn_schedule_(conn);
		return;
	}
	evt_conn_fail_(conn, EVT_REASON_FAILED, error);
}

static void set_out(struct evt_conn *conn)
{
	conn->flags &= ~(uint32_t)EVT_CONN_CONNECTING;
	evt_conn_open_(conn, &evt_conn_counters_(conn)->connected);
	evt_conn_send_(conn); /* what was written meanwhile */
	if (conn->home->draining)
		evt_conn_tell_stop_(conn);
}

void evt_conn_connecting_(struct evt_conn *conn)
{
	socklen_t len = sizeof(int);
	int error = 0;

	if (conn->flags & EVT_CONN_OVER)
		return;
	if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len) == -1)
		error = errno;
	if (error == 0) {
		set_out(conn);
		return;
	}
	unwatch(conn);
	try_next(conn, error, false);
}

void evt_conn_connect_timeout_(struct evt_conn *conn)
{
	struct outgoing *out = outgoing_of(conn);

	if (conn->flags & EVT_CONN_OVER)
		return;
	unwatch(conn);
	if (conn->flags & EVT_CONN_RETRY) /* of this one it has had enough */
		out->next++;
	conn->flags &= ~(uint32_t)EVT_CONN_RETRY;
	try_next(conn, ETIMEDOUT, false);
}

void evt_conn_connect_retry_(struct evt_conn *conn)
{
	if (!(conn->flags & EVT_CONN_OVER))
		try_next(conn, EAGAIN, true);
}

/* evt-conn.h */

/* Room for nr addresses, and what the options say; NULL with a line. */
static struct outgoing *new_outgoing(const char *call, int nr,
	const struct evt_handlers *handlers, size_t handlers_size,
	const struct evt_connect_options *wanted, size_t size, void *arg)
{
	struct evt_connect_options options;
	struct evt_limits limits = {.call = call, .first_byte_ms = -1};
	struct outgoing *out;

	if (!evt_options_copy_(&options, sizeof(options), wanted, size)) {
		evt_fail_(EINVAL, "%s: options of a newer library", call);
		return NULL;
	}
	if (evt_option_(call, "connect_ms", &options.connect_ms, CONNECT_MS) ==
		-1)
		return NULL;
	limits.idle_ms = options.idle_ms;
	limits.lifetime_ms = options.lifetime_ms;
	limits.max_input = options.max_input;
	limits.high_mark = options.high_mark;
	limits.low_mark = options.low_mark;
	limits.max_output = options.max_output;
	out = calloc(1, sizeof(*out) + (size_t)nr * sizeof(struct address));
	if (!out) {
		evt_fail_(ENOMEM, "%s", call);
		return NULL;
	}
	if (evt_setup_init_(
		    &out->setup, &limits, handlers, handlers_size, arg) == -1) {
		free(out);
		return NULL;
	}
	out->setup.on_gone = on_gone;
	out->has_end = options.connect_ms != -1;
	out->until_ms = (uint32_t)evt_now_ms_() + (uint32_t)options.connect_ms;
	return out;
}

/* Takes out in any case. */
static struct evt_conn *start(
	const char *call, struct evt_worker *worker, struct outgoing *out)
{
	struct evt_home *home = worker->state;
	struct evt_conn *conn = evt_conn_new_(home, &out->setup);

	if (!conn) {
		free(out);
		evt_fail_(ENOMEM, "%s", call);
		return NULL;
	}
	conn->flags |= EVT_CONN_CONNECTING;
	if (evt_conn_need_unsent_(conn) == -1) {
		conn->flags |= EVT_CONN_CLOSED;
		evt_conn_dispose_(conn);
		evt_fail_(ENOMEM, "%s", call);
		return NULL;
	}
	if (worker->depth == 0) /* outside of a turn its time is the last's */
		worker->now_ms = (uint32_t)evt_now_ms_();
	try_next(conn, EINVAL, false);
	return conn;
}

/* 0 if the caller may connect there. */
static int check(struct evt_worker *worker, const char *call)
{
	if (evt_forked_())
		return evt_fail_(EPERM, "%s in a forked child", call);
	if (!worker || !worker->state || evt_thread_self_() != worker)
		return evt_fail_(EINVAL, "%s: not on that worker", call);
	if (atomic_load(&worker->pool->draining) || worker->done ||
		atomic_load(&worker->lost))
		return evt_fail_(ECANCELED, "%s", call);
	return 0;
}

/* The one address that url has; its length, 0 if it is no number. */
static socklen_t address_of(
	const struct evt_url *url, struct sockaddr_storage *addr)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)addr;
	struct sockaddr_in *in = (struct sockaddr_in *)addr;

	if (url->kind == EVT_URL_UNIX)
		return evt_unix_addr_(url, (struct sockaddr_un *)addr);
	if (inet_pton(AF_INET6, url->host, &in6->sin6_addr) == 1) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons((uint16_t)url->port);
		return sizeof(*in6);
	}
	memset(addr, 0, sizeof(*addr));
	if (inet_pton(AF_INET, url->host, &in->sin_addr) != 1)
		return 0;
	in->sin_family = AF_INET;
	in->sin_port = htons((uint16_t)url->port);
	return sizeof(*in);
}

static int parse(
	const char *text, struct sockaddr_storage *addr, socklen_t *len)
{
	const char *why = "a numeric host is needed: tcp://127.0.0.1:80";
	struct evt_url url;
	int error = EINVAL;

	memset(addr, 0, sizeof(*addr));
	*len = 0;
	if (evt_url_parse_(text, &url, &why) == -1)
		error = errno;
	else if (url.kind != EVT_URL_TCP && url.kind != EVT_URL_UNIX)
		why = "tcp: and unix: only";
	else
		*len = address_of(&url, addr);
	if (*len > 0)
		return 0;
	return evt_fail_(error, "evt_connect to \"%s\": %s",
		text ? text : "(null)", why);
}

struct evt_conn *evt_connect_sized(struct evt_worker *worker, const char *url,
	const struct evt_handlers *handlers, size_t handlers_size,
	const struct evt_connect_options *options, size_t options_size,
	void *arg)
{
	struct address address;
	struct outgoing *out;

	if (check(worker, "evt_connect") == -1 ||
		parse(url, &address.addr, &address.len) == -1)
		return NULL;
	out = new_outgoing("evt_connect", 1, handlers, handlers_size, options,
		options_size, arg);
	if (!out)
		return NULL;
	out->addresses[out->nr++] = address;
	return start("evt_connect", worker, out);
}

struct evt_conn *evt_connect_addrs_sized(struct evt_worker *worker,
	const struct addrinfo *addrs, const struct evt_handlers *handlers,
	size_t handlers_size, const struct evt_connect_options *options,
	size_t options_size, void *arg)
{
	const struct addrinfo *ai;
	struct outgoing *out;
	int nr = 0;

	if (check(worker, "evt_connect_addrs") == -1)
		return NULL;
	if (!addrs) {
		evt_fail_(EINVAL, "evt_connect_addrs without an address");
		return NULL;
	}
	for (ai = addrs; ai && nr < MAX_ADDRESSES; ai = ai->ai_next)
		nr++;
	out = new_outgoing("evt_connect_addrs", nr, handlers, handlers_size,
		options, options_size, arg);
	if (!out)
		return NULL;
	for (ai = addrs; ai && out->nr < nr; ai = ai->ai_next) {
		struct address *address = &out->addresses[out->nr];

		if (!ai->ai_addr || ai->ai_addrlen > sizeof(address->addr))
			continue;
		memcpy(&address->addr, ai->ai_addr, ai->ai_addrlen);
		address->len = ai->ai_addrlen;
		out->nr++;
	}
	return start("evt_connect_addrs", worker, out);
}
