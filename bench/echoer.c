/*
 * echoer: keeps many connections to an echo server busy and says how fast it
 * answers. It shares the machine with the server that it measures, so it has to
 * be cheap: one thread on bare epoll, one recv and one send for all that has
 * come on a connection.
 *
 *	bench/echoer PORT [-n CONNECTIONS] [-o OUTSTANDING] [-s SIZE]
 *		[-m MESSAGES | -t SECONDS | -i]
 *
 * Each connection has OUTSTANDING messages of SIZE bytes under way; what has
 * come back whole is followed by as much again. It prints one line:
 *
 *	echoes=N seconds=S rate=R p50=T p99=T max=T errors=N
 *
 * T being microseconds from sending to having all of it. With -i it connects,
 * has one byte echoed on each connection, says "connected=N" and then does
 * what it is told on standard input, a number of messages on each line, until
 * that ends: who reads the server's CPU clock between the lines has just these
 * echoes in it. Connections are idle until told, or for ever.
 *
 * The bytes of a connection are one stream, which repeats itself after 65,537
 * bytes and begins at another place for each connection: what belongs to
 * another, or comes at the wrong time, is noticed.
 */
#include "client.h"
#include "histogram.h"
#include "stats.h"

#include <getopt.h>
#include <limits.h>

#define PERIOD    65537
#define BUFFER    65536 /* less than PERIOD */
#define EVENTS    256
#define MAX_CONNS 100000
#define QUIET_MS  (ANSWER_S * 1000) /* without an event: the server hangs */

/* fd is -1 once it has failed. sent and got are places in its stream. */
struct conn {
	int fd;
	int waits_for_room;
	uint64_t due; /* what it is to send in all */
	uint64_t sent;
	uint64_t got;
	uint64_t messages; /* echoed */
	int64_t *started;  /* of the OUTSTANDING under way, a ring */
	uint32_t place;    /* in the pattern */
};

struct options {
	int port;
	int conns;
	int outstanding;
	int size;
	int told; /* -i */
	long messages;
	double seconds;
};

static struct options opt = {
	.conns = 64, .outstanding = 1, .size = 64, .messages = 100000};

static struct conn *conns;
static int ready; /* its epoll instance */
static char pattern[2 * PERIOD];
static char received[BUFFER];

/* Of one run. */
static struct histogram times;
static long left;       /* to be started */
static long under_way;  /* started and not yet back */
static int64_t give_up; /* when no more is started, or 0 */
static long errors;

static const char usage[] =
	"usage: bench/echoer PORT [-n CONNECTIONS] [-o OUTSTANDING] [-s SIZE]\n"
	"       [-m MESSAGES | -t SECONDS | -i]\n";

static uint64_t under_way_of(const struct conn *conn)
{
	return conn->due / (uint64_t)opt.size - conn->messages;
}

static void fail(struct conn *conn, const char *why)
{
	if (errors++ == 0)
		fprintf(stderr, "echoer: %s: %s\n", why, strerror(errno));
	under_way -= (long)under_way_of(conn);
	close(conn->fd);
	conn->fd = -1;
}

static void watch(struct conn *conn, int op, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = conn};

	if (epoll_ctl(ready, op, conn->fd, &event) == -1)
		die("epoll_ctl");
}

static const char *stream_at(const struct conn *conn, uint64_t place)
{
	return pattern + (conn->place + place) % PERIOD;
}

/* Sends what is due. Waits for room if there is none, and only then. */
static void send_due(struct conn *conn)
{
	while (conn->sent < conn->due) {
		uint64_t len = conn->due - conn->sent;
		ssize_t n = send(conn->fd, stream_at(conn, conn->sent),
			len < PERIOD ? len : PERIOD, MSG_NOSIGNAL);

		if (n == -1 && errno != EAGAIN) {
			fail(conn, "send");
			return;
		}
		if (n == -1)
			break;
		conn->sent += (uint64_t)n;
	}
	if ((conn->sent < conn->due) != conn->waits_for_room) {
		conn->waits_for_room = !conn->waits_for_room;
		watch(conn, EPOLL_CTL_MOD,
			conn->waits_for_room ? EPOLLIN | EPOLLOUT : EPOLLIN);
	}
}

static void start_messages(struct conn *conn, uint64_t count, int64_t now)
{
	uint64_t size = (uint64_t)opt.size;

	if (give_up != 0 && now >= give_up)
		left = 0;
	while (count-- > 0 && left > 0) {
		uint64_t number = conn->due / size;

		conn->started[number % (uint64_t)opt.outstanding] = now;
		conn->due += size;
		left--;
		under_way++;
	}
	if (conn->sent < conn->due)
		send_due(conn);
}

/* Notes the time of each message that is back whole: how many. */
static uint64_t end_messages(struct conn *conn, int64_t now)
{
	uint64_t before = conn->messages;
	uint64_t size = (uint64_t)opt.size;

	for (; conn->got >= (conn->messages + 1) * size; conn->messages++)
		histogram_add(&times,
			now -
				conn->started[conn->messages %
					(uint64_t)opt.outstanding]);
	under_way -= (long)(conn->messages - before);
	return conn->messages - before;
}

static void receive(struct conn *conn)
{
	ssize_t n = recv(conn->fd, received, sizeof(received), 0);
	int64_t now;

	if (n == -1 && errno == EAGAIN)
		return;
	if (n <= 0) {
		errno = n == 0 ? ENODATA : errno;
		fail(conn, "recv");
		return;
	}
	if ((uint64_t)n > conn->sent - conn->got ||
		memcmp(received, stream_at(conn, conn->got), (size_t)n) != 0) {
		errno = EBADMSG;
		fail(conn, "the answer");
		return;
	}
	conn->got += (uint64_t)n;
	now = now_ns();
	start_messages(conn, end_messages(conn, now), now);
}

static void on_ready(struct conn *conn, uint32_t events)
{
	if (events & EPOLLOUT)
		send_due(conn);
	if (conn->fd != -1 && events & ~(uint32_t)EPOLLOUT)
		receive(conn);
}

static void wait_for_all(void)
{
	struct epoll_event events[EVENTS];

	while (under_way > 0) {
		int n = epoll_wait(ready, events, EVENTS, QUIET_MS);

		if (n == 0) {
			fprintf(stderr, "echoer: %ld are not answered\n",
				under_way);
			errors += under_way;
			return;
		}
		for (int i = 0; i < n; i++)
			on_ready(events[i].data.ptr, events[i].events);
	}
}

/* Prints the line. */
static void run(long messages, double seconds)
{
	int64_t begin = now_ns();
	double took;

	memset(&times, 0, sizeof(times));
	left = messages;
	give_up = seconds > 0 ? begin + (int64_t)(seconds * 1e9) : 0;
	for (int i = 0; i < opt.conns; i++) {
		if (conns[i].fd != -1)
			start_messages(
				&conns[i], (uint64_t)opt.outstanding, now_ns());
	}
	wait_for_all();
	took = (double)(now_ns() - begin) / 1e9;
	printf("echoes=%lu seconds=%.3f rate=%.0f p50=%.1f p99=%.1f max=%.1f "
	       "errors=%ld\n",
		(unsigned long)times.count, took, (double)times.count / took,
		histogram_us(&times, 0.5), histogram_us(&times, 0.99),
		histogram_max_us(&times), errors);
	fflush(stdout);
}

/* One after the other, each with an answer before the next: that no queue
 * overflows is not what is measured. */
static void open_all(void)
{
	conns = calloc((size_t)opt.conns, sizeof(*conns));
	ready = epoll_create1(EPOLL_CLOEXEC);
	if (!conns || ready == -1)
		die("calloc, epoll_create1");
	for (int i = 0; i < opt.conns; i++) {
		struct conn *conn = &conns[i];

		conn->started = calloc(
			(size_t)opt.outstanding, sizeof(*conn->started));
		if (!conn->started)
			die("calloc");
		conn->fd = connect_to(opt.port, 0);
		conn->place = (uint32_t)i * 977 % PERIOD;
		echo_byte(conn->fd, 'x');
		set_nonblocking(conn->fd);
		watch(conn, EPOLL_CTL_ADD, EPOLLIN);
	}
}

static void fill_pattern(void)
{
	srandom(1);
	for (int i = 0; i < PERIOD; i++)
		pattern[i] = (char)random();
	memcpy(pattern + PERIOD, pattern, PERIOD);
}

/* 0, or -1: wrong usage. */
static int read_options(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "n:o:s:m:t:i")) != -1) {
		if (c == 'n')
			opt.conns = atoi(optarg);
		else if (c == 'o')
			opt.outstanding = atoi(optarg);
		else if (c == 's')
			opt.size = atoi(optarg);
		else if (c == 'm')
			opt.messages = atol(optarg);
		else if (c == 't')
			opt.seconds = atof(optarg);
		else if (c == 'i')
			opt.told = 1;
		else
			return -1;
	}
	if (opt.seconds > 0)
		opt.messages = LONG_MAX;
	opt.port = argument(argc, argv, optind, 0);
	return opt.port > 0 && opt.conns > 0 && opt.conns <= MAX_CONNS &&
			opt.outstanding > 0 && opt.size > 0
		? 0
		: -1;
}

static void do_as_told(void)
{
	char line[32];

	printf("connected=%d\n", opt.conns);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		run(atol(line), 0);
}

int main(int argc, char **argv)
{
	if (read_options(argc, argv) == -1) {
		fputs(usage, stderr);
		return 2;
	}
	raise_descriptor_limit();
	fill_pattern();
	open_all();
	if (opt.told)
		do_as_told();
	else
		run(opt.messages, opt.seconds);
	return errors > 0;
}
