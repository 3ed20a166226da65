/*
 * proxy: passes TCP connections on to another server, byte for byte.
 *
 * Start it:	examples/proxy tcp://:6380 tcp://localhost:6379	(Ctrl-C ends it)
 * Try it:	redis-cli -p 6380 ping		with a redis-server on 6379
 *
 * The answer, PONG, is that of the server behind. Each URL may be unix:/PATH.
 *
 * A client and the connection made for it are a pair on one worker: what one
 * sends is written to the other, which may still be connecting. While more than
 * 64 KiB wait for one, the other is not read: a pair holds 128 KiB for each
 * direction at most. The end of one stream is passed on, and the pair closed
 * when both have ended; a reset, a refusal, a deadline end the other side by a
 * reset. A name is looked up for each client, by libevent's evdns, and no
 * worker waits for it: it may take 3 s, and so may the connect. After an hour
 * without a byte a pair is closed, not sooner if none has come: the server may
 * speak first. At a stop who is quiet for a second is closed, others have 5 s.
 */
#include "example.h"

#include <arpa/inet.h>
#include <event2/dns.h>
#include <event2/util.h>
#include <netdb.h>
#include <stdbool.h>

#define HELD_MAX   (64UL * 1024) /* bytes that wait for one side */
#define CONNECT_MS 3000
#define IDLE_MS    (3600 * 1000)
#define QUIET_MS   1000 /* while it stops */

/* Freed once nothing is left of it. */
struct pair {
	struct evt_conn *client;
	struct evt_conn *server; /* NULL also while its name is looked up */
	struct evdns_getaddrinfo_request *lookup;
	bool stopping;
};

static struct {
	const char *url;
	bool is_name; /* then of this host, or name, and port: */
	char host[254];
	char port[6];
} target;

static _Thread_local struct evdns_base *dns; /* each worker's, for names */

static struct evt_conn *other_of(struct evt_conn *conn)
{
	const struct pair *pair = evt_conn_data(conn);

	return conn == pair->client ? pair->server : pair->client;
}

static void tell(const char *why)
{
	fprintf(stderr, "proxy: %s: %s\n", target.url, why);
}

/* Connecting */

static const struct evt_handlers handlers;

/* To these addresses; NULL: to that of the URL. */
static void reach(struct pair *pair, const struct addrinfo *addrs)
{
	struct evt_worker *worker = evt_conn_worker(pair->client);
	const struct evt_connect_options options = {.connect_ms = CONNECT_MS,
		.idle_ms = IDLE_MS,
		.low_mark = HELD_MAX};

	pair->server = addrs
		? evt_connect_addrs(worker, addrs, &handlers, &options, NULL)
		: evt_connect(worker, target.url, &handlers, &options, NULL);
	if (pair->server)
		evt_conn_set_data(pair->server, pair);
	else
		evt_conn_abort(pair->client);
}

/* Comes for every lookup, also for one that was cancelled. */
static void on_answer(int error, struct addrinfo *addrs, void *arg)
{
	struct pair *pair = arg;

	pair->lookup = NULL;
	if (!pair->client) {
		free(pair);
	} else if (error) {
		tell(evutil_gai_strerror(error));
		evt_conn_abort(pair->client);
	} else {
		evt_conn_set_timeout(pair->client, EVT_TIMEOUT_DEADLINE, -1);
		evt_conn_resume(pair->client);
		reach(pair, addrs);
	}
	if (addrs)
		evutil_freeaddrinfo(addrs);
}

/* What /etc/hosts has is answered before evdns_getaddrinfo returns NULL. */
static void look_up(struct pair *pair)
{
	const struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM, .ai_protocol = IPPROTO_TCP};

	pair->lookup = evdns_getaddrinfo(
		dns, target.host, target.port, &hints, on_answer, pair);
	if (!pair->lookup)
		return;
	evt_conn_pause(pair->client);
	evt_conn_set_timeout(pair->client, EVT_TIMEOUT_DEADLINE, CONNECT_MS);
}

/* The handlers, of both sides */

static void on_open(struct evt_conn *conn, void *arg)
{
	struct pair *pair = evt_conn_data(conn);

	(void)arg;
	if (pair) /* the server's side */
		return;
	pair = calloc(1, sizeof(*pair));
	if (!pair) {
		evt_conn_abort(conn);
		return;
	}
	pair->client = conn;
	evt_conn_set_data(conn, pair);
	if (target.is_name)
		look_up(pair);
	else
		reach(pair, NULL);
}

static size_t on_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	struct evt_conn *other = other_of(conn);

	(void)arg;
	evt_conn_write(other, data, len);
	if (evt_conn_pending(other) > HELD_MAX)
		evt_conn_pause(conn);
	return len;
}

/* HELD_MAX is its low mark: no more waits. */
static void on_drain(struct evt_conn *conn, void *arg)
{
	struct evt_conn *other = other_of(conn);

	(void)arg;
	if (other)
		evt_conn_resume(other);
}

static void on_eof(struct evt_conn *conn, void *arg)
{
	struct evt_conn *other = other_of(conn);

	(void)arg;
	if (evt_conn_at_eof(other) == 1) {
		evt_conn_close(other);
		evt_conn_close(conn);
	} else {
		evt_conn_finish(other);
	}
}

/* A lookup took too long; or nothing moves. While it stops, what a slow reader
 * waits for is left to the grace. */
static void on_timeout(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	const struct pair *pair = evt_conn_data(conn);
	struct evt_conn *other = other_of(conn);

	(void)arg;
	if (reason == EVT_REASON_DEADLINE)
		tell("no answer to a lookup of the name");
	if (other && evt_conn_pending(conn) + evt_conn_pending(other) == 0)
		evt_conn_close(other);
	else if (!other || !pair->stopping)
		evt_conn_abort(conn);
}

static void on_stop(struct evt_conn *conn, void *arg)
{
	struct pair *pair = evt_conn_data(conn);

	(void)arg;
	pair->stopping = true;
	evt_conn_set_timeout(conn, EVT_TIMEOUT_IDLE, QUIET_MS);
}

static void on_close(struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	struct pair *pair = evt_conn_data(conn);
	struct evt_conn *other;

	(void)arg;
	if (!pair)
		return;
	other = other_of(conn);
	if (conn == pair->server && reason == EVT_REASON_FAILED)
		tell(strerror(evt_conn_error(conn)));
	*(conn == pair->client ? &pair->client : &pair->server) = NULL;
	if (pair->lookup)
		evdns_getaddrinfo_cancel(pair->lookup);
	else if (!other)
		free(pair);
	else if (reason == EVT_REASON_PEER || reason == EVT_REASON_OURS)
		evt_conn_close(other);
	else
		evt_conn_abort(other);
}

static const struct evt_handlers handlers = {.on_open = on_open,
	.on_data = on_data,
	.on_eof = on_eof,
	.on_drain = on_drain,
	.on_timeout = on_timeout,
	.on_stop = on_stop,
	.on_close = on_close};

/* Starting */

static void on_worker_start(struct evt_worker *worker, void *arg)
{
	(void)arg;
	dns = evdns_base_new(
		evt_worker_base(worker), EVDNS_BASE_DISABLE_WHEN_INACTIVE);
	if (dns) /* without a nameserver /etc/hosts is left */
		evdns_base_resolv_conf_parse(
			dns, DNS_OPTIONS_ALL, "/etc/resolv.conf");
}

static void on_worker_stop(struct evt_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	if (dns)
		evdns_base_free(dns, 1);
}

/* False if it is none to connect to. */
static bool set_target(const char *url)
{
	struct in6_addr addr;
	bool is_ipv6;
	int end = 0;

	target.url = url;
	if (strncmp(url, "unix:", 5) == 0)
		return url[5] && strncmp(url + 5, "//", 2) != 0 &&
			strlen(url + 5) < 108 /* sun_path */;
	is_ipv6 = sscanf(url, "tcp://[%45[^]]]:%5[0-9]%n", target.host,
			  target.port, &end) == 2;
	if (!is_ipv6)
		sscanf(url, "tcp://%253[0-9A-Za-z._-]:%5[0-9]%n", target.host,
			target.port, &end);
	if (end == 0 || url[end] || (unsigned)atoi(target.port) - 1 >= 65535)
		return false;
	target.is_name = !is_ipv6 &&
		inet_pton(AF_INET, target.host, &addr) != 1;
	return !is_ipv6 || inet_pton(AF_INET6, target.host, &addr) == 1;
}

int main(int argc, char **argv)
{
	struct example example = example_options(
		(struct example){.connects = 1}, argc, argv);
	struct evt_pool_options options = {.workers = example.workers};
	/* Of the descriptors each takes two. */
	struct evt_listen_options limits = {
		.max_conns = (int)(sysconf(_SC_OPEN_MAX) * 2 / 5),
		.first_byte_ms = -1,
		.idle_ms = IDLE_MS,
		.low_mark = HELD_MAX,
		.reuseport = strncmp(example.url, "unix:", 5) != 0};
	struct evt_pool *pool;
	int status;

	if (!set_target(example.to)) {
		tell("not tcp://HOST:PORT or unix:/PATH");
		return example_usage(&example, stderr, 2);
	}
	if (target.is_name) {
		options.on_worker_start = on_worker_start;
		options.on_worker_stop = on_worker_stop;
	}
	pool = evt_pool_new(&options);
	status = example_listening(&example,
		evt_listen(pool, example.url, &handlers, &limits, NULL));
	if (status == 0 && evt_pool_run(pool) == -1)
		status = 1;
	evt_pool_free(pool);
	return status;
}
