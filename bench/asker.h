/*
 * asker.h: what the load generators do that keep many connections busy
 * (echoer, cacher). They share the machine with the server that they measure,
 * so they have to be cheap: one thread on bare epoll, one recv and one send
 * for all that has come on a connection, and what is sent and what has to
 * come back stand ready in memory.
 *
 * Each connection has OUTSTANDING messages under way; what has been answered
 * whole is followed by as much again. Each run ends in a line:
 *
 *	messages=N seconds=S rate=R p50=T p90=T p99=T p999=T max=T errors=N
 *
 * T being microseconds from sending to having all of the answer. With -i the
 * program connects, has an answer on each connection, says "connected=N" and
 * then does what it is told on standard input, a number of messages on each
 * line, until that ends: who reads the server's CPU clock between the lines has
 * just these messages in it. Connections are idle until told, or for ever.
 */
#ifndef BENCH_ASKER_H
#define BENCH_ASKER_H

#include "client.h"
#include "histogram.h"
#include "stats.h"

#include <getopt.h>
#include <limits.h>

#define BUFFER    65536 /* at most the period of the answers */
#define EVENTS    256
#define MAX_CONNS 100000
#define QUIET_MS  (ANSWER_S * 1000) /* without an event: the server hangs */

/* Messages of size bytes, one after the other, that begin again after period
 * bytes. They stand there twice: a period is whole wherever it begins. */
struct stream {
	const char *bytes;
	uint64_t period;
	uint64_t size;
};

/* fd is -1 once it has failed. due, sent and got are places in the streams as
 * they are from its own beginning. */
struct conn {
	int fd;
	int waits_for_room;
	uint64_t due; /* what it is to send in all */
	uint64_t sent;
	uint64_t got;
	uint64_t messages; /* answered */
	int64_t *started;  /* of the OUTSTANDING under way, a ring */
	uint64_t ask_from; /* where it begins, in the streams */
	uint64_t answer_from;
};

struct options {
	int port;
	int conns;
	int outstanding;
	int told; /* -i */
	long messages;
	double seconds;
};

/* What the program sets. */
static struct stream asks;
static struct stream answers;

static struct options opt = {.conns = 64, .outstanding = 1, .messages = 100000};

static struct conn *conns;
static int ready; /* its epoll instance */
static char received[BUFFER];

/* Of one run. */
static struct histogram times;
static long left;       /* to be started */
static long under_way;  /* started and not yet back */
static int64_t give_up; /* when no more is started, or 0 */
static long errors;

static inline uint64_t under_way_of(const struct conn *conn)
{
	return conn->due / asks.size - conn->messages;
}

/* The bytes of the answers that belong to what has been sent. */
static inline uint64_t asked_for(const struct conn *conn)
{
	if (asks.size == answers.size)
		return conn->sent;
	return conn->sent / asks.size * answers.size;
}

static inline void fail(struct conn *conn, const char *why)
{
	if (errors++ == 0)
		fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name,
			why, strerror(errno));
	under_way -= (long)under_way_of(conn);
	close(conn->fd);
	conn->fd = -1;
}

static inline void watch(struct conn *conn, int op, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = conn};

	if (epoll_ctl(ready, op, conn->fd, &event) == -1)
		die("epoll_ctl");
}

static inline const char *stream_at(const struct stream *stream, uint64_t place)
{
	return stream->bytes + place % stream->period;
}

/* Sends what is due. Waits for room if there is none, and only then. */
static inline void send_due(struct conn *conn)
{
	while (conn->sent < conn->due) {
		uint64_t len = conn->due - conn->sent;
		ssize_t n = send(conn->fd,
			stream_at(&asks, conn->ask_from + conn->sent),
			len < asks.period ? len : asks.period, MSG_NOSIGNAL);

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

static inline void start_messages(
	struct conn *conn, uint64_t count, int64_t now)
{
	if (give_up != 0 && now >= give_up)
		left = 0;
	while (count-- > 0 && left > 0) {
		uint64_t number = conn->due / asks.size;

		conn->started[number % (uint64_t)opt.outstanding] = now;
		conn->due += asks.size;
		left--;
		under_way++;
	}
	if (conn->sent < conn->due)
		send_due(conn);
}

/* Notes the time of each message that is back whole: how many. */
static inline uint64_t end_messages(struct conn *conn, int64_t now)
{
	uint64_t before = conn->messages;

	for (; conn->got >= (conn->messages + 1) * answers.size;
		conn->messages++)
		histogram_add(&times,
			now -
				conn->started[conn->messages %
					(uint64_t)opt.outstanding]);
	under_way -= (long)(conn->messages - before);
	return conn->messages - before;
}

static inline void receive(struct conn *conn)
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
	if ((uint64_t)n > asked_for(conn) - conn->got ||
		memcmp(received,
			stream_at(&answers, conn->answer_from + conn->got),
			(size_t)n) != 0) {
		errno = EBADMSG;
		fail(conn, "the answer");
		return;
	}
	conn->got += (uint64_t)n;
	now = now_ns();
	start_messages(conn, end_messages(conn, now), now);
}

static inline void on_ready(struct conn *conn, uint32_t events)
{
	if (events & EPOLLOUT)
		send_due(conn);
	if (conn->fd != -1 && events & ~(uint32_t)EPOLLOUT)
		receive(conn);
}

static inline void wait_for_all(void)
{
	struct epoll_event events[EVENTS];

	while (under_way > 0) {
		int n = epoll_wait(ready, events, EVENTS, QUIET_MS);

		if (n == 0) {
			fprintf(stderr, "%s: %ld are not answered\n",
				program_invocation_short_name, under_way);
			errors += under_way;
			return;
		}
		for (int i = 0; i < n; i++)
			on_ready(events[i].data.ptr, events[i].events);
	}
}

/* Prints the line. */
static inline void run(long messages, double seconds)
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
	printf("messages=%lu seconds=%.4f rate=%.0f p50=%.1f p90=%.1f p99=%.1f "
	       "p999=%.1f max=%.1f errors=%ld\n",
		(unsigned long)times.count, took, (double)times.count / took,
		histogram_us(&times, 0.5), histogram_us(&times, 0.9),
		histogram_us(&times, 0.99), histogram_us(&times, 0.999),
		histogram_max_us(&times), errors);
	fflush(stdout);
}

/* One after the other, each with an answer before the next: that no queue
 * overflows is not what is measured. greet says where its streams begin, and
 * waits for an answer. */
static inline void open_all(void (*greet)(struct conn *conn, int number))
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
		greet(conn, i);
		set_nonblocking(conn->fd);
		watch(conn, EPOLL_CTL_ADD, EPOLLIN);
	}
}

/* Options */

#define ASKER_LETTERS "n:o:m:t:i"

/* One of those above: 0, or -1. */
static inline int read_option(int letter)
{
	if (letter == 'n')
		opt.conns = atoi(optarg);
	else if (letter == 'o')
		opt.outstanding = atoi(optarg);
	else if (letter == 'm')
		opt.messages = atol(optarg);
	else if (letter == 't')
		opt.seconds = atof(optarg);
	else if (letter == 'i')
		opt.told = 1;
	else
		return -1;
	return 0;
}

/* When all are read: 0, or -1. */
static inline int check_options(int argc, char **argv)
{
	if (opt.seconds > 0)
		opt.messages = LONG_MAX;
	opt.port = argument(argc, argv, optind, 0);
	return opt.port > 0 && opt.conns > 0 && opt.conns <= MAX_CONNS &&
			opt.outstanding > 0
		? 0
		: -1;
}

static inline void do_as_told(void)
{
	char line[32];

	printf("connected=%d\n", opt.conns);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		run(atol(line), 0);
}

/* When all are open: the status to end with. */
static inline int run_as_asked(void)
{
	if (opt.told)
		do_as_told();
	else
		run(opt.messages, opt.seconds);
	return errors > 0;
}

#endif /* BENCH_ASKER_H */
