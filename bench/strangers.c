/*
 * strangers.c: a part of `make bench`: what a stranger costs who only wants to
 * cost something. CPU time and memory of the server for each connection that
 * comes and goes, or stays, and for each datagram; examples/echo and
 * examples/udp-echo with two workers. From the top of the tree; ROUNDS=n
 * repeats it n times instead of 7.
 *
 * The memory is the server's own; the kernel has some more for each connection,
 * which counts against tcp_mem. The figures are medians. An idle server takes
 * no CPU time, so what it has taken is read once it takes no more.
 */
#include "proc.h"
#include "results.h"
#include "server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define USUAL_ROUNDS 7
#define WARM_UP      1000
#define MANY         9000 /* connections that stay */
#define SPARE        200  /* descriptors, beside them */
#define SETTLE_MS    100
#define MAX_WAIT_MS  10000
#define WINDOW       32 /* datagrams under way */
#define ANSWER_MS    1000

/* Connects to the server's port on loopback, or gives up. */
static int dial(const struct server *server, int type)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
		.sin_port = htons((in_port_t)atoi(server->port)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	if (fd == -1 ||
		connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == -1)
		give_up("a stranger", strerror(errno));
	return fd;
}

static void reset(int fd)
{
	const struct linger now = {.l_onoff = 1};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
}

static void say(int fd, const char *data, size_t len)
{
	if (send(fd, data, len, MSG_NOSIGNAL) != (ssize_t)len)
		give_up("a stranger", strerror(errno));
}

/* What they do, so many of them. */

static void come_and_reset(const struct server *server, int count)
{
	while (count-- > 0)
		reset(dial(server, SOCK_STREAM));
}

static void come_and_close(const struct server *server, int count)
{
	while (count-- > 0)
		close(dial(server, SOCK_STREAM));
}

static void say_one_byte(const struct server *server, int count)
{
	while (count-- > 0) {
		int fd = dial(server, SOCK_STREAM);

		say(fd, "x", 1);
		reset(fd);
	}
}

static void send_datagrams(
	const struct server *server, int count, const char *data, size_t len)
{
	const struct timeval limit = {.tv_usec = ANSWER_MS * 1000L % 1000000,
		.tv_sec = ANSWER_MS / 1000};
	int fd = dial(server, SOCK_DGRAM);
	char answer[64];

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	for (; count > 0; count -= WINDOW) {
		for (int i = 0; i < WINDOW; i++)
			say(fd, data, len);
		for (int i = 0; i < WINDOW; i++)
			if (recv(fd, answer, sizeof(answer), 0) == -1)
				give_up("a stranger", "has no answer");
	}
	close(fd);
}

static void send_empty_ones(const struct server *server, int count)
{
	send_datagrams(server, count, "", 0);
}

static void send_64_bytes(const struct server *server, int count)
{
	static const char bytes[64];

	send_datagrams(server, count, bytes, sizeof(bytes));
}

static int staying[MANY];

static void come_and_stay(const struct server *server, int count)
{
	for (int i = 0; i < count; i++)
		staying[i] = dial(server, SOCK_STREAM);
}

static void come_and_trickle(const struct server *server, int count)
{
	for (int i = 0; i < count; i++) {
		staying[i] = dial(server, SOCK_STREAM);
		say(staying[i], "x", 1);
	}
}

static struct stranger {
	const char *title;
	const char *path;
	const char *url;
	void (*act)(const struct server *server, int count);
	int count;
	bool stays;
	series cpu_us;
	series bytes;
} strangers[] = {
	{"connects, resets", "examples/echo", "tcp://127.0.0.1:0",
		come_and_reset, 20000, false, {0}, {0}},
	{"connects, closes", "examples/echo", "tcp://127.0.0.1:0",
		come_and_close, 10000, false, {0}, {0}},
	{"connects, says a byte, resets", "examples/echo", "tcp://127.0.0.1:0",
		say_one_byte, 20000, false, {0}, {0}},
	{"connects, and stays", "examples/echo", "tcp://127.0.0.1:0",
		come_and_stay, MANY, true, {0}, {0}},
	{"connects, says a byte, and stays", "examples/echo",
		"tcp://127.0.0.1:0", come_and_trickle, MANY, true, {0}, {0}},
	{"an empty datagram", "examples/udp-echo", "udp://127.0.0.1:0",
		send_empty_ones, 100000, false, {0}, {0}},
	{"a datagram of 64 B", "examples/udp-echo", "udp://127.0.0.1:0",
		send_64_bytes, 100000, false, {0}, {0}},
};

#define NR_STRANGERS (int)(sizeof(strangers) / sizeof(strangers[0]))

/* Once it does nothing more. */
static int64_t settled_cpu_ns(const struct server *server)
{
	int64_t before = -1;
	int64_t now = child_cpu_ns(&server->child);

	for (int ms = 0; now != before && ms < MAX_WAIT_MS; ms += SETTLE_MS) {
		wait_ms(SETTLE_MS);
		before = now;
		now = child_cpu_ns(&server->child);
	}
	return now;
}

static void measure(struct stranger *it, int round)
{
	char *argv[] = {(char *)it->path, (char *)it->url, "-t", "2", NULL};
	struct server server = server_of(argv);
	int64_t cpu_ns;
	long kib;

	if (it->act == send_empty_ones || it->act == send_64_bytes)
		it->act(&server, WARM_UP);
	else
		come_and_reset(&server, WARM_UP);
	cpu_ns = settled_cpu_ns(&server);
	kib = process_memory_kib(&server.child);
	it->act(&server, it->count);
	cpu_ns = settled_cpu_ns(&server) - cpu_ns;
	kib = process_memory_kib(&server.child) - kib;
	it->cpu_us[round] = (double)cpu_ns / 1e3 / it->count;
	it->bytes[round] = (double)kib * 1024 / it->count;
	for (int i = 0; it->stays && i < it->count; i++)
		reset(staying[i]);
	server_stop(&server);
}

static void print(struct stranger *it, int rounds)
{
	printf("%-34s %8.1f", it->title, median_of(it->cpu_us, rounds));
	results_series(it->title, "CPU, us of each", it->cpu_us, rounds);
	if (it->stays) {
		printf(" %9.0f", median_of(it->bytes, rounds));
		results_series(
			it->title, "memory, bytes of each", it->bytes, rounds);
	}
	printf("\n");
}

static void allow_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == -1 ||
		limit.rlim_max < MANY + SPARE)
		give_up("strangers", "needs a higher limit of descriptors");
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

int main(void)
{
	int rounds = rounds_wanted(USUAL_ROUNDS);

	allow_descriptors();
	for (int round = 0; round < rounds; round++)
		for (int i = 0; i < NR_STRANGERS; i++)
			measure(&strangers[i], round);
	results_open("strangers");
	results_table("", "What a stranger costs");
	printf("What a stranger costs a server with two workers: medians of %d "
	       "rounds\n\n%-34s %8s %9s\n",
		rounds, "", "CPU us", "bytes");
	for (int i = 0; i < NR_STRANGERS; i++)
		print(&strangers[i], rounds);
	printf("\n");
	results_close();
	return 0;
}
