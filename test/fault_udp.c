/* fault_udp.c: scenarios of datagrams. */
#include "fault_rig.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

static void exchange(int fd, const char *text)
{
	fault_say(fd, text);
	fault_hears(fd, 1);
}

static void echo_some(void)
{
	int fd = living_dial();
	int i;

	for (i = 0; i < 3; i++)
		exchange(fd, "e");
	fault_hang_up(fd);
}

static void start_udp(void)
{
	const struct life life = {
		.url = "udp://127.0.0.1:0", .starting = true, .use = echo_some};

	live(&life);
}

static void start_udp_group(void)
{
	static const struct evt_listen_options options = {.steer = {0, 7}};
	const struct life life = {.url = "udp://:0",
		.options = &options,
		.workers = 2,
		.starting = true,
		.use = echo_some};

	live(&life);
}

static void leave_stale_name(void)
{
	const char *path = strchr(living.life->url, ':') + 1;
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	unlink(path); /* of an earlier process with this number */
	MUST(bind(fd, (struct sockaddr *)&un, sizeof(un)) == 0);
	close(fd);
}

static void start_unixgram(void)
{
	char url[100];
	const struct life life = {
		.url = url, .listening = true, .use = echo_some};

	snprintf(url, sizeof(url), "unixgram:/tmp/evt-fault-%d.gram", getpid());
	live(&life);
	unlink(strchr(url, ':') + 1);
}

static void start_stale_unixgram(void)
{
	char url[100];
	const struct life life = {.url = url,
		.listening = true,
		.before = leave_stale_name,
		.use = echo_some};

	snprintf(url, sizeof(url), "unixgram:/tmp/evt-fault-%d.gram", getpid());
	live(&life);
	unlink(strchr(url, ':') + 1);
}

/* To a port where nobody is, and to a client. */
static void send_task(struct evt_worker *worker, void *arg)
{
	struct evt_udp_socket *sock = evt_listener_udp(living.listener, worker);
	struct sockaddr_in *to = arg;
	unsigned char token[EVT_UDP_TOKEN];

	if (SAID(evt_udp_token(sock, (struct sockaddr *)to, token)) == 0)
		SAID(evt_udp_check_token(sock, (struct sockaddr *)to, token));
	SAID(evt_udp_validated(sock, (struct sockaddr *)to));
	SAID_OF_MANY(evt_udp_send(
		sock, (struct sockaddr *)to, sizeof(*to), "hello", 5));
}

static void send_first(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
		.sin_port = htons(1),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in own;
	socklen_t len = sizeof(own);
	int fd = living_dial();

	MUST(getsockname(fd, (struct sockaddr *)&own, &len) == 0);
	on_living_worker(send_task, &to);
	on_living_worker(send_task, &own);
	fault_hears(fd, 5);
	exchange(fd, "e");
	fault_hang_up(fd);
}

static void sending(void)
{
	const struct life life = {
		.url = "udp://127.0.0.1:0", .use = send_first};

	live(&life);
}

/* More than a turn's batch, while the worker sees to the first. */
static void flood(void)
{
	int fd = living_dial();
	int i;

	for (i = 0; i < 70; i++)
		fault_say(fd, "e");
	fault_hears(fd, 70);
	fault_hang_up(fd);
}

static void flooded(void)
{
	const struct life life = {.url = "udp://127.0.0.1:0", .use = flood};

	live(&life);
}

/* An answer to a client that has gone brings an error back. */
static void leave_early(void)
{
	int fd = living_dial();

	fault_say(fd, "e");
	fault_hang_up(fd);
	echo_some();
	echo_some();
}

static void unreachable(void)
{
	const struct life life = {
		.url = "udp://127.0.0.1:0", .use = leave_early};

	live(&life);
}

/* From a socket of the pool to another, by an address that is not loopback:
 * whether that is one of ours is asked. */
static void ask_task(struct evt_worker *worker, void *arg)
{
	struct evt_udp_socket *sock = evt_listener_udp(living.listener, worker);
	struct sockaddr_in to = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)living.port)};

	(void)arg;
	inet_pton(AF_INET, FAULT_ADDRESS, &to.sin_addr);
	SAID(evt_udp_validated(sock, (struct sockaddr *)&to));
	SAID_OF_MANY(evt_udp_send(
		sock, (struct sockaddr *)&to, sizeof(to), "itself", 6));
}

static void send_to_itself(void)
{
	on_living_worker(ask_task, NULL);
	echo_some();
}

static void to_itself(void)
{
	const struct life life = {
		.url = "udp://0.0.0.0:0", .use = send_to_itself};

	live(&life);
}

static void close_task(struct evt_worker *worker, void *arg)
{
	(void)worker;
	evt_listener_close(arg);
}

static void close_listener(void)
{
	struct evt_listener *more = SAID_P(evt_listen(
		living.pool, "udp://127.0.0.1:0", &fault_handlers, NULL, NULL));
	int fd;

	if (!more)
		return;
	fd = fault_dial_udp(evt_listener_port(more));
	exchange(fd, "e");
	on_living_worker(close_task, more);
	fault_hang_up(fd);
	echo_some();
}

static void listening_ends(void)
{
	const struct life life = {
		.url = "udp://127.0.0.1:0", .use = close_listener};

	live(&life);
}

const struct scenario udp_scenarios[] = {
	{"a_pool_serves_udp", start_udp},
	{"datagrams_are_steered_to_workers", start_udp_group},
	{"a_pool_serves_unixgram", start_unixgram},
	{"a_stale_unixgram_socket_is_replaced", start_stale_unixgram},
	{"a_datagram_is_sent_first", sending},
	{"more_datagrams_come_than_a_batch_has", flooded},
	{"an_answer_reaches_nobody", unreachable},
	{"a_datagram_comes_from_ourselves", to_itself},
	{"datagrams_are_no_longer_received", listening_ends},
	{NULL, NULL},
};
