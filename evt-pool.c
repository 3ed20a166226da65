/*
 * evt-pool.c: the pool: starting its threads whole or not at all, and stopping.
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
	atomic_init(&pool->wake_fd, -1);
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

void evt_pool_nap_(struct evt_pool *pool, int ms)
{
	pthread_mutex_lock(&pool->lock);
	await_change(pool, evt_now_ms_() + ms);
	pthread_mutex_unlock(&pool->lock);
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

int evt_pool_hand_over_(
	struct evt_worker *worker, const struct evt_record *records, size_t nr)
{
	if (atomic_load_explicit(&worker->lost, memory_order_acquire))
		return ENXIO;
	if (evt_pipe_put_many_(&worker->pipe, records, nr) == -1)
		return errno;
	atomic_fetch_add(&worker->assigned, nr);
	/* As in put_to. */
	if (atomic_load_explicit(&worker->lost, memory_order_acquire))
		evt_worker_rescue_(worker);
	return 0;
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
		/* A full pipe wakes the boss as well; and where it is the boss
		 * who asks, it is awake (and may be the program's thread). */
		if (evt_thread_self_() != &pool->boss &&
			evt_pipe_put_(&pool->boss.pipe, &wake) == -1 &&
			errno != EAGAIN)
			end_deaf_thread(&pool->boss);
	}
	pthread_mutex_unlock(&pool->lock);
}

/* A worker whose pipe was closed by somebody else hears of no stop. */
void evt_pool_end_deaf_(struct evt_pool *pool)
{
	const struct evt_record wake = {.kind = EVT_RECORD_WAKE};
	int i;

	for (i = 0; i < pool->nr_workers; i++) {
		struct evt_worker *worker = &pool->workers[i];

		if (!atomic_load(&worker->drained) &&
			evt_pipe_put_(&worker->pipe, &wake) == -1 &&
			errno != EAGAIN)
			end_deaf_thread(worker);
	}
}

static void take_nothing_more(struct evt_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	set_phase(pool, EVT_POOL_ENDED);
	while (evt_pool_has_users_(pool))
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

/* Joins the first nr threads and frees all loops. The workers of a pool of
 * evt_pool_new stay, for those who still ask for them. */
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
	pool->nr_workers = 0;
	if (pool->owned)
		return;
	free(pool->workers);
	pool->workers = NULL;
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
	if (pool->owned)
		evt_pool_drain_(pool);
	take_nothing_more(pool);
	close_pipes(pool, pool->nr_workers);
	await_workers(pool);
	free_workers(pool, pool->nr_workers);
	atomic_store(&pool->hurry, false);
	evt_watch_free_(pool);
	evt_worker_free_(&pool->boss);
	if (pool->hooks->on_ended)
		pool->hooks->on_ended(pool);
	evt_thread_leave_();
	pthread_mutex_lock(&pool->lock);
	/* Else the boss is a thread of the program's, in evt_pool_run. */
	if (pool->boss_joinable)
		set_phase(pool, EVT_POOL_GONE);
	pthread_mutex_unlock(&pool->lock);
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
	if (pool->owned)
		evt_pool_await_stop_(pool);
	pthread_mutex_lock(&pool->lock);
	while (atomic_load(&pool->phase) == EVT_POOL_RUNNING)
		await_change(pool, -1);
	pthread_mutex_unlock(&pool->lock);
	finish(pool);
}

int evt_pool_serve_(struct evt_pool *pool)
{
	int result;

	evt_thread_enter_(&pool->boss);
	pthread_cleanup_push(lose_boss, pool);
	evt_worker_begin_(&pool->boss);
	result = evt_worker_run_(&pool->boss);
	if (result == 0)
		leave_loop(pool);
	pthread_cleanup_pop(result == -1);
	if (result == 0)
		finish(pool);
	return result;
}

static void *boss_main(void *arg)
{
	struct evt_pool *pool = arg;

	/* Who cannot wake it may cancel it before it is in its loop. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	/* It is the last that is made: this start is not cancelled. */
	if (pool->owned)
		(void)evt_pool_await_start_(pool);
	evt_pool_serve_(pool);
	return NULL;
}

int evt_pool_start_boss_thread_(struct evt_pool *pool)
{
	return evt_worker_start_(&pool->boss, boss_main, pool);
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
	evt_pool_over_(pool);
}

void evt_pool_over_(struct evt_pool *pool)
{
	pool->generation++;
	set_phase(pool, pool->owned ? EVT_POOL_GONE : EVT_POOL_IDLE);
}

bool evt_pool_await_over_(struct evt_pool *pool)
{
	bool started;

	pthread_mutex_lock(&pool->lock);
	started = pool->start == EVT_START_GO;
	/* A thread of the program's, in evt_pool_run, is not ended. */
	if (started && pool->boss_joinable &&
		atomic_exchange(&pool->unheard, false))
		end_deaf_thread(&pool->boss);
	while (started && pool->generation == 0) {
		if (atomic_load(&pool->phase) == EVT_POOL_GONE &&
			pool->boss_joinable)
			join_boss(pool);
		else
			await_change(pool, -1);
	}
	pthread_mutex_unlock(&pool->lock);
	return started;
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
int evt_pool_init_workers_(struct evt_pool *pool, int nr)
{
	if (!pool->workers)
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

int evt_pool_start_threads_(struct evt_pool *pool, int nr, int *error)
{
	int i;

	for (i = 0; i < nr; i++) {
		*error = start_thread(pool, &pool->workers[i]);
		if (*error)
			break;
	}
	return i;
}

void evt_pool_end_workers_(struct evt_pool *pool, int nr_threads)
{
	close_pipes(pool, nr_threads);
	free_workers(pool, nr_threads);
}

int evt_pool_start_workers_(struct evt_pool *pool, int nr)
{
	int error;
	int started;

	if (nr > EVT_POOL_MAX_WORKERS)
		return evt_fail_(EINVAL, "%d workers, %d at most", nr,
			EVT_POOL_MAX_WORKERS);
	if (evt_pool_init_workers_(pool, nr) == -1)
		return -1;
	started = evt_pool_start_threads_(pool, nr, &error);
	if (started < nr) {
		evt_fault_(error, "the thread of worker %d of %d", started, nr);
		evt_pool_end_workers_(pool, started);
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

static int nr_known(struct evt_pool *pool)
{
	return pool->owned ? pool->options.workers
			   : atomic_load(&pool->nr_open);
}

int evt_pool_workers(struct evt_pool *pool)
{
	if (evt_forked_())
		return evt_fail_(EPERM, "evt_pool_workers in a forked child");
	if (!pool)
		return evt_fail_(EINVAL, "evt_pool_workers");
	return nr_known(pool);
}

struct evt_worker *evt_pool_worker(struct evt_pool *pool, int index)
{
	if (evt_forked_()) {
		evt_fail_(EPERM, "evt_pool_worker in a forked child");
		return NULL;
	}
	if (!pool || index < 0 || index >= nr_known(pool)) {
		evt_fail_(EINVAL, "evt_pool_worker %d", index);
		return NULL;
	}
	return &pool->workers[index];
}
