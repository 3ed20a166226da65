/*
 * rig.h: a classic server for tests: callbacks that count, clients that ask,
 * a gate that holds a callback, a stop on another thread. Everything is static,
 * one of each in a suite.
 */
#ifndef RIG_H
#define RIG_H

#include "ledger.h"
#include "../evt-pool.h"
#include "../evt-server-internal.h"
#include "../evt-server.h"

#include <fcntl.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>

/* Numbers that no descriptor has: what is dispatched need not be open. */
#define NO_FD 900000

/* What the callbacks below have done. */
static struct {
	atomic_int accepted;
	atomic_int refused; /* dispatches that gave -1 */
	atomic_int served;
	atomic_int ends; /* reads that met the end of the stream */
} tally;

static inline void forget_tally(void)
{
	atomic_store(&tally.accepted, 0);
	atomic_store(&tally.refused, 0);
	atomic_store(&tally.served, 0);
	atomic_store(&tally.ends, 0);
}

/* A gate: who waits goes on when it is opened. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t opened;
	bool open;
	atomic_int waiting;
} gate = {
	.lock = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER};

static inline void shut_gate(void)
{
	pthread_mutex_lock(&gate.lock);
	gate.open = false;
	pthread_mutex_unlock(&gate.lock);
	atomic_store(&gate.waiting, 0);
}

static inline void open_gate(void)
{
	pthread_mutex_lock(&gate.lock);
	gate.open = true;
	pthread_cond_broadcast(&gate.opened);
	pthread_mutex_unlock(&gate.lock);
}

static inline void wait_at_gate(void)
{
	atomic_fetch_add(&gate.waiting, 1);
	pthread_mutex_lock(&gate.lock);
	while (!gate.open)
		pthread_cond_wait(&gate.opened, &gate.lock);
	pthread_mutex_unlock(&gate.lock);
	atomic_fetch_sub(&gate.waiting, 1);
}

/* Callbacks */

static inline void on_client(sockfd_t fd, short evt, void *arg)
{
	sockfd_t conn = evt_tcp(fd, NULL);

	if (conn == -1)
		return;
	atomic_fetch_add(&tally.accepted, 1);
	if (evt_thread_dispatch(conn, evt, arg) == 0)
		return;
	atomic_fetch_add(&tally.refused, 1);
	evt_close(conn);
}

/* Sends one byte back, and closes. */
static inline void echo(sockfd_t conn, short evt, void *arg)
{
	char byte;

	(void)evt;
	(void)arg;
	if (read(conn, &byte, 1) == 1)
		(void)!write(conn, &byte, 1);
	else
		atomic_fetch_add(&tally.ends, 1);
	atomic_fetch_add(&tally.served, 1);
	evt_close(conn);
}

/* For what is not a connection. */
static inline void just_count(sockfd_t conn, short evt, void *arg)
{
	(void)conn;
	(void)evt;
	(void)arg;
	atomic_fetch_add(&tally.served, 1);
}

static inline void count_at_gate(sockfd_t conn, short evt, void *arg)
{
	wait_at_gate();
	just_count(conn, evt, arg);
}

/* What arrived: each argument is a number from 1. */

#define MOST 100000

static atomic_int arrived[MOST];  /* how often */
static atomic_int sequence[MOST]; /* in which order */
static atomic_int nr_arrived;

static inline void forget_arrivals(void)
{
	int i;

	for (i = 0; i < MOST; i++) {
		atomic_store(&arrived[i], 0);
		atomic_store(&sequence[i], 0);
	}
	atomic_store(&nr_arrived, 0);
}

static inline void *numbered(int number)
{
	return (void *)(intptr_t)number;
}

static inline void note_arrival(sockfd_t conn, short evt, void *arg)
{
	int number = (int)(intptr_t)arg;

	atomic_fetch_add(&arrived[number], 1);
	atomic_store(&sequence[atomic_fetch_add(&nr_arrived, 1)], number);
	just_count(conn, evt, arg);
}

static inline void note_arrival_at_gate(sockfd_t conn, short evt, void *arg)
{
	wait_at_gate();
	note_arrival(conn, evt, arg);
}

static inline bool arrived_in_order(int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		if (atomic_load(&sequence[i]) != i + 1)
			return false;
	return atomic_load(&nr_arrived) == nr;
}

static inline bool each_arrived_once(int nr)
{
	int i;

	for (i = 1; i <= nr; i++)
		if (atomic_load(&arrived[i]) != 1)
			return false;
	return atomic_load(&nr_arrived) == nr;
}

/* A thread of the program's that dispatches numbers first to last. */
struct dispatcher {
	pthread_t thread;
	int first;
	int last;
	atomic_int taken;
	atomic_int error; /* of the first that was refused */
};

static inline void *dispatcher_main(void *arg)
{
	struct dispatcher *self = arg;
	int i;

	for (i = self->first; i <= self->last; i++) {
		if (evt_thread_dispatch(NO_FD, EV_READ, numbered(i)) == -1) {
			atomic_store(&self->error, errno);
			break;
		}
		atomic_fetch_add(&self->taken, 1);
	}
	return NULL;
}

static inline void start_dispatcher(struct dispatcher *it, int first, int last)
{
	it->first = first;
	it->last = last;
	atomic_store(&it->taken, 0);
	atomic_store(&it->error, 0);
	assert_int_equal(
		pthread_create(&it->thread, NULL, dispatcher_main, it), 0);
}

/* The server */

/* A server on a free port, without a listener if cb is NULL, without workers
 * if tcb is: its port (0 without a listener), or -1. */
static inline int serve(evt_callback cb, evt_callback tcb, int nr)
{
	/* What a test that failed has left must not fail the next. */
	open_gate();
	evt_server_stop();
	forget_tally();
	shut_gate();
	evt_server_grace_ms(5000);
	if (evt_server_init(0, SOCK_STREAM) == -1)
		return -1;
	if (cb && evt_server_start(cb, NULL) == -1)
		return -1;
	if (tcb && evt_server_threads(tcb, nr) != nr)
		return -1;
	return cb ? evt_server_port() : 0;
}

/* True if a client that sends a byte gets it back. */
static inline bool answers(int port)
{
	int fd = connect_to(port);
	char byte = 'x';
	bool good;

	if (fd == -1)
		return false;
	good = send_all(fd, "a", 1) && receive_all(fd, &byte, 1) && byte == 'a';
	close(fd);
	return good;
}

/* True from the moment at which a stop was asked for. */
static inline bool stop_has_begun(void)
{
	return evt_server_threads(just_count, 0) == -1 && errno != EALREADY;
}

static inline void *stop_main(void *arg)
{
	atomic_bool *done = arg;

	evt_server_stop();
	if (done)
		atomic_store(done, true);
	return NULL;
}

/* Calls stop on another thread: it has begun when this returns. */
static inline pthread_t stop_elsewhere(atomic_bool *done)
{
	pthread_t thread;

	if (done)
		atomic_store(done, false);
	if (pthread_create(&thread, NULL, stop_main, done) != 0)
		abort();
	WAIT_FOR(stop_has_begun());
	return thread;
}

/* In a child: a network of its own, in which nobody else takes a port that was
 * given back. False where that is not allowed. */
static inline bool own_network(void)
{
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd;
	int result;

	if (unshare(CLONE_NEWNET) == -1 &&
		unshare(CLONE_NEWUSER | CLONE_NEWNET) == -1)
		return false;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	result = ioctl(fd, SIOCSIFFLAGS, &lo);
	close(fd);
	return result == 0;
}

#define NO_NETWORK 77 /* exit status of a child that could not have one */

/* Runs fn in a child with a network of its own: its status, or NO_NETWORK. */
struct networked {
	void (*fn)(void *arg);
	void *arg;
};

static inline void run_networked(void *arg)
{
	const struct networked *job = arg;

	if (!own_network())
		_exit(NO_NETWORK);
	job->fn(job->arg);
}

static inline int in_own_network(void (*fn)(void *), void *arg, int seconds)
{
	struct networked job = {fn, arg};

	return in_child(run_networked, &job, seconds);
}

/* The same as the whole of a test. */
static inline void passes_in_own_network(void (*fn)(void *), int seconds)
{
	int status = in_own_network(fn, NULL, seconds);

	if (status == NO_NETWORK)
		skip();
	assert_int_equal(status, 0);
}

#endif /* RIG_H */
