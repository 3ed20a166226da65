/*
 * evt-pool-put.c: from a thread to a worker's pipe: choosing a worker, waiting
 * for room, and what to do with a worker that is lost.
 *
 * On the way of the data there is no lock: putting a record is an atomic
 * counter of those who are inside, a look at the phase, and the write. The
 * counter is what lets a stop close the pipes: it first says that nothing more
 * is taken and then waits until nobody is inside.
 */
#include "evt-pool-internal.h"
#include "evt-log-internal.h"

#include <errno.h>

/*
 * One counter has two halves, since each atomic operation on it counts: who is
 * inside, and, for the round robin, how many came for any worker.
 */
#define HALF     (sizeof(unsigned long) * 4)
#define ONE_USER 1UL
#define ONE_TURN (1UL << HALF)

bool evt_pool_has_users_(struct evt_pool *pool)
{
	return (atomic_load(&pool->users) & (ONE_TURN - 1)) != 0;
}

/* Before the phase is looked at: with take_nothing_more. Returns the turn. */
static unsigned enter(struct evt_pool *pool, bool for_any)
{
	unsigned long before = atomic_fetch_add(
		&pool->users, for_any ? ONE_TURN + ONE_USER : ONE_USER);

	return (unsigned)(before >> HALF);
}

static void leave(struct evt_pool *pool)
{
	atomic_fetch_sub(&pool->users, ONE_USER);
	if (atomic_load(&pool->phase) >= EVT_POOL_ENDED &&
		!evt_pool_has_users_(pool))
		evt_pool_tell_(pool);
}

void evt_pool_enter_(struct evt_pool *pool)
{
	enter(pool, false);
}

void evt_pool_leave_(struct evt_pool *pool)
{
	leave(pool);
}

/*
 * A descriptor is taken until a stop is asked for; but the connection in the
 * hands of the listener's callback is taken all the same, or a program that
 * does not look at the result would lose it. Tasks are taken while draining.
 */
static inline int refusal(
	struct evt_pool *pool, const struct evt_record *record)
{
	struct evt_worker *self = evt_thread_self_();
	int phase = atomic_load(&pool->phase);

	if (phase == EVT_POOL_IDLE)
		return ENOTCONN;
	if (phase == EVT_POOL_RUNNING)
		return 0;
	if (phase == EVT_POOL_STOPPING &&
		(record->kind != EVT_RECORD_CONN ||
			(self == &pool->boss && !self->done)))
		return 0;
	return ECANCELED;
}

static inline int put_to(
	struct evt_worker *worker, const struct evt_record *record)
{
	if (atomic_load_explicit(&worker->lost, memory_order_acquire))
		return ENXIO;
	if (evt_pipe_put_(&worker->pipe, record) == -1)
		return errno;
	/* With evt_worker_lose_, which says that it is lost and then empties
	 * the pipe: either it finds this record, or, the pipe's own lock being
	 * between the two, it is seen here that it is lost. The boss's tasks
	 * are for its own loop alone. */
	if (atomic_load_explicit(&worker->lost, memory_order_acquire) &&
		worker->index != -1)
		evt_worker_rescue_(worker);
	return 0;
}

static inline int put_to_next(
	struct evt_pool *pool, unsigned turn, const struct evt_record *record)
{
	unsigned nr = (unsigned)atomic_load(&pool->nr_open);
	unsigned i;
	int error = ENXIO;

	if (nr == 0)
		return ENOTCONN;
	for (i = 0; i < nr; i++) {
		struct evt_worker *worker = &pool->workers[(turn + i) % nr];
		int result = put_to(worker, record);

		if (result == 0 && pool->owned &&
			record->kind == EVT_RECORD_CONN)
			atomic_fetch_add(&worker->assigned, 1);
		if (result == 0)
			return 0;
		if (result != ENXIO)
			error = result;
	}
	return error;
}

static inline int try_put(struct evt_pool *pool, struct evt_worker *worker,
	unsigned turn, const struct evt_record *record)
{
	int error = refusal(pool, record);

	if (error)
		return error;
	error = worker ? put_to(worker, record)
		       : put_to_next(pool, turn, record);
	/* A task for a lost worker runs on another. What is for one of its
	 * connections must not: there it would be for one with that number. */
	if (error == ENXIO && worker && worker->index != -1 &&
		record->kind == EVT_RECORD_TASK)
		error = put_to_next(pool, turn, record);
	return error;
}

/* A worker may be the only one who could make room. And the boss of a pool of
 * evt_pool_new is who sees to a stop, of which it hears in its loop alone. */
static bool may_wait(void)
{
	struct evt_worker *self = evt_thread_self_();

	return !self || (self->index == -1 && !self->pool->owned);
}

/* The caller is counted among the waiters before it tries again: a worker
 * that makes room after that sees it, see evt_pool_tell_of_room_. */
static EVT_SELDOM_ int put_when_there_is_room(struct evt_pool *pool,
	struct evt_worker *worker, unsigned turn,
	const struct evt_record *record)
{
	unsigned seen;
	int error;

	atomic_fetch_add(&pool->waiters, 1);
	for (;;) {
		seen = evt_pool_news_(pool);
		error = try_put(pool, worker, turn, record);
		if (error != EAGAIN)
			break;
		if (atomic_load(&pool->phase) != EVT_POOL_RUNNING) {
			error = ECANCELED;
			break;
		}
		evt_pool_await_news_(pool, seen);
	}
	atomic_fetch_sub(&pool->waiters, 1);
	return error;
}

int evt_pool_put_(struct evt_pool *pool, struct evt_worker *worker,
	const struct evt_record *record, bool wait)
{
	unsigned turn = enter(pool, worker == NULL);
	int error;

	error = try_put(pool, worker, turn, record);
	if (error == EAGAIN && wait && may_wait())
		error = put_when_there_is_room(pool, worker, turn, record);
	leave(pool);
	return error;
}

int evt_pool_forward_(struct evt_pool *pool, const struct evt_record *record)
{
	unsigned turn = enter(pool, true);
	int error = ECANCELED;

	if (atomic_load(&pool->phase) < EVT_POOL_ENDED)
		error = put_to_next(pool, turn, record);
	leave(pool);
	return error;
}

void evt_pool_tell_of_room_(struct evt_pool *pool)
{
	/* With put_when_there_is_room: a write that met a full pipe before this
	 * read, by the order of the pipe's own lock, was a counted waiter's. */
	if (atomic_load_explicit(&pool->waiters, memory_order_acquire) > 0)
		evt_pool_tell_(pool);
	/* With a listener that pauses since all pipes are full. */
	if (atomic_load_explicit(&pool->wants_room, memory_order_acquire) &&
		atomic_exchange(&pool->wants_room, false)) {
		atomic_fetch_add(&pool->changes, 1);
		evt_pool_wake_boss_(pool);
	}
}

/* evt-pool.h */

int evt_worker_post(struct evt_worker *worker, evt_task task, void *arg)
{
	const struct evt_record record = {.kind = EVT_RECORD_TASK,
		.queued_us = (uint32_t)evt_now_us_(),
		.task = task,
		.arg = arg};
	int index;
	int error;

	if (evt_forked_())
		return evt_fail_(EPERM, "evt_worker_post in a forked child");
	if (!worker || !task)
		return evt_fail_(EINVAL, "evt_worker_post");
	index = worker->index; /* after a refusal it may be gone */
	error = evt_pool_put_(worker->pool, worker, &record, true);
	if (error)
		return evt_fail_(error, "evt_worker_post to worker %d", index);
	return 0;
}

int evt_pool_post_all(struct evt_pool *pool, evt_task task, void *arg)
{
	const struct evt_record record = {.kind = EVT_RECORD_TASK,
		.queued_us = (uint32_t)evt_now_us_(),
		.task = task,
		.arg = arg};
	int posted = 0;
	int error = ENXIO;
	int nr = 0;

	if (evt_forked_())
		return evt_fail_(EPERM, "evt_pool_post_all in a forked child");
	if (!pool || !task)
		return evt_fail_(EINVAL, "evt_pool_post_all");
	enter(pool, false); /* the workers stay until leave */
	if (atomic_load(&pool->phase) == EVT_POOL_IDLE)
		error = ENOTCONN;
	else if (atomic_load(&pool->phase) < EVT_POOL_ENDED)
		nr = atomic_load(&pool->nr_open);
	else
		error = ECANCELED;
	while (posted < nr) {
		error = evt_pool_put_(
			pool, &pool->workers[posted], &record, true);
		if (error)
			break;
		posted++;
	}
	leave(pool);
	if (posted > 0)
		return posted;
	return evt_fail_(error, "evt_pool_post_all");
}
