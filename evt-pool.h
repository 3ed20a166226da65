/*
 * evt-pool.h: the workers of a pool, and posting a task to one of them.
 *
 * Each worker is a thread with an event_base and a pipe of its own. What
 * lives on a worker is touched by its thread alone; to reach it from another
 * thread, post a task:
 *
 *	static void count(struct evt_worker *worker, void *arg) { ... }
 *
 *	evt_worker_post(worker, count, &visits);	count runs on worker
 *
 * The pool here is that of evt_server_threads: inside its tcb evt_worker_self()
 * is the worker, evt_worker_pool() its pool.
 *
 * What holds for every call here:
 *
 * Results	0 or a count; or -1 with errno set and one line through the
 *		log hook. EAGAIN and ECANCELED are answers, not faults: no line.
 *		A call that gives a pointer gives NULL where there is none.
 * NULL		A NULL worker, pool or task is refused with EINVAL.
 * Ownership	Pools and workers are the library's, and valid until the pool
 *		has stopped: no thread of the program's may use one after that.
 *		arg is the program's; when a call gave -1, nothing was taken.
 * Threads	Any thread may call anything.
 * Callbacks	Tasks run on their worker, in the order in which one thread
 *		posted them, and never from inside a call into the library.
 * Memory	Posting allocates nothing: the pipe is the queue.
 */
#ifndef EVT_POOL_H
#define EVT_POOL_H

#include "evt-log.h"

#ifdef __cplusplus
extern "C" {
#endif

struct event_base;
struct evt_pool;
struct evt_worker;

typedef void (*evt_task)(struct evt_worker *worker, void *arg);

/* The number of workers; 0 before they are started. */
int evt_pool_workers(struct evt_pool *pool);

/* Worker index, counted from 0; NULL (EINVAL) when there is none. */
struct evt_worker *evt_pool_worker(struct evt_pool *pool, int index);

/* The worker that the caller runs on; NULL, and no line, on other threads. */
struct evt_worker *evt_worker_self(void);

struct evt_pool *evt_worker_pool(struct evt_worker *worker);

int evt_worker_index(struct evt_worker *worker);

/* Its event_base, to be used on the worker alone. */
struct event_base *evt_worker_base(struct evt_worker *worker);

/*
 * Has task(worker, arg) called on worker. A task that was taken (0) runs
 * exactly once, also while the pool stops. If the worker has lost its thread
 * (a callback ended it), it runs on another; if none has room, a line tells
 * that it does not run.
 * When the pipe is full a worker gets EAGAIN, since it might wait for itself;
 * other threads wait for room. ECANCELED once the pool has ended. ENXIO if
 * no worker is left.
 */
int evt_worker_post(struct evt_worker *worker, evt_task task, void *arg);

/* Posts to every worker: how many took it, the first ones by index; -1 if
 * none did. */
int evt_pool_post_all(struct evt_pool *pool, evt_task task, void *arg);

#ifdef __cplusplus
}
#endif

#endif /* EVT_POOL_H */
