/*
 * evt-pool-internal.h: a pool as the listener and the classic server see it.
 *
 * A pool is a listener's thread (the boss: it accepts, and sees to stopping)
 * and any number of workers. Both are a struct evt_worker: a thread, a loop, a
 * pipe. The pool knows nothing of sockets: what to do with a descriptor is
 * in the hooks of whoever owns the pool.
 *
 * The phases, in order, each begun by storing it under the pool's lock:
 *
 *	IDLE		nothing runs
 *	RUNNING		the boss runs, and workers perhaps
 *	STOPPING	asked for; the boss leaves its loop
 *	ENDED		nothing more is taken; the workers empty their pipes
 *	GONE		all threads are out, the boss is about to be
 *
 * Functions return 0 or -1 with errno and a line, unless said otherwise.
 */
#ifndef EVT_POOL_INTERNAL_H
#define EVT_POOL_INTERNAL_H

#include "evt-pipe-internal.h"
#include "evt-pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define EVT_POOL_MAX_WORKERS 65535

struct event;
struct event_base;

enum evt_pool_phase {
	EVT_POOL_IDLE,
	EVT_POOL_RUNNING,
	EVT_POOL_STOPPING,
	EVT_POOL_ENDED,
	EVT_POOL_GONE
};

/* What runs on a worker when it stops; a stack of them. */
struct evt_at_stop {
	struct evt_at_stop *next;
	void (*fn)(void *arg);
	void *arg;
};

struct evt_worker {
	/* Written before the thread starts, then only read. */
	struct evt_pool *pool;
	int index; /* -1: the boss */
	pthread_t thread;
	struct event_base *base;
	struct event *inbox;
	struct evt_pipe pipe; /* its write end: closed by the boss */

	/* The worker's thread alone; the rescuer's once lost is set. */
	struct evt_batch batch;
	struct evt_at_stop *at_stop;
	bool done;           /* the loop is to be left, or has been */
	bool broken;         /* the pipe has failed */
	bool reads_directly; /* where no event of the program's is waited for */

	/* Any thread; written by the worker's own. */
	atomic_int serving;     /* a descriptor in a callback's hands, or -1 */
	atomic_bool closing;    /* the end of the pipe is meant */
	atomic_bool lost;       /* the thread has ended before its time */
	atomic_ulong delivered; /* descriptors that reached deliver */
};

/* What the owner of a pool does. No hook but cut is called under a lock. */
struct evt_pool_hooks {
	/* On the worker: record->fd has arrived. */
	void (*deliver)(struct evt_worker *, const struct evt_record *);
	/* A descriptor that no worker is left for: closes it. */
	void (*drop)(struct evt_pool *, const struct evt_record *);
	/* The grace is over: wakes the callback that sits on fd. */
	void (*cut)(struct evt_pool *, int fd);
	/* On the boss, out of its loop: accepts no more. */
	void (*on_stopping)(struct evt_pool *);
	/* On the boss, all workers joined: frees what is the owner's. */
	void (*on_ended)(struct evt_pool *);
};

struct evt_pool {
	const struct evt_pool_hooks *hooks;
	struct evt_worker boss;
	struct evt_worker *workers; /* NULL unless started */
	int nr_workers;

	atomic_int phase;   /* enum evt_pool_phase */
	atomic_int nr_open; /* nr_workers, once all have started */
	atomic_ulong users; /* threads inside put: the lower half; how often
			       one came for any worker: the upper half */
	atomic_int waiters; /* of these, those waiting for room */
	atomic_bool hurry;  /* the grace is over */

	/* Under lock; changed tells of every change. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned news;       /* counts the changes */
	unsigned generation; /* counts the runs that are over */
	int alive;           /* workers that have not left yet */
	bool boss_in_loop;   /* its callback can still be cut */
	bool boss_joinable;  /* nobody has joined it, or is about to */
	int grace_ms;        /* -1: no end */
	int64_t stop_ms;     /* when the stop was asked for */

	pthread_mutex_t rescue_lock; /* the batch of a lost worker */
	atomic_ulong delivered;      /* by workers that have been freed */
};

/* evt-worker.c: one thread, its loop and its inbox. */

#define EVT_HIDDEN_ __attribute__((visibility("hidden")))
#define EVT_SELDOM_ __attribute__((noinline, cold)) /* out of the usual way */

extern EVT_HIDDEN_ _Thread_local struct evt_worker *evt_self_;
extern EVT_HIDDEN_ atomic_bool evt_is_forked_;

/* The worker or boss that the caller runs on, NULL elsewhere. */
static inline struct evt_worker *evt_thread_self_(void)
{
	return evt_self_;
}

/* True in a child that was forked while library threads ran. */
static inline bool evt_forked_(void)
{
	return atomic_load_explicit(&evt_is_forked_, memory_order_relaxed);
}

/* The loop and the pipe; the thread comes later. errno, and no line. */
int evt_worker_init_(struct evt_worker *, struct evt_pool *, int index);
void evt_worker_free_(struct evt_worker *);

/* Starts the thread with main(arg): 0 or an error number. */
int evt_worker_start_(struct evt_worker *, void *(*main)(void *), void *arg);

/* The main of a worker; arg is the worker. */
void *evt_worker_main_(void *arg);

/* What every library thread does first and last. */
void evt_thread_enter_(struct evt_worker *);
void evt_thread_leave_(void);

/*
 * A write to a client that left, or was cut, raised SIGPIPE, which is blocked
 * here; a callback that unblocks it later must not die of it then.
 */
void evt_thread_take_sigpipe_(void);

/* Serves until done: 0, or -1 if the loop failed. */
int evt_worker_run_(struct evt_worker *);

/* Calls what was registered, the last first. */
void evt_worker_run_at_stop_(struct evt_worker *);

/* Runs fn(arg) when the worker leaves its loop: 0 or an error number. */
int evt_worker_at_stop_(struct evt_worker *, void (*fn)(void *), void *arg);

/* Passes on what lies in the pipe of a lost worker. Any thread. */
void evt_worker_rescue_(struct evt_worker *);

/* In a callback: fd (-1: nothing) is in its hands from now on; if the grace is
 * over already, it is cut. */
void evt_worker_serving_(struct evt_worker *, int fd);

/*
 * Around a callback of the program's. Nobody cancels a library thread but a
 * stop that finds the pipe closed by somebody else, and it only while the
 * thread waits.
 */
int evt_callback_begin_(void);
void evt_callback_end_(struct evt_worker *, int state);

/* evt-pool.c: starting, choosing a worker, stopping. */

/* Once for each struct. */
void evt_pool_init_(struct evt_pool *, const struct evt_pool_hooks *);

/* IDLE to RUNNING; then the workers, whole or not at all. The caller sees to
 * it that neither meets the other, or a request to stop, in another thread. */
int evt_pool_start_boss_(struct evt_pool *);
int evt_pool_start_workers_(struct evt_pool *, int nr);

/*
 * Puts a record to worker, or to the next one (NULL). 0 or an error number, no
 * line: EAGAIN no room, ECANCELED stopping, ENXIO no worker left, ENOTCONN no
 * worker yet. With wait, a thread that may wait waits for room.
 */
int evt_pool_put_(struct evt_pool *, struct evt_worker *worker,
	const struct evt_record *, bool wait);

/* Forwards a record of a lost worker: 0 or an error number. */
int evt_pool_forward_(struct evt_pool *, const struct evt_record *);

/*
 * For those that wait for more than one put: what happened so far, and waiting
 * until something else has (room, a pool opened, a stop).
 */
unsigned evt_pool_news_(struct evt_pool *);
void evt_pool_await_news_(struct evt_pool *, unsigned seen);
void evt_pool_tell_(struct evt_pool *);

/* A worker has read from its pipe. */
void evt_pool_tell_of_room_(struct evt_pool *);

/* A worker is about to end. */
void evt_pool_worker_left_(struct evt_pool *);

/* Asks a running pool to stop, and returns. */
void evt_pool_request_stop_(struct evt_pool *);

/* Which run of the pool this is; counted when one is over. */
unsigned evt_pool_generation_(struct evt_pool *);

/* Waits until that run is over and its boss joined. Not on a library thread. */
void evt_pool_await_end_(struct evt_pool *, unsigned generation);

void evt_pool_set_grace_(struct evt_pool *, int ms);

/* Descriptors that reached deliver since the boss was started. */
unsigned long evt_pool_delivered_(struct evt_pool *);

static inline int evt_pool_phase_(struct evt_pool *pool)
{
	return atomic_load_explicit(&pool->phase, memory_order_acquire);
}

#endif /* EVT_POOL_INTERNAL_H */
