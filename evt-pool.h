/*
 * evt-pool.h: a pool of workers: starting, stopping, posting tasks, counters.
 *
 *	struct evt_pool *pool = evt_pool_new(NULL);	a worker for each CPU
 *	evt_listen(pool, "tcp://:9999", ...);		see evt-listener.h
 *	return evt_pool_run(pool);			until SIGINT or SIGTERM
 *
 * Each worker is a thread with an event_base and a pipe of its own. What
 * lives on a worker is touched by its thread alone; to reach it from another
 * thread, post a task:
 *
 *	static void count(struct evt_worker *worker, void *arg) { ... }
 *
 *	evt_worker_post(worker, count, &visits);	count runs on worker
 *
 * The pool of evt_server_threads is one too: inside its tcb evt_worker_self()
 * is the worker, evt_worker_pool() its pool. It is stopped by evt_server_stop;
 * evt_pool_run, _start, _wait and _free refuse it.
 *
 * What holds for every call of evt-pool.h, evt-conn.h and evt-listener.h:
 *
 * Results	0 or a count; or -1 with errno set and one line through the
 *		log hook (evt-log.h). A call that gives a pointer gives NULL
 *		and errno instead. EAGAIN, ECANCELED and, on a connection that
 *		is closing, ENOTCONN are answers, not faults: no line.
 * NULL		Refused with EINVAL where a pool, worker, listener, connection
 *		or function is needed; free, stop and close of NULL do nothing
 *		but say so. NULL options mean the defaults.
 * Ownership	What a call did not take, because it gave -1 or NULL, is still
 *		the caller's. Handlers and options are copied and may live on
 *		the stack. Pools are the program's until evt_pool_free; workers
 *		and listeners are the pool's and go with it. A connection is
 *		the library's, and valid until its on_close has returned.
 * Threads	Any thread may call anything of a pool, worker or listener. A
 *		connection is used on its worker alone: elsewhere its calls
 *		give EINVAL, and its id (evt-conn.h) is the way.
 * Callbacks	Handlers of a connection, its tasks and timeouts run on its
 *		worker; choose and on_error of a listener on the thread that
 *		accepts. None is called from inside a call into the library,
 *		or under a lock. They must not block for long: a worker serves
 *		nobody else meanwhile. They may call whatever is here, but
 *		those that wait: evt_pool_wait, evt_pool_free, evt_pool_run.
 *		A callback must not run the worker's event_base.
 * Memory	When there is none, the call gives ENOMEM, or the one connection
 *		that needed it ends with EVT_REASON_FAILED; the rest goes on.
 *		Posting allocates nothing: the pipe is the queue. Stopping
 *		needs neither memory nor room in a pipe.
 * Limits	Everything that a stranger can make grow has a finite default
 *		(evt-listener.h). In options 0 means the default and -1 "no
 *		limit", which has to be said; less is EINVAL.
 * Signals	None is touched but by evt_pool_run. The library's threads block
 *		every signal but those that a fault raises and SIGPROF; a write
 *		to a peer that left raises no SIGPIPE.
 * Descriptors	All close-on-exec, none below 3.
 * fork		A program may fork (to become a daemon) after evt_pool_new and
 *		evt_listen, before run or start, and the parent then just ends.
 *		In a child forked later every call that does something gives
 *		EPERM; the parent is not affected. Until it executes another
 *		program a child forked during evt_pool_run ignores SIGINT and
 *		SIGTERM, whose handler it has.
 */
#ifndef EVT_POOL_H
#define EVT_POOL_H

#include "evt-log.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EVT_VERSION "0.2.0"

/* The version of the library that runs; EVT_VERSION is that of the header. */
const char *evt_version(void);

struct event_base;
struct evt_pool;
struct evt_worker;

/* Zero means the default, in each. */
struct evt_pool_options {
	int workers;  /* one for each CPU that the process may use */
	int grace_ms; /* a stop waits so long for connections: 5,000; -1: for
			 as long as it takes */
	int stall_ms; /* a callback that runs longer is told of, and its worker
			 gets no new connection meanwhile: 1,000; -1: never */
	void (*on_worker_start)(struct evt_worker *worker, void *arg); /* on the
			 worker, before its first event */
	void (*on_worker_stop)(struct evt_worker *worker, void *arg);  /* the
			 last on the worker, before its base is freed */
	void *arg;
};

/*
 * A pool; its threads start in evt_pool_run or _start. NULL: EINVAL (options
 * out of range, above 65,535 workers), ENOMEM.
 * The size is that of the struct the program was compiled with: programs call
 * evt_pool_new, below.
 */
struct evt_pool *evt_pool_new_sized(
	const struct evt_pool_options *options, size_t size);

/*
 * Starts the workers and serves until the pool is stopped; the calling thread
 * accepts. SIGINT and SIGTERM stop it, a second one without grace; their
 * dispositions are put back, and so is this thread's mask, in which the two are
 * unblocked meanwhile: a program that blocks them before it says that it is
 * there loses none. 0 once it has stopped. -1: could not be started (EMFILE,
 * ENOMEM, EAGAIN, ...); ECONNABORTED: an evt_listen on this pool had failed, so
 * that a program need not look at each; EALREADY: a pool serves once; ENXIO:
 * its loop failed.
 */
int evt_pool_run(struct evt_pool *pool);

/* The same on a thread of the library's own; signals are left alone. 0: it
 * serves, and what was listened on before is. */
int evt_pool_start(struct evt_pool *pool);

/* Waits until a pool that was run or started has stopped: 0. EDEADLK on one of
 * its own threads, EINVAL when it was not started. */
int evt_pool_wait(struct evt_pool *pool);

/*
 * Asks the pool to stop, and returns: no more is accepted, each connection has
 * its on_stop, idle ones are closed, the others when they are done or the grace
 * is over. Never lost: before run or start it makes those return at once.
 * Any thread, callback or signal handler.
 */
void evt_pool_stop(struct evt_pool *pool);

/* Stops it, waits until it has, frees it and its listeners. Not on a library
 * thread, where it does nothing but say so. */
void evt_pool_free(struct evt_pool *pool);

/* The number of workers, also before they run. (Of the classic server: 0
 * before evt_server_threads.) */
int evt_pool_workers(struct evt_pool *pool);

/* Worker index, counted from 0; NULL (EINVAL) when there is none. */
struct evt_worker *evt_pool_worker(struct evt_pool *pool, int index);

/* The worker that the caller runs on; NULL, and no line, on other threads. */
struct evt_worker *evt_worker_self(void);

struct evt_pool *evt_worker_pool(struct evt_worker *worker);

int evt_worker_index(struct evt_worker *worker);

/* Its event_base, to be used on the worker alone; NULL before it runs. */
struct event_base *evt_worker_base(struct evt_worker *worker);

typedef void (*evt_task)(struct evt_worker *worker, void *arg);

/*
 * Has task(worker, arg) called on worker. A task that was taken (0) runs
 * exactly once, also while the pool stops. If the worker has lost its thread
 * (a callback ended it), it runs on another; if none has room, a line tells
 * that it does not run.
 * When the pipe is full a library thread gets EAGAIN, since it might wait for
 * itself; other threads wait for room. ECANCELED once the pool has ended.
 * ENXIO if no worker is left. ENOTCONN before run or start.
 */
int evt_worker_post(struct evt_worker *worker, evt_task task, void *arg);

/* Posts to every worker: how many took it, the first ones by index; -1 if
 * none did. */
int evt_pool_post_all(struct evt_pool *pool, evt_task task, void *arg);

/*
 * What is counted, one a line: SUM is added up over all threads, MAX is the
 * largest of them. Once a pool has stopped
 *	accepted = opened + refused + dropped,
 *	opened + connected = the closed_ ones together;
 * while it runs, the rest of both is on its way, or open.
 */
#define EVT_STATS(SUM, MAX)                                            \
	SUM(accepted, "connections accepted")                          \
	SUM(opened, "accepted connections that reached their worker")  \
	SUM(connected, "connections made by evt_connect")              \
	SUM(open, "connections open now, of both kinds")               \
	SUM(refused, "closed at once: above the limit, or by choice")  \
	SUM(dropped, "closed for want of memory or of a worker")       \
	SUM(closed_peer, "closed after the peer had ended the stream") \
	SUM(closed_ours, "closed or aborted by the program")           \
	SUM(closed_reset, "reset by the peer")                         \
	SUM(closed_idle, "no byte moved for too long")                 \
	SUM(closed_deadline, "first byte or lifetime over")            \
	SUM(closed_overflow, "input or output beyond its limit")       \
	SUM(closed_stopped, "closed by a stop of the pool")            \
	SUM(closed_failed, "an error of the system, or no memory")     \
	SUM(connects_failed, "evt_connect that reached nobody")        \
	SUM(bytes_in, "bytes received")                                \
	SUM(bytes_out, "bytes given to the kernel")                    \
	SUM(accept_pauses, "times that accepting was suspended")       \
	SUM(vanished, "clients that left before they were accepted")   \
	SUM(gone, "posts and sends to a connection that was gone")     \
	SUM(stalls, "callbacks that ran longer than stall_ms")         \
	MAX(longest_wait_us, "longest wait in a worker's pipe")        \
	MAX(longest_callback_us, "longest callback, from 4 ms up")     \
	SUM(datagrams_in, "datagrams given to on_datagrams")           \
	SUM(datagrams_out, "datagrams given to the kernel")            \
	SUM(datagrams_dropped, "datagrams that the kernel dropped")    \
	SUM(datagrams_refused, "datagrams from port 0, or ourselves")  \
	SUM(answers_refused, "answers too long: see evt-udp.h")        \
	SUM(answer_errors, "ICMP errors that answers have met")        \
	SUM(sends_failed, "datagrams that could not be sent")

#define EVT_STATS_FIELD_(name, text) uint64_t name;
struct evt_stats {
	EVT_STATS(EVT_STATS_FIELD_, EVT_STATS_FIELD_)
};
#undef EVT_STATS_FIELD_

/* The counters of all threads at about this moment; exact once the pool has
 * stopped. Programs call evt_pool_stats. */
int evt_pool_stats_sized(
	struct evt_pool *pool, struct evt_stats *stats, size_t size);

static inline struct evt_pool *evt_pool_new(
	const struct evt_pool_options *options)
{
	return evt_pool_new_sized(options, sizeof(*options));
}

static inline int evt_pool_stats(struct evt_pool *pool, struct evt_stats *stats)
{
	return evt_pool_stats_sized(pool, stats, sizeof(*stats));
}

#ifdef __cplusplus
}
#endif

#endif /* EVT_POOL_H */
