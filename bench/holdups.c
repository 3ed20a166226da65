/*
 * holdups: how long an old connection to an echo server waits while something
 * else happens there. Prints one line of figures, times in us:
 *
 *	bench/holdups PORT burst
 *
 *	A thread has one byte after the other echoed on old connections, in
 *	turn, while another connects 1,000 at once, has a byte echoed on each
 *	and resets them; ten times. The echoes' median and worst, and how long
 *	the slowest burst took until each of its clients was served.
 *
 *	bench/holdups PORT stall
 *
 *	For bench/evt-echo -s: one connection has its worker sleep for a second.
 *	Meanwhile the old ones have bytes echoed: how many are held up (those of
 *	the same worker), the worst of the others; and of new connections, how
 *	many are held up, and the worst of the others, from connect to the
 *	answer.
 */
#include "client.h"
#include "histogram.h"
#include "stats.h"

#include <stdatomic.h>

#define BURSTS        10
#define BURST         1000
#define OLD           16
#define PAUSE_US      50000
#define STALL_NS      (INT64_C(900) * 1000000) /* the server's is longer */
#define TOLD_NS       (INT64_C(300) * 1000000) /* by now it knows of it */
#define NEW_EVERY_NS  (INT64_C(20) * 1000000)
#define NEW_NOT_AFTER (INT64_C(700) * 1000000)
#define MAX_NEW       32

struct old {
	int port;
	int fds[OLD];
	atomic_int done;
	struct histogram times;
};

static void open_old(struct old *old)
{
	for (int i = 0; i < OLD; i++) {
		old->fds[i] = connect_to(old->port, 0);
		echo_byte(old->fds[i], 'x');
	}
}

static void close_old(struct old *old)
{
	for (int i = 0; i < OLD; i++)
		close(old->fds[i]);
}

/* Bursts */

static void *echo_on_old(void *arg)
{
	struct old *old = arg;

	for (int i = 0; !atomic_load(&old->done); i = (i + 1) % OLD) {
		int64_t start = now_ns();

		echo_byte(old->fds[i], 'x');
		histogram_add(&old->times, now_ns() - start);
	}
	return NULL;
}

/* Returns how long it took. */
static int64_t burst(int port)
{
	static int fds[BURST];
	int64_t start = now_ns();

	for (int i = 0; i < BURST; i++)
		fds[i] = connect_to(port, SOCK_NONBLOCK);
	for (int i = 0; i < BURST; i++) {
		struct pollfd room = {.fd = fds[i], .events = POLLOUT};

		poll(&room, 1, ANSWER_S * 1000);
		if (fcntl(fds[i], F_SETFL, 0) == -1)
			die("fcntl");
		echo_byte(fds[i], 'x');
	}
	start = now_ns() - start;
	for (int i = 0; i < BURST; i++)
		close(fds[i]);
	return start;
}

static void measure_bursts(struct old *old)
{
	pthread_t thread;
	int64_t slowest = 0;

	errno = pthread_create(&thread, NULL, echo_on_old, old);
	if (errno != 0)
		die("pthread_create");
	for (int i = 0; i < BURSTS; i++) {
		int64_t took = burst(old->port);

		slowest = took > slowest ? took : slowest;
		usleep(PAUSE_US);
	}
	atomic_store(&old->done, 1);
	pthread_join(thread, NULL);
	printf("bursts=%d connects=%d echoes=%lu p50=%.1f max=%.1f "
	       "slowest_burst=%.1f\n",
		BURSTS, BURST, (unsigned long)old->times.count,
		histogram_us(&old->times, 0.5), histogram_max_us(&old->times),
		(double)slowest / 1000);
}

/* A stalled worker */

/* The old connections, then the new ones; asked is when the byte went out that
 * is not yet back, or 0. */
struct stall {
	struct pollfd in[OLD + MAX_NEW];
	int64_t asked[OLD + MAX_NEW];
	int count;
	struct histogram old_times;
	struct histogram new_times;
};

static void ask(struct stall *stall, int i)
{
	stall->asked[i] = now_ns();
	if (send(stall->in[i].fd, "x", 1, MSG_NOSIGNAL) != 1)
		die("send");
}

static void take_answer(struct stall *stall, int i)
{
	int64_t took = now_ns() - stall->asked[i];
	char byte;

	if (recv(stall->in[i].fd, &byte, 1, 0) != 1)
		die("no answer");
	histogram_add(i < OLD ? &stall->old_times : &stall->new_times, took);
	stall->asked[i] = 0;
	if (i < OLD)
		ask(stall, i);
}

static void open_new(struct stall *stall, int port)
{
	int i = stall->count++;
	int64_t start = now_ns();

	stall->in[i] = (struct pollfd){
		.fd = connect_to(port, 0), .events = POLLIN};
	ask(stall, i);
	stall->asked[i] = start;
}

static void take_answers(struct stall *stall)
{
	if (poll(stall->in, (nfds_t)stall->count, 10) == -1)
		die("poll");
	for (int i = 0; i < stall->count; i++) {
		if (stall->in[i].revents)
			take_answer(stall, i);
	}
}

/* Those that wait since the stall began, or nearly. */
static int held_up(const struct stall *stall, int first, int end)
{
	int count = 0;

	for (int i = first; i < end; i++)
		count += stall->asked[i] != 0 &&
			now_ns() - stall->asked[i] > STALL_NS - NEW_NOT_AFTER;
	return count;
}

static void measure_stall(struct old *old)
{
	static struct stall stall;
	int victim = connect_to(old->port, 0);
	int64_t start;
	int64_t next;

	echo_byte(victim, 'x');
	if (send(victim, "s", 1, MSG_NOSIGNAL) != 1)
		die("send");
	usleep(PAUSE_US);
	start = now_ns() - PAUSE_US * INT64_C(1000);
	next = start + TOLD_NS;
	for (stall.count = 0; stall.count < OLD; stall.count++) {
		stall.in[stall.count] = (struct pollfd){
			.fd = old->fds[stall.count], .events = POLLIN};
		ask(&stall, stall.count);
	}
	while (now_ns() < start + STALL_NS) {
		if (now_ns() >= next && next < start + NEW_NOT_AFTER &&
			stall.count < OLD + MAX_NEW) {
			open_new(&stall, old->port);
			next += NEW_EVERY_NS;
		}
		take_answers(&stall);
	}
	printf("old=%d held_up=%d echoes=%lu p99=%.1f max=%.1f new=%d "
	       "new_held_up=%d new_max=%.1f\n",
		OLD, held_up(&stall, 0, OLD),
		(unsigned long)stall.old_times.count,
		histogram_us(&stall.old_times, 0.99),
		histogram_max_us(&stall.old_times), stall.count - OLD,
		held_up(&stall, OLD, stall.count),
		histogram_max_us(&stall.new_times));
}

int main(int argc, char **argv)
{
	static struct old old;
	const char *what = argc == 3 ? argv[2] : "";

	if (strcmp(what, "burst") != 0 && strcmp(what, "stall") != 0) {
		fprintf(stderr, "usage: bench/holdups PORT burst|stall\n");
		return 2;
	}
	raise_descriptor_limit();
	old.port = argument(argc, argv, 1, 0);
	open_old(&old);
	if (what[0] == 'b')
		measure_bursts(&old);
	else
		measure_stall(&old);
	close_old(&old);
	return 0;
}
