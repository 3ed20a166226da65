/*
 * proxy: passes TCP connections on to another server, byte for byte.
 *
 * Start it:	examples/proxy tcp://:6380 tcp://localhost:6379	(Ctrl-C ends it)
 * Try it:	redis-cli -p 6380 ping	(a redis-server on 6379 says PONG)
 *
 * A client and the connection made for it are a pair on one worker: what one
 * sends is written to the other, connected yet or not. While more than 64 KiB
 * wait for one, the other is not read. The end of a stream is passed on, any
 * other end as a reset. Names are looked up by libevent, without blocking.
 */
#include "example.h"

#include <arpa/inet.h>
#include <event2/dns.h>
#include <netdb.h>
#include <stdbool.h>

#define HELD_MAX   65536UL       /* the default low mark: see on_drain */
#define CONNECT_MS 3000          /* and as long for its name */
#define IDLE_MS    (3600 * 1000) /* also before the first byte */
#define QUIET_MS   1000          /* while it stops */

struct pair {
	struct evt_conn *client, *server; /* NULL: not there, or not any more */
	struct evdns_getaddrinfo_request *lookup;
	bool stopping;
};

static struct {
	const char *url;
	bool is_name;
	char host[254], port[6];
} target;

static _Thread_local struct evdns_base *dns; /* each worker's, for names */
static const struct evt_handlers handlers;

static struct evt_conn *other_of(struct evt_conn *conn)
{
	const struct pair *pair = evt_conn_data(conn);

	return conn == pair->client ? pair->server : pair->client;
}

static void tell(const char *why)
{
	fprintf(stderr, "proxy: %s: %s\n", target.url, why);
}

static void reach(struct pair *pair, const struct addrinfo *addrs)
{
	struct evt_worker *worker = evt_conn_worker(pair->client);
	const struct evt_connect_options options = {
		.connect_ms = CONNECT_MS, .idle_ms = IDLE_MS};

	pair->server = addrs
		? evt_connect_addrs(worker, addrs, &handlers, &options, NULL)
		: evt_connect(worker, target.url, &handlers, &options, NULL);
	if (pair->server)
		evt_conn_set_data(pair->server, pair);
	else
		evt_conn_abort(pair->client);
}

static void on_answer(int error, struct addrinfo *addrs, void *arg)
{
	struct pair *pair = arg;

	pair->lookup = NULL;
	if (!pair->client) {
		free(pair); /* it was cancelled */
	} else if (error) {
		tell(gai_strerror(error));
		evt_conn_abort(pair->client);
	} else {
		evt_conn_set_timeout(pair->client, EVT_TIMEOUT_DEADLINE, -1);
		evt_conn_resume(pair->client);
		reach(pair, addrs);
		evutil_freeaddrinfo(addrs);
	}
}

static void on_open(struct evt_conn *conn, void *arg)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct pair *pair = evt_conn_data(conn);

	(void)arg;
	if (pair) /* it is the server's side */
		return;
	pair = calloc(1, sizeof(*pair));
	evt_conn_set_data(conn, pair);
	if (!pair) {
		evt_conn_abort(conn);
		return;
	}
	pair->client = conn;
	if (!target.is_name) {
		reach(pair, NULL);
		return;
	}
	if (!dns) {
		dns = evdns_base_new(evt_worker_base(evt_conn_worker(conn)),
			EVDNS_BASE_DISABLE_WHEN_INACTIVE);
		if (dns) /* without a nameserver /etc/hosts is left */
			evdns_base_resolv_conf_parse(
				dns, DNS_OPTIONS_ALL, "/etc/resolv.conf");
	}
	pair->lookup = evdns_getaddrinfo(
		dns, target.host, target.port, &hints, on_answer, pair);
	if (!pair->lookup) /* on_answer was called: in /etc/hosts, or failed */
		return;
	evt_conn_pause(conn);
	evt_conn_set_timeout(conn, EVT_TIMEOUT_DEADLINE, CONNECT_MS);
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

static void on_drain(struct evt_conn *conn, void *arg)
{
	(void)arg;
	evt_conn_resume(other_of(conn));
}

static void on_eof(struct evt_conn *conn, void *arg)
{
	struct evt_conn *other = other_of(conn);

	(void)arg;
	if (evt_conn_at_eof(other) == 1)
		evt_conn_close(conn); /* and then on_close the other */
	evt_conn_finish(other);
}

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

static void on_worker_stop(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
	if (dns)
		evdns_base_free(dns, 1);
}

static bool set_target(const char *url)
{
	struct in6_addr addr;
	int end = 0;

	target.url = url;
	if (strncmp(url, "unix:", 5) == 0)
		return strncmp(url, "unix://", 7) != 0 && url[5] &&
			strlen(url) <= 5 + 107; /* see unix(7) */
	if (sscanf(url, "tcp://%253[0-9A-Za-z._-]:%5[0-9]%n", target.host,
		    target.port, &end) == 2)
		target.is_name = inet_pton(AF_INET, target.host, &addr) != 1;
	else if (sscanf(url, "tcp://[%45[0-9A-Fa-f:.]]:%5[0-9]%n", target.host,
			 target.port, &end) != 2 ||
		inet_pton(AF_INET6, target.host, &addr) != 1)
		return false;
	return !url[end] && atoi(target.port) > 0 && atoi(target.port) < 65536;
}

int main(int argc, char **argv)
{
	struct example example = example_options(
		(struct example){.connects = 1}, argc, argv);
	struct evt_pool_options options = {
		.workers = example.workers, .on_worker_stop = on_worker_stop};
	struct evt_listen_options limits = {
		/* Two descriptors each, and a fifth for what lingers. */
		.max_conns = (int)(sysconf(_SC_OPEN_MAX) * 2 / 5),
		.first_byte_ms = -1,
		.idle_ms = IDLE_MS,
		.reuseport = strncmp(example.url, "unix:", 5) != 0};

	if (!set_target(example.to)) {
		tell("not tcp://HOST:PORT or unix:/PATH");
		return example_usage(&example, stderr, 2);
	}
	return example_serve(
		&example, evt_pool_new(&options), &handlers, &limits);
}
