/*
 * dns: a name server for one zone, by UDP and TCP on the same port.
 *
 * Start it:	examples/dns example.org.zone	(Ctrl-C ends it)
 * Try it:	dig @localhost -p 5353 www.example.org
 *		dig @localhost -p 5353 +tcp example.org mx
 *
 * with, as example.org.zone, something like
 *
 *	$ORIGIN example.org.
 *	$TTL 1h
 *	@	SOA	ns root 1 2h 15m 2w 10m
 *		NS	ns
 *		MX	10 www
 *	ns	A	192.0.2.1
 *	www	A	192.0.2.2
 *
 * dig shows the records ("status: NOERROR", flag aa), and "NXDOMAIN" for a name
 * that the zone has not. What does not fit into a datagram comes without its
 * records (flag tc), and dig asks again, by TCP.
 *
 * One pool serves both. The two handlers differ in where the bytes come from:
 * on_datagrams gets a batch of queries and answers each, in place; on_data gets
 * a stream, of which it takes one query at a time. Everything between, bytes in
 * and bytes out, is in dns-message.h, which knows of no socket. The zone is
 * read before the pool runs and never changes: all workers look into it,
 * without a lock.
 */
#include "dns-file.h"
#include "dns-message.h"
#include "example.h"

#include <evt-udp.h>

#define LENGTH      2 /* bytes before each message, by TCP */
#define MAX_CONNS   1000
#define IDLE_MS     10000
#define LIFETIME_MS 60000
#define FIRST_READ  (64 << 10)
#define MAX_FILE    (64L * 1024 * 1024)
#define PORT_TRIES  20

static struct dns_zone zone;

/* Answers must stay until on_datagrams returns. */
static void on_datagrams(struct evt_udp_socket *sock,
	const struct evt_datagram *batch, int n, void *arg)
{
	static _Thread_local uint8_t answers[EVT_UDP_BATCH * DNS_UDP_MOST];
	uint8_t *answer = answers;
	size_t len;
	int i;

	(void)arg;
	for (i = 0; i < n; i++) {
		len = dns_answer(
			&zone, batch[i].data, batch[i].len, answer, false);
		if (len > 0)
			evt_udp_reply(sock, &batch[i], answer, len);
		answer += len;
	}
}

/* A query that has begun has to come to its end. */
static void set_deadline(struct evt_conn *conn, bool wanted)
{
	bool is_set = evt_conn_data(conn) != NULL;

	if (wanted == is_set)
		return;
	evt_conn_set_timeout(
		conn, EVT_TIMEOUT_DEADLINE, wanted ? IDLE_MS : LIFETIME_MS);
	evt_conn_set_data(conn, wanted ? &zone : NULL);
}

/* Takes one query: is called again if there are more, when those answers that
 * wait are not too many. */
static size_t on_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	static _Thread_local uint8_t answer[LENGTH + DNS_TCP_MOST];
	size_t most = LENGTH;
	size_t used;

	(void)arg;
	if (len >= LENGTH)
		most += dns_get16((const uint8_t *)data);
	if (len < most) {
		evt_conn_want(conn, most);
		set_deadline(conn, true);
		return 0;
	}
	set_deadline(conn, false);
	used = dns_answer(
		&zone, data + LENGTH, most - LENGTH, answer + LENGTH, true);
	if (used == 0) { /* it does not speak DNS */
		evt_conn_abort(conn);
		return len;
	}
	dns_put16(answer, (unsigned)used);
	evt_conn_write(conn, answer, LENGTH + used);
	return most;
}

/* Starting */

/* The text of a file, or of what else can be read, that is to be freed; NULL
 * and errno. */
static char *read_file(const char *path, size_t *len)
{
	FILE *file = fopen(path, "re");
	size_t room = file ? FIRST_READ : 0;
	char *text = NULL;
	char *more;

	*len = 0;
	errno = file ? EFBIG : errno;
	for (; room > 0 && room <= MAX_FILE; room *= 2) {
		more = realloc(text, room);
		if (!more)
			break;
		text = more;
		*len += fread(text + *len, 1, room - *len, file);
		if (*len < room)
			break;
	}
	if (*len == room || (file && ferror(file))) {
		free(text);
		text = NULL;
	}
	if (file)
		fclose(file);
	return text;
}

/* False: it was said why. */
static bool read_zone(const char *path)
{
	static struct dns_file file;
	size_t len = 0;
	char *text = read_file(path, &len);
	bool good = text && dns_file_parse(&file, &zone, text, len);

	if (!text)
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
	else if (!good)
		fprintf(stderr, "%s:%d: %s\n", path, file.fault_line,
			file.fault);
	free(text);
	return good;
}

/*
 * Both listeners, or NULL and errno. A port that the kernel has chosen for UDP
 * (of port 0) may be taken in TCP: another one then, which takes a new pool.
 */
static struct evt_pool *listen_both(const struct example *example,
	struct evt_listener **udp, struct evt_listener **tcp, char *tcp_url,
	size_t size)
{
	/*
	 * Answers of DNS are longer than questions by nature, so that the limit
	 * of amplification would refuse most of them. It is bounded by other
	 * means: 1,232 bytes, and only for who says that he takes them (EDNS);
	 * 512 otherwise, and the rest by TCP, whose clients are who they claim
	 * to be. Name servers of the world limit the rate for each sender, too.
	 */
	const struct evt_listen_options udp_limits = {.amplification = -1};
	/* By TCP nobody keeps the others out: RFC 7766, section 6.2. */
	const struct evt_listen_options limits = {.max_conns = MAX_CONNS,
		.first_byte_ms = IDLE_MS,
		.idle_ms = IDLE_MS,
		.max_input = LENGTH + DNS_TCP_MOST,
		.lifetime_ms = LIFETIME_MS,
		.max_per_source = MAX_CONNS / 4};
	const struct evt_handlers handlers = {
		.on_data = on_data, .on_datagrams = on_datagrams};
	const struct evt_pool_options options = {.workers = example->workers};
	const char *port = strrchr(example->url, ':');
	struct evt_pool *pool;
	int tries;

	*tcp = NULL;
	for (tries = 0; tries < PORT_TRIES; tries++) {
		pool = evt_pool_new(&options);
		*udp = evt_listen(
			pool, example->url, &handlers, &udp_limits, NULL);
		if (!*udp)
			return pool;
		snprintf(tcp_url, size, "tcp%.*s:%d",
			(int)(port - example->url - 3), example->url + 3,
			evt_listener_port(*udp));
		*tcp = evt_listen(pool, tcp_url, &handlers, &limits, NULL);
		if (*tcp || errno != EADDRINUSE || strcmp(port, ":0") != 0)
			return pool;
		evt_pool_free(pool);
	}
	return NULL;
}

static int serve(const struct example *example)
{
	char url[160];
	struct example by_tcp = {.name = example->name, .url = url};
	struct evt_listener *udp;
	struct evt_listener *tcp;
	struct evt_pool *pool = listen_both(
		example, &udp, &tcp, url, sizeof(url));
	int status = udp && !tcp ? 1 : example_listening(example, udp);

	if (status == 0)
		status = example_listening(&by_tcp, tcp);
	if (status == 0 && evt_pool_run(pool) == -1)
		status = 1;
	evt_pool_free(pool);
	return status;
}

int main(int argc, char **argv)
{
	const char *path = argv[argc - 1];
	bool has_path = argc > 1 && path[0] != '-';
	struct example example = example_options(
		(struct example){.url = "udp://[::]:5353",
			.usage = "ZONEFILE\nZONEFILE: its records, as in RFC "
				 "1035; URL: as udp://[::]:5353"},
		argc - has_path, argv);
	int status = 2;

	if (!has_path || strncmp(example.url, "udp:", 4) != 0)
		return example_wrong(&example,
			"first a URL that begins with udp: if any, and last "
			"the zone file");
	if (read_zone(path))
		status = serve(&example);
	dns_zone_free(&zone);
	return status;
}
