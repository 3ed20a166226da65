/*
 * sends: evt_pool_send from 4 threads of a program's own to 64 connections of a
 * pool with 2 workers, in this process, over the loopback; one thread reads
 * what arrives. Prints one line:
 *
 *	messages=N seconds=S rate=R cpu=T reader=T locks=L
 *
 * R being messages a second from the first send until the last byte is read,
 * and the two T microseconds of CPU time for each message: of the senders and
 * workers together, and of the reader, which is not the library's; and L how
 * many mutexes were locked for each, by this program, the library and libevent.
 *
 *	bench/sends [MESSAGES [-p]]
 *
 * Four senders are faster than two workers: most of the time they wait for room
 * in a pipe. With -p each pauses for 1 ms after 10 messages, so that there is
 * room. What `strace -f -c -e trace=futex` counts then is how often a thread
 * has waited for a lock, one of malloc's perhaps.
 */
#include "client.h"
#include "stats.h"

#include <dlfcn.h>
#include <stdatomic.h>

#include "evt-listener.h"

#define SENDERS 4
#define CONNS   64
#define WORKERS 2
#define SIZE    64
#define USUAL   1000000 /* messages */
#define PACE    10

struct sender {
	pthread_t thread;
	struct evt_pool *pool;
	pthread_barrier_t *barrier;
	int messages;
	int paced;
};

static uint64_t ids[CONNS];
static atomic_int nr_taken; /* of ids */
static atomic_int nr_open;  /* whose id is written */

typedef int (*lock_call)(pthread_mutex_t *);

static atomic_long nr_locks;

/* Stands before the C library's, which it calls. */
int pthread_mutex_lock(pthread_mutex_t *mutex)
{
	static _Atomic lock_call real;
	lock_call call = atomic_load(&real);

	if (!call) {
		void *found = dlsym(RTLD_NEXT, "pthread_mutex_lock");

		memcpy(&call, &found, sizeof(call));
		atomic_store(&real, call);
	}
	atomic_fetch_add_explicit(&nr_locks, 1, memory_order_relaxed);
	return call(mutex);
}

static void print_errors(int level, const char *line, void *arg)
{
	(void)arg;
	if (level >= EVT_LOG_ERROR)
		fprintf(stderr, "bench: %s\n", line);
}

static void on_open(struct evt_conn *conn, void *arg)
{
	(void)arg;
	ids[atomic_fetch_add(&nr_taken, 1)] = evt_conn_id(conn);
	atomic_fetch_add(&nr_open, 1);
}

/* So that the connections have their ids before anybody sends. */
static void connect_all(int port, int epoll)
{
	struct epoll_event in = {.events = EPOLLIN};

	for (int i = 0; i < CONNS; i++) {
		in.data.fd = connect_to(port, SOCK_NONBLOCK);
		if (epoll_ctl(epoll, EPOLL_CTL_ADD, in.data.fd, &in) == -1)
			die("epoll_ctl");
	}
	while (atomic_load(&nr_open) < CONNS)
		usleep(1000);
}

static void *run_sender(void *arg)
{
	const struct sender *sender = arg;
	char message[SIZE] = "a message";

	pthread_barrier_wait(sender->barrier);
	for (int i = 0; i < sender->messages; i++) {
		if (evt_pool_send(sender->pool, ids[i % CONNS], message,
			    sizeof(message)) == -1)
			die("evt_pool_send");
		if (sender->paced && i % PACE == PACE - 1)
			usleep(1000);
	}
	return NULL;
}

static void start_senders(struct sender *senders, struct evt_pool *pool,
	pthread_barrier_t *barrier, int messages, int paced)
{
	pthread_barrier_init(barrier, NULL, SENDERS + 1);
	for (int i = 0; i < SENDERS; i++) {
		senders[i] = (struct sender){.pool = pool,
			.barrier = barrier,
			.messages = messages / SENDERS,
			.paced = paced};
		errno = pthread_create(
			&senders[i].thread, NULL, run_sender, &senders[i]);
		if (errno != 0)
			die("pthread_create");
	}
}

static void read_all(int epoll, int64_t bytes)
{
	static char buf[64 * 1024];
	struct epoll_event events[CONNS];

	while (bytes > 0) {
		int n = epoll_wait(epoll, events, CONNS, ANSWER_S * 1000);

		if (n <= 0)
			die("messages are missing");
		for (int i = 0; i < n; i++) {
			ssize_t len = recv(
				events[i].data.fd, buf, sizeof(buf), 0);

			if (len <= 0)
				die("a connection has ended");
			bytes -= len;
		}
	}
}

static void measure(struct evt_pool *pool, int epoll, int messages, int paced)
{
	struct sender senders[SENDERS];
	pthread_barrier_t barrier;
	int64_t all = -clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	int64_t reader = -clock_ns(CLOCK_THREAD_CPUTIME_ID);
	long locks = -atomic_load(&nr_locks);
	int64_t wall;

	start_senders(senders, pool, &barrier, messages, paced);
	pthread_barrier_wait(&barrier);
	wall = -now_ns();
	read_all(epoll, (int64_t)messages * SIZE);
	wall += now_ns();
	for (int i = 0; i < SENDERS; i++)
		pthread_join(senders[i].thread, NULL);
	locks += atomic_load(&nr_locks);
	all += clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	reader += clock_ns(CLOCK_THREAD_CPUTIME_ID);
	printf("messages=%d seconds=%.3f rate=%.0f cpu=%.2f reader=%.2f "
	       "locks=%.5f\n",
		messages, (double)wall / 1e9,
		(double)messages * 1e9 / (double)wall,
		(double)(all - reader) / 1000 / (double)messages,
		(double)reader / 1000 / (double)messages,
		(double)locks / (double)messages);
}

int main(int argc, char **argv)
{
	struct evt_pool_options options = {.workers = WORKERS};
	struct evt_handlers handlers = {.on_open = on_open};
	int messages = argument(argc, argv, 1, USUAL);
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	struct evt_listener *listener;
	int paced = argc > 2 && strcmp(argv[2], "-p") == 0;
	struct evt_pool *pool;

	if (messages < SENDERS || argc > 2 + paced) {
		fprintf(stderr, "usage: bench/sends [MESSAGES [-p]]\n");
		return 2;
	}
	evt_set_log(print_errors, NULL);
	pool = evt_pool_new(&options);
	listener = evt_listen(pool, "tcp://127.0.0.1:0", &handlers, NULL, NULL);
	if (!pool || !listener || epoll == -1 || evt_pool_start(pool) == -1)
		die("starting");
	connect_all(evt_listener_port(listener), epoll);
	measure(pool, epoll, messages - messages % SENDERS, paced);
	evt_pool_free(pool);
	return 0;
}
