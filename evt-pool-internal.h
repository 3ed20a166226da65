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
 * The pool of the classic server is static, and begins anew after it is GONE;
 * one of evt_pool_new is the program's, and serves once.
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
#include <sys/epoll.h>

#define EVT_POOL_MAX_WORKERS 65535
#define EVT_POLL_BATCH       64 /* events seen to at once */

struct event;
struct event_base;
struct evt_known;
struct evt_udp_socket;

enum evt_pool_phase {
	EVT_POOL_IDLE,
	EVT_POOL_RUNNING,
	EVT_POOL_STOPPING,
	EVT_POOL_ENDED,
	EVT_POOL_GONE
};

/* evt_stats as one thread keeps it: written by that thread alone, relaxed. */
#define EVT_COUNTER_(name, text) atomic_ulong name;
struct evt_counters {
	EVT_STATS(EVT_COUNTER_, EVT_COUNTER_)
};
#undef EVT_COUNTER_

static inline void evt_count_(atomic_ulong *counter, unsigned long n)
{
	atomic_store_explicit(counter,
		atomic_load_explicit(counter, memory_order_relaxed) + n,
		memory_order_relaxed);
}

static inline void evt_count_max_(atomic_ulong *counter, unsigned long value)
{
	if (value > atomic_load_explicit(counter, memory_order_relaxed))
		atomic_store_explicit(counter, value, memory_order_relaxed);
}

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
	struct event *inbox;  /* the pipe; where there is poll_fd, that */
	struct evt_pipe pipe; /* its write end: closed by the boss */
	int poll_fd; /* epoll: the pipe, and what is the owner's; or -1 */
	void *state; /* of the pool's owner: see init; NULL without */

	/* The worker's thread alone; the rescuer's once lost is set. */
	struct evt_batch batch;
	struct evt_at_stop *at_stop;
	bool done;           /* the loop is to be left, or has been */
	bool broken;         /* the pipe has failed */
	bool blocks;         /* ... to be read without waiting */
	bool reads_directly; /* where no event of the program's is waited for */
	bool in_loop;        /* in libevent's, not in a wait of our own */
	bool has_conns;      /* its state waits for more than the pipe */
	int nr_watches;      /* that wait for something too */

	/* The worker's thread alone, of evt-udp.c: NULL if there is none. */
	struct evt_udp_socket *udp_sockets; /* a list */
	struct evt_known *known;            /* senders that were validated */

	/* The worker's thread alone: what is ready on poll_fd. On the stack it
	 * would be zeroed each time, by -ftrivial-auto-var-init. */
	struct epoll_event events[EVT_POLL_BATCH];

	/* The worker's thread alone: its turns, see evt_callback_begin_. */
	int depth;        /* callbacks within callbacks */
	int64_t now_us;   /* when this turn began */
	uint32_t now_ms;  /* the same in milliseconds, modulo 2^32 */
	bool clock_used;  /* that is not now any more: see evt_home_now_ms_ */
	unsigned changes; /* the pool's, as far as seen */

	/* The boss alone. */
	unsigned watched_turn; /* seen at watched_ms */
	int64_t watched_ms;
	bool stalled; /* in watched_turn for too long */

	/* Any thread; written by the worker's own. */
	atomic_int serving;     /* a descriptor in a callback's hands, or -1 */
	atomic_bool closing;    /* the end of the pipe is meant */
	atomic_bool lost;       /* the thread has ended before its time */
	atomic_bool drained;    /* nothing is left that a stop waits for */
	atomic_uint turn;       /* odd while in a callback */
	atomic_ulong delivered; /* descriptors that reached deliver */
	atomic_ulong ended;     /* connections that are not open any more */
	struct evt_counters counters;

	/* Any thread: connections that were put into the pipe. */
	atomic_ulong assigned;
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

	/* Of the pools of evt_pool_new; all NULL in the classic server's. */

	/* Makes and frees worker->state; before its thread, and after it. */
	int (*init)(struct evt_worker *);
	void (*release)(struct evt_worker *);
	/* On the worker (or boss): something changed, see evt_pool_changed_. */
	void (*on_change)(struct evt_worker *);
	/* On the worker: something of key, on its poll_fd. */
	void (*on_event)(struct evt_worker *, uint64_t key, uint32_t events);
	/* On the worker: CONN_TASK or SEND has arrived. */
	void (*receive)(struct evt_worker *, struct evt_record *);
	/* On the worker, at the end of each turn. */
	void (*settle)(struct evt_worker *);
	/* On the worker, which has lost its thread. */
	void (*lose)(struct evt_worker *);
	/* In evt_pool_free: frees what else is the owner's. */
	void (*on_free)(struct evt_pool *);
};

/* How far a pool of evt_pool_new has come. */
enum evt_start {
	EVT_START_NOT,
	EVT_START_WAIT,      /* its threads are being made, and wait */
	EVT_START_CANCELLED, /* one could not be: the others end */
	EVT_START_GO
};

/* What became of the connections that were open when a stop began. */
struct evt_pool_drained {
	atomic_ulong idle;     /* closed at once */
	atomic_ulong finished; /* closed within the grace */
	atomic_ulong aborted;  /* when it was over */
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

	/* Of the pools of evt_pool_new. */
	bool owned;                      /* this is one: it serves once */
	struct evt_pool_options options; /* every default filled in */
	struct event *watch;             /* the boss's: looks for stalls */
	enum evt_start start;            /* under lock */
	struct evt_listener *listeners;  /* under lock: a list */
	atomic_int listen_error; /* of the first evt_listen that failed */
	atomic_int wake_fd;      /* the boss's pipe, once there is one */
	atomic_bool stop_wanted;
	atomic_bool unheard;     /* ... and the boss could not be woken */
	atomic_uint signals;     /* that asked for it */
	atomic_bool has_signals; /* in evt_pool_run */
	atomic_uint changes;     /* counts evt_pool_changed_ */
	atomic_bool draining;    /* nothing is accepted any more */
	atomic_bool watching;    /* the boss looks for stalls */
	atomic_bool watch_asked; /* it is to begin */
	atomic_int nr_paused;    /* sockets on which accepting pauses */
	atomic_bool nudged;      /* they have been asked to look again */
	atomic_bool wants_room;  /* one of them for room in a pipe */
	struct evt_pool_drained drained;
	atomic_ulong dropped; /* connections of a lost worker, by any thread */
	atomic_ulong gone;    /* sends to one of them */
	_Atomic(struct evt_pool *) next; /* that have been in evt_pool_run */
};

/* The keys of events on a worker's poll_fd; the owner's others are above. Of a
 * watch it is the address, with the highest bit set. */
#define EVT_KEY_INBOX 0
#define EVT_KEY_TIMER 1
#define EVT_KEY_WATCH ((uint64_t)1 << 63)

/* What is no connection and is waited for on a poll_fd. Its struct outlives the
 * worker's loop: an event may have been taken before it was dropped. */
struct evt_watch {
	void (*on_ready)(struct evt_watch *, uint32_t events);
};

/* evt-worker-base.c */

/* A base for one thread; NULL with errno. */
struct event_base *evt_base_new_(void);

/* A timer that has been pending once has its place in the heap, and can be
 * added again when there is no memory. 0, or -1. */
int evt_timer_reserve_(struct event *timer);

/* Adds it, to fire after less than a second. There was a place for it, but not
 * for all of many at a time: if memory is needed and there is none, the thread
 * itself waits so long, and -1 is given. */
int evt_timer_add_(struct event *timer, int ms);

/* evt-worker.c: one thread, its loop and its inbox. */

#define EVT_HIDDEN_ __attribute__((visibility("hidden")))
#define EVT_SELDOM_ __attribute__((noinline, cold)) /* out of the usual way */

extern EVT_HIDDEN_ _Thread_local struct evt_worker *evt_self_;
extern EVT_HIDDEN_ atomic_bool evt_is_forked_;

/* A child was forked while library threads ran, and may have what is ours open
 * as well: closing a descriptor does not take it out of an epoll instance. */
extern EVT_HIDDEN_ atomic_bool evt_has_forked_;

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

/* Has the owner's on_event called with key when fd is readable: 0, or -1. */
int evt_worker_watch_(struct evt_worker *, int fd, uint64_t key);

/* Has on_ready called for these events of epoll(7) on fd, until it is dropped:
 * 0, or -1. On the worker, which has a poll_fd. */
int evt_worker_add_watch_(
	struct evt_worker *, int fd, struct evt_watch *, uint32_t events);
int evt_worker_change_watch_(
	struct evt_worker *, int fd, struct evt_watch *, uint32_t events);
void evt_worker_drop_watch_(struct evt_worker *, int fd);

/* Starts the thread with main(arg): 0 or an error number. */
int evt_worker_start_(struct evt_worker *, void *(*main)(void *), void *arg);

/* The main of a worker; arg is the worker. */
void *evt_worker_main_(void *arg);

/* What every library thread does first and last. Of the program's own, which
 * has become the boss of a pool, borrow first. */
void evt_thread_borrow_(void);
void evt_thread_enter_(struct evt_worker *);
void evt_thread_leave_(void);

/* On the thread, before its loop: on_worker_start, and a first look at what
 * there is to do. */
void evt_worker_begin_(struct evt_worker *);

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

/* Calls on_worker_start or _stop. */
void evt_worker_run_hook_(
	struct evt_worker *, void (*hook)(struct evt_worker *, void *arg));

/* On a worker (arg) whose loop has failed, or whose thread is being ended. */
void evt_worker_lose_(void *arg);

/* Passes on what lies in the pipe of a lost worker. Any thread. */
void evt_worker_rescue_(struct evt_worker *);

/* In a callback: fd (-1: nothing) is in its hands from now on; if the grace is
 * over already, it is cut. */
void evt_worker_serving_(struct evt_worker *, int fd);

/*
 * Around whatever may call the program: a turn. Nobody cancels a library
 * thread but a stop that finds the pipe closed by somebody else, and it only
 * while the thread waits.
 */
int evt_callback_begin_(struct evt_worker *);
void evt_callback_end_(struct evt_worker *, int state);

/* The same where cancelling is off already: in on_event. */
void evt_turn_begin_(struct evt_worker *);
void evt_turn_end_(struct evt_worker *);

/* The bytes in its pipe. On the worker. */
size_t evt_worker_unread_(const struct evt_worker *);

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

/* Waits for a change, so long at most; asks the system for nothing. */
void evt_pool_nap_(struct evt_pool *, int ms);
void evt_pool_tell_(struct evt_pool *);

/* A worker has read from its pipe. */
void evt_pool_tell_of_room_(struct evt_pool *);

/* While draining, the grace being over. */
void evt_pool_end_deaf_(struct evt_pool *);

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

/* Boss alone: puts nr CONN records into worker's pipe: 0 or an error number. */
int evt_pool_hand_over_(
	struct evt_worker *, const struct evt_record *, size_t nr);

/* What every boss does, on its own thread or on the caller's: 0, or -1 if its
 * loop failed. */
int evt_pool_serve_(struct evt_pool *);

/* Starts the boss's thread: 0 or an error number. */
int evt_pool_start_boss_thread_(struct evt_pool *);

/* What evt_pool_start_workers_ is made of: loops; threads (how many of them
 * could be started, *error why not all); and undoing both. */
int evt_pool_init_workers_(struct evt_pool *, int nr);
int evt_pool_start_threads_(struct evt_pool *, int nr, int *error);
void evt_pool_end_workers_(struct evt_pool *, int nr_threads);

/* evt-pool-run.c: the pools of evt_pool_new. */

/* Hooks for them, from the room above. */
extern EVT_HIDDEN_ const struct evt_pool_hooks evt_pool_hooks_;

/* Wakes the boss. False, and a line: it hears of nothing. */
bool evt_pool_wake_boss_(struct evt_pool *);

/* Something that boss and workers have to look at has changed: on_change is
 * called on each. Needs no memory and no room. False, and a line: one could not
 * be woken. */
bool evt_pool_changed_(struct evt_pool *);

/* A descriptor or a place was given back: accepting may go on. */
static inline void evt_pool_nudge_(struct evt_pool *pool)
{
	/* With whoever pauses: it says so first, and then looks once more. */
	if (atomic_load(&pool->nr_paused) > 0 &&
		!atomic_exchange(&pool->nudged, true) &&
		!evt_pool_changed_(pool))
		atomic_store(&pool->nudged, false); /* so the next one tries */
}

/* On a new worker: waits until the pool has started; false if it could not. */
bool evt_pool_await_start_(struct evt_pool *);

/* On the boss that has left its loop: waits until every connection is closed,
 * or the grace over. */
void evt_pool_drain_(struct evt_pool *);

/* On the boss that is lost: waits for the stop. */
void evt_pool_await_stop_(struct evt_pool *);

/* Waits until a pool that was started is over, and joins its boss; false if
 * it was not. */
bool evt_pool_await_over_(struct evt_pool *);

/* For those who use the pipes of workers: they stay from enter to leave. */
bool evt_pool_has_users_(struct evt_pool *);
void evt_pool_enter_(struct evt_pool *);
void evt_pool_leave_(struct evt_pool *);

/* Of the structs that programs give with their size: a copy, the rest being
 * zero; false if it asks for something that is not known here. */
bool evt_options_copy_(void *dest, size_t room, const void *src, size_t size);

/* Zero becomes usual; below -1: EINVAL. */
int evt_option_(const char *call, const char *name, int *value, int usual);

/* The run is over; the lock is held. */
void evt_pool_over_(struct evt_pool *);

/* evt-pool-watch.c: workers that hang in a callback. */

int evt_watch_init_(struct evt_pool *);
void evt_watch_free_(struct evt_pool *);

/* A turn has begun and nobody watches. */
void evt_watch_wanted_(struct evt_pool *);

/* On the boss, woken: starts looking if that is wanted. */
void evt_watch_look_(struct evt_pool *);

/* On the boss: whether worker is in a callback for too long. */
bool evt_worker_is_stalled_(struct evt_worker *);

static inline int evt_pool_phase_(struct evt_pool *pool)
{
	return atomic_load_explicit(&pool->phase, memory_order_acquire);
}

#endif /* EVT_POOL_INTERNAL_H */
