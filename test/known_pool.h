/*
 * known_pool.h: for suites of evt-pool.h: the classic pool, known by its
 * pointer, workers that are held and pipes that are filled, threads that post.
 * Everything is static, one of each in a suite, as in rig.h.
 */
#ifndef KNOWN_POOL_H
#define KNOWN_POOL_H

#include "rig.h"
#include "../evt-pool-internal.h"

#define WORKERS 4

/* A pool whose workers have told who they are: valid while it runs. */

static _Atomic(struct evt_pool *) pool;

static inline struct evt_worker *worker(int index)
{
	return evt_pool_worker(atomic_load(&pool), index);
}

static inline void tell_pool(sockfd_t conn, short evt, void *arg)
{
	atomic_store(&pool, evt_worker_pool(evt_worker_self()));
	if (arg)
		note_arrival(conn, evt, arg);
	else
		just_count(conn, evt, arg);
}

static inline void serve_with_a_known_pool(int nr)
{
	forget_arrivals();
	assert_int_equal(serve(NULL, tell_pool, nr), 0);
	assert_int_equal(evt_thread_dispatch(NO_FD, EV_READ, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
}

/* Tasks */

static inline void note_task(struct evt_worker *self, void *arg)
{
	(void)self;
	note_arrival(NO_FD, EV_READ, arg);
}

static inline void gate_task(struct evt_worker *self, void *arg)
{
	(void)self;
	(void)arg;
	wait_at_gate();
}

static inline void no_task(struct evt_worker *self, void *arg)
{
	(void)self;
	(void)arg;
}

/* Holds worker index at the gate: its pipe is empty then. */
static inline void hold(int index)
{
	int before = atomic_load(&gate.waiting);

	assert_int_equal(evt_worker_post(worker(index), gate_task, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == before + 1));
}

/* Has a worker post tasks to another until it is refused. */
struct filler {
	struct evt_worker *to;
	atomic_int taken;
	atomic_int error; /* not 0 once it is over */
};

static inline void fill_task(struct evt_worker *self, void *arg)
{
	struct filler *it = arg;
	int taken = 0;

	(void)self;
	while (taken < 100000 && evt_worker_post(it->to, no_task, NULL) == 0)
		taken++;
	atomic_store(&it->taken, taken);
	atomic_store(&it->error, errno);
}

static inline void fill_from(int from, int to, struct filler *it)
{
	it->to = worker(to);
	atomic_store(&it->error, 0);
	assert_int_equal(evt_worker_post(worker(from), fill_task, it), 0);
	assert_true(WAIT_FOR(atomic_load(&it->error) != 0));
}

static inline int room(struct evt_worker *it)
{
	return fcntl(it->pipe.write_fd, F_GETPIPE_SZ) /
		(int)sizeof(struct evt_record);
}

/* A thread of the program's that posts numbers first to last. */
struct poster {
	pthread_t thread;
	int first;
	int last;
	atomic_int taken;
	atomic_int error; /* of the first that was refused */
};

static inline void *poster_main(void *arg)
{
	struct poster *it = arg;
	int i;

	for (i = it->first; i <= it->last; i++) {
		if (evt_worker_post(it->first % 2 ? worker(0) : worker(1),
			    note_task, numbered(i)) == -1) {
			atomic_store(&it->error, errno);
			break;
		}
		atomic_fetch_add(&it->taken, 1);
	}
	return NULL;
}

static inline void start_poster(struct poster *it, int first, int last)
{
	it->first = first;
	it->last = last;
	atomic_store(&it->taken, 0);
	atomic_store(&it->error, 0);
	assert_int_equal(pthread_create(&it->thread, NULL, poster_main, it), 0);
}

/* Tasks that tell where they run, and how deep. */

static _Atomic(struct evt_worker *) ran_on;

static inline void tell_worker(struct evt_worker *self, void *arg)
{
	(void)arg;
	atomic_store(&ran_on, self == evt_worker_self() ? self : NULL);
	atomic_fetch_add(&tally.served, 1);
}

static atomic_int depth;
static atomic_int deepest;

static inline void post_from_inside(struct evt_worker *self, void *arg)
{
	int now = atomic_fetch_add(&depth, 1) + 1;
	int left = (int)(intptr_t)arg;

	if (now > atomic_load(&deepest))
		atomic_store(&deepest, now);
	if (left > 0)
		evt_worker_post(self, post_from_inside, numbered(left - 1));
	atomic_fetch_sub(&depth, 1);
	if (left == 0)
		atomic_fetch_add(&tally.served, 1);
}

#endif /* KNOWN_POOL_H */
