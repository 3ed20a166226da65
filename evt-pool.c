/*
 * evt-pool.c: the pool: starting its threads whole or not at all, choosing a
 * worker, waiting for room, and stopping.
 *
 * On the way of the data there is no lock: putting a record is an atomic
 * counter of those who are inside, a look at the phase, and the write. The
 * counter is what lets a stop close the pipes: it first says that nothing more
 * is taken and then waits until nobody is inside.
 *
 * The boss sees to stopping, so that a stop may be asked for from any thread,
 * a worker's callback too, and needs no thread, no memory and no room in a pipe
 * when it comes. Letting the asking thread do it was rejected: a worker would
 * have to wait for itself.
 */
#include "evt-pool-internal.h"
#include "evt-log-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

void evt_pool_init_(struct evt_pool *pool, const struct evt_pool_hooks *hooks)
{
	pthread_condattr_t monotonic;

	pool->hooks = hooks;
	pool->grace_ms = 5000;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_mutex_init(&pool->rescue_lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&pool->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

/* The lock is held. */
static void tell(struct evt_pool *pool)
{
	pool->news++;
	pthread_cond_broadcast(&pool->changed);
}

static void set_phase(struct evt_pool *pool, enum evt_pool_phase phase)
{
	atomic_store(&pool->phase, (int)phase);
	tell(pool);
}

/* Waits for a change, until deadline_ms if that is not -1; false: it is
 * reached. The lock is held. */
static bool await_change(struct evt_pool *pool, int64_t deadline_ms)
{
	struct timespec until;

	if (deadline_ms == -1) {
		pthread_cond_wait(&pool->changed, &pool->lock);
		return true;
	}
	until.tv_sec = (time_t)(deadline_ms / 1000);
	until.tv_nsec = (long)(deadline_ms % 1000) * 1000000;
	return pthread_cond_timedwait(&pool->changed, &pool->lock, &until) !=
		ETIMEDOUT;
}

/* When the grace is over, -1 for never. The lock is held. */
static int64_t grace_end(struct evt_pool *pool)
{
	return pool->grace_ms == -1 ? -1 : pool->stop_ms + pool->grace_ms;
}

void evt_pool_set_grace_(struct evt_pool *pool, int ms)
{
	pthread_mutex_lock(&pool->lock);
	pool->grace_ms = ms;
	tell(pool);
	pthread_mutex_unlock(&pool->lock);
}

/* Choosing and putting */

/*
 * One counter has two halves, since each atomic operation on it counts: who is
 * inside, and, for the round robin, how many came for any worker.
 */
#define HALF     (sizeof(unsigned long) * 4)
#define ONE_USER 1UL
#define ONE_TURN (1UL << HALF)

static bool has_users(struct evt_pool *pool)
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
	if (atomic_load(&pool->phase) >= EVT_POOL_ENDED && !has_users(pool))
		evt_pool_tell_(pool);
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
		(record->kind == EVT_RECORD_TASK ||
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
	/* With lose_thread, which says that it is lost and then empties the
	 * pipe: either it finds this record, or, the pipe's own lock being
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
		int result = put_to(&pool->workers[(turn + i) % nr], record);

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
	/* A task for a lost worker runs on another. */
	if (error == ENXIO && worker && worker->index != -1)
		error = put_to_next(pool, turn, record);
	return error;
}

/* A worker may be the only one who could make room. */
static bool may_wait(void)
{
	struct evt_worker *self = evt_thread_self_();

	return !self || self->index == -1;
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

unsigned evt_pool_news_(struct evt_pool *pool)
{
	unsigned news;

	pthread_mutex_lock(&pool->lock);
	news = pool->news;
	pthread_mutex_unlock(&pool->lock);
	return news;
}

void evt_pool_await_news_(struct evt_pool *pool, unsigned seen)
{
	pthread_mutex_lock(&pool->lock);
	while (pool->news == seen)
		await_change(pool, -1);
	pthread_mutex_unlock(&pool->lock);
}

void evt_pool_tell_(struct evt_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	tell(pool);
	pthread_mutex_unlock(&pool->lock);
}

void evt_pool_tell_of_room_(struct evt_pool *pool)
{
	/* With put_when_there_is_room: a write that met a full pipe before this
	 * read, by the order of the pipe's own lock, was a counted waiter's. */
	if (atomic_load_explicit(&pool->waiters, memory_order_acquire) > 0)
		evt_pool_tell_(pool);
}

/* Stopping */

/* A descriptor of ours was closed by somebody else, so the loop will not hear
 * of anything any more. It waits in a cancellation point. */
static void end_deaf_thread(struct evt_worker *worker)
{
	pthread_cancel(worker->thread);
}

void evt_pool_request_stop_(struct evt_pool *pool)
{
	const struct evt_record wake = {.kind = EVT_RECORD_WAKE};

	pthread_mutex_lock(&pool->lock);
	if (atomic_load(&pool->phase) == EVT_POOL_RUNNING) {
		pool->stop_ms = evt_now_ms_();
		set_phase(pool, EVT_POOL_STOPPING);
		/* A full pipe wakes the boss as well. */
		if (evt_pipe_put_(&pool->boss.pipe, &wake) == -1 &&
			errno != EAGAIN)
			end_deaf_thread(&pool->boss);
	}
	pthread_mutex_unlock(&pool->lock);
}

static void take_nothing_more(struct evt_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	set_phase(pool, EVT_POOL_ENDED);
	while (has_users(pool))
		await_change(pool, -1);
	pthread_mutex_unlock(&pool->lock);
}

/* The grace is over: whoever sits in a callback is woken, and those that
 * begin one from now on see to it themselves. */
static void hurry(struct evt_pool *pool)
{
	int woken = 0;
	int i;

	/* With evt_worker_serving_. */
	atomic_store(&pool->hurry, true);
	for (i = 0; i < pool->nr_workers; i++) {
		int fd = atomic_load(&pool->workers[i].serving);

		if (fd != -1) {
			pool->hooks->cut(pool, fd);
			woken++;
		}
	}
	if (woken > 0)
		evt_log_(EVT_LOG_WARN,
			"stopping: the grace is over, %d callbacks still "
			"running",
			woken);
}

static void await_workers(struct evt_pool *pool)
{
	bool hurried = false;

	pthread_mutex_lock(&pool->lock);
	while (pool->alive > 0) {
		if (await_change(pool, hurried ? -1 : grace_end(pool)))
			continue;
		pthread_mutex_unlock(&pool->lock);
		hurry(pool);
		hurried = true;
		pthread_mutex_lock(&pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
}

/* Joins the first nr threads and frees all workers. */
static void free_workers(struct evt_pool *pool, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		pthread_join(pool->workers[i].thread, NULL);
	for (i = 0; i < pool->nr_workers; i++) {
		struct evt_worker *worker = &pool->workers[i];

		atomic_fetch_add(
			&pool->delivered, atomic_load(&worker->delivered));
		evt_worker_free_(worker);
	}
	atomic_store(&pool->nr_open, 0);
	free(pool->workers);
	pool->workers = NULL;
	pool->nr_workers = 0;
}

/* Tells the workers that they are about to see the last record. */
static void close_pipes(struct evt_pool *pool, int nr)
{
	const struct evt_record wake = {.kind = EVT_RECORD_WAKE};
	int i;

	for (i = 0; i < nr; i++) {
		struct evt_worker *worker = &pool->workers[i];
		bool deaf;

		/* With serve_inbox. A full pipe wakes it as well. */
		atomic_store(&worker->closing, true);
		deaf = evt_pipe_put_(&worker->pipe, &wake) == -1 &&
			errno != EAGAIN;
		if (evt_pipe_close_write_(&worker->pipe) == -1 || deaf)
			end_deaf_thread(worker);
	}
}

void evt_pool_worker_left_(struct evt_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	pool->alive--;
	tell(pool);
	pthread_mutex_unlock(&pool->lock);
}

/* The boss */

static void finish(struct evt_pool *pool)
{
	take_nothing_more(pool);
	close_pipes(pool, pool->nr_workers);
	await_workers(pool);
	free_workers(pool, pool->nr_workers);
	atomic_store(&pool->hurry, false);
	evt_worker_free_(&pool->boss);
	pool->hooks->on_ended(pool);
	pthread_mutex_lock(&pool->lock);
	set_phase(pool, EVT_POOL_GONE);
	pthread_mutex_unlock(&pool->lock);
	evt_thread_leave_();
}

static void leave_loop(struct evt_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	pool->boss_in_loop = false;
	tell(pool);
	pthread_mutex_unlock(&pool->lock);
	pool->hooks->on_stopping(pool);
	evt_worker_run_at_stop_(&pool->boss);
}

/* The boss has lost its loop: nothing is accepted any more, but what was is
 * served until the stop that it still has to see to. */
static void lose_boss(void *arg)
{
	struct evt_pool *pool = arg;

	/* Before it speaks: a start may be waiting for this thread, under a
	 * lock that the log's hook wants. */
	atomic_store(&pool->boss.lost, true);
	leave_loop(pool);
	evt_log_(EVT_LOG_ERROR,
		"the listener has lost its thread (a callback ended it, or its "
		"loop failed): no more connections are accepted");
	pthread_mutex_lock(&pool->lock);
	while (atomic_load(&pool->phase) == EVT_POOL_RUNNING)
		await_change(pool, -1);
	pthread_mutex_unlock(&pool->lock);
	finish(pool);
}

static void *boss_main(void *arg)
{
	struct evt_pool *pool = arg;
	int result;

	evt_thread_enter_(&pool->boss);
	pthread_cleanup_push(lose_boss, pool);
	result = evt_worker_run_(&pool->boss);
	if (result == 0)
		leave_loop(pool);
	pthread_cleanup_pop(result == -1);
	if (result == 0)
		finish(pool);
	return NULL;
}

unsigned evt_pool_generation_(struct evt_pool *pool)
{
	unsigned generation;

	pthread_mutex_lock(&pool->lock);
	generation = pool->generation;
	pthread_mutex_unlock(&pool->lock);
	return generation;
}

/* The lock is held, but not while waiting for the thread. */
static void join_boss(struct evt_pool *pool)
{
	pool->boss_joinable = false;
	pthread_mutex_unlock(&pool->lock);
	pthread_join(pool->boss.thread, NULL);
	pthread_mutex_lock(&pool->lock);
	pool->generation++;
	set_phase(pool, EVT_POOL_IDLE);
}

/* The lock is held and the boss in its loop, so that nothing of this reaches
 * the next run. */
static bool cut_boss(struct evt_pool *pool)
{
	int fd;

	/* With evt_worker_serving_. */
	atomic_store(&pool->hurry, true);
	fd = atomic_load(&pool->boss.serving);
	if (fd != -1)
		pool->hooks->cut(pool, fd);
	return fd != -1;
}

/* The boss sees to the workers' grace, whoever waits for the boss to its. */
void evt_pool_await_end_(struct evt_pool *pool, unsigned generation)
{
	bool cut = false;

	pthread_mutex_lock(&pool->lock);
	while (pool->generation == generation) {
		bool in_time;

		if (atomic_load(&pool->phase) == EVT_POOL_GONE &&
			pool->boss_joinable) {
			join_boss(pool);
			break;
		}
		in_time = await_change(pool,
			cut || !pool->boss_in_loop ? -1 : grace_end(pool));
		if (in_time || !pool->boss_in_loop)
			continue;
		cut = true;
		if (!cut_boss(pool))
			continue;
		pthread_mutex_unlock(&pool->lock);
		evt_log_(EVT_LOG_WARN,
			"stopping: the grace is over, the listener's callback "
			"still running");
		pthread_mutex_lock(&pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
}

/* Starting */

int evt_pool_start_boss_(struct evt_pool *pool)
{
	int error;

	if (evt_worker_init_(&pool->boss, pool, -1) == -1)
		return evt_fail_(errno, "the listener's loop");
	atomic_store(&pool->delivered, 0);
	pthread_mutex_lock(&pool->lock);
	pool->boss_in_loop = true;
	pool->boss_joinable = true;
	set_phase(pool, EVT_POOL_RUNNING);
	error = evt_worker_start_(&pool->boss, boss_main, pool);
	if (error)
		set_phase(pool, EVT_POOL_IDLE);
	pthread_mutex_unlock(&pool->lock);
	if (!error)
		return 0;
	evt_worker_free_(&pool->boss);
	return evt_fault_(error, "the listener's thread");
}

/* The loops of all workers before the first thread: what can fail does so while
 * nothing runs. */
static int init_workers(struct evt_pool *pool, int nr)
{
	pool->workers = calloc((size_t)nr, sizeof(*pool->workers));
	if (!pool->workers)
		return evt_fail_(ENOMEM, "%d workers", nr);
	for (; pool->nr_workers < nr; pool->nr_workers++) {
		int i = pool->nr_workers;
		int error;

		if (evt_worker_init_(&pool->workers[i], pool, i) == 0)
			continue;
		error = errno;
		free_workers(pool, 0);
		return evt_fault_(error, "the loop of worker %d of %d", i, nr);
	}
	return 0;
}

static int start_thread(struct evt_pool *pool, struct evt_worker *worker)
{
	int error;

	pthread_mutex_lock(&pool->lock);
	pool->alive++;
	pthread_mutex_unlock(&pool->lock);
	error = evt_worker_start_(worker, evt_worker_main_, worker);
	if (error)
		evt_pool_worker_left_(pool);
	return error;
}

int evt_pool_start_workers_(struct evt_pool *pool, int nr)
{
	int error;
	int i;

	if (nr > EVT_POOL_MAX_WORKERS)
		return evt_fail_(EINVAL, "%d workers, %d at most", nr,
			EVT_POOL_MAX_WORKERS);
	if (init_workers(pool, nr) == -1)
		return -1;
	for (i = 0; i < nr; i++) {
		error = start_thread(pool, &pool->workers[i]);
		if (!error)
			continue;
		evt_fault_(error, "the thread of worker %d of %d", i, nr);
		close_pipes(pool, i);
		free_workers(pool, i);
		errno = error;
		return -1;
	}
	atomic_store(&pool->nr_open, nr);
	return 0;
}

unsigned long evt_pool_delivered_(struct evt_pool *pool)
{
	unsigned long delivered = atomic_load(&pool->delivered);
	int i;

	for (i = 0; i < atomic_load(&pool->nr_open); i++)
		delivered += atomic_load(&pool->workers[i].delivered);
	return delivered;
}

/* evt-pool.h */

int evt_pool_workers(struct evt_pool *pool)
{
	if (!pool)
		return evt_fail_(EINVAL, "evt_pool_workers");
	return atomic_load(&pool->nr_open);
}

struct evt_worker *evt_pool_worker(struct evt_pool *pool, int index)
{
	if (!pool || index < 0 || index >= atomic_load(&pool->nr_open)) {
		evt_fail_(EINVAL, "evt_pool_worker %d", index);
		return NULL;
	}
	return &pool->workers[index];
}

int evt_worker_post(struct evt_worker *worker, evt_task task, void *arg)
{
	const struct evt_record record = {
		.kind = EVT_RECORD_TASK, .task = task, .arg = arg};
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
	const struct evt_record record = {
		.kind = EVT_RECORD_TASK, .task = task, .arg = arg};
	int posted = 0;
	int error = ENXIO;
	int nr = 0;

	if (evt_forked_())
		return evt_fail_(EPERM, "evt_pool_post_all in a forked child");
	if (!pool || !task)
		return evt_fail_(EINVAL, "evt_pool_post_all");
	enter(pool, false); /* the workers stay until leave */
	if (atomic_load(&pool->phase) < EVT_POOL_ENDED)
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
