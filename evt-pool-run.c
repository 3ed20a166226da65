/*
 * evt-pool-run.c: the pools of evt_pool_new: made before anything runs, started
 * whole, drained when they stop, and stopped by signals if run asks for that.
 *
 * evt_pool_stop may be called in a signal handler, so it takes no lock: it sets
 * a flag and writes a record into the boss's pipe. The boss does the rest. The
 * pipe is made when the pool starts, so that a program may fork before, and
 * closed when it is freed, so that a late stop does not write into something
 * else.
 *
 * The handlers find the pools in a list that only grows while they run: a pool
 * leaves it in evt_pool_free, which waits until no handler is inside. signalfd
 * was rejected: a thread that has the signal unblocked would die of it, and
 * libevent's signal events are for one base in a process, which may be the
 * program's.
 */
#include "evt-pool-internal.h"
#include "evt-log-internal.h"
#include "evt-net-internal.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GRACE_MS 5000
#define STALL_MS 1000
#define LOOK_MS  10  /* between two looks of a boss that hears nothing */
#define SURE_MS  100 /* ... and of one whom a worker could not tell */

const char *evt_version(void)
{
	return EVT_VERSION;
}

/* Waking */

/* False if nobody will hear of it. */
static bool wake(int write_fd)
{
	const struct evt_record record = {.kind = EVT_RECORD_WAKE};
	const struct evt_pipe pipe = {.read_fd = -1, .write_fd = write_fd};

	/* A full pipe wakes as well. */
	return write_fd == -1 || evt_pipe_put_(&pipe, &record) == 0 ||
		errno == EAGAIN;
}

bool evt_pool_wake_boss_(struct evt_pool *pool)
{
	if (wake(atomic_load(&pool->wake_fd)))
		return true;
	evt_log_(EVT_LOG_ERROR, "the listener cannot be woken");
	return false;
}

bool evt_pool_changed_(struct evt_pool *pool)
{
	bool told = true;
	bool heard;
	int nr;
	int i;

	/* With look_for_changes: first the change, then the record that has
	 * it looked at. */
	atomic_fetch_add(&pool->changes, 1);
	heard = evt_pool_wake_boss_(pool);
	evt_pool_enter_(pool);
	nr = atomic_load(&pool->nr_open);
	for (i = 0; i < nr; i++)
		if (atomic_load(&pool->phase) < EVT_POOL_ENDED &&
			!atomic_load(&pool->workers[i].lost))
			told = wake(pool->workers[i].pipe.write_fd) && told;
	evt_pool_leave_(pool);
	if (!told)
		evt_log_(EVT_LOG_ERROR, "a worker cannot be woken");
	return heard && told;
}

/* Signals */

static struct {
	pthread_mutex_t lock;
	int running; /* pools in evt_pool_run; under the lock */
	struct sigaction before[2];

	_Atomic(struct evt_pool *) first; /* changed under the lock */
	atomic_int inside;                /* handlers that look at the list */
} signals = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const int stop_signals[2] = {SIGINT, SIGTERM};

static void on_signal(int number)
{
	int error = errno;
	struct evt_pool *pool;

	(void)number;
	atomic_fetch_add(&signals.inside, 1);
	for (pool = atomic_load(&signals.first); pool;
		pool = atomic_load(&pool->next)) {
		if (!atomic_load(&pool->has_signals))
			continue;
		atomic_fetch_add(&pool->signals, 1);
		evt_pool_stop(pool);
	}
	atomic_fetch_sub(&signals.inside, 1);
	errno = error;
}

/* Both, in this thread: what was pending comes now. */
static void unblock_signals(sigset_t *before)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_UNBLOCK, &set, before);
}

static void begin_signals(struct evt_pool *pool, sigset_t *before)
{
	struct sigaction action = {.sa_handler = on_signal};
	int i;

	sigfillset(&action.sa_mask);
	action.sa_flags = SA_RESTART;
	atomic_store(&pool->has_signals, true);
	pthread_mutex_lock(&signals.lock);
	atomic_store(&pool->next, atomic_load(&signals.first));
	atomic_store(&signals.first, pool);
	for (i = 0; signals.running == 0 && i < 2; i++)
		sigaction(stop_signals[i], &action, &signals.before[i]);
	signals.running++;
	pthread_mutex_unlock(&signals.lock);
	unblock_signals(before);
}

static void end_signals(struct evt_pool *pool, const sigset_t *before)
{
	int i;

	atomic_store(&pool->has_signals, false);
	pthread_mutex_lock(&signals.lock);
	signals.running--;
	for (i = 0; signals.running == 0 && i < 2; i++)
		sigaction(stop_signals[i], &signals.before[i], NULL);
	pthread_mutex_unlock(&signals.lock);
	pthread_sigmask(SIG_SETMASK, before, NULL);
}

static void forget_pool(struct evt_pool *pool)
{
	_Atomic(struct evt_pool *) *at = &signals.first;
	struct evt_pool *here;

	pthread_mutex_lock(&signals.lock);
	while ((here = atomic_load(at)) && here != pool)
		at = &here->next;
	if (here)
		atomic_store(at, atomic_load(&pool->next));
	pthread_mutex_unlock(&signals.lock);
	while (here && atomic_load(&signals.inside) > 0)
		sched_yield();
}

/* Making */

/* Options of another size: a program built against an older or a newer header.
 * False if it asks for what is not known here. */
bool evt_options_copy_(void *dest, size_t room, const void *src, size_t size)
{
	const char *bytes = src;
	size_t i;

	memset(dest, 0, room);
	if (!src)
		return true;
	memcpy(dest, src, size < room ? size : room);
	for (i = room; i < size; i++)
		if (bytes[i] != 0)
			return false;
	return true;
}

int evt_option_(const char *call, const char *name, int *value, int usual)
{
	if (*value < -1)
		return evt_fail_(EINVAL, "%s: %s %d", call, name, *value);
	if (*value == 0)
		*value = usual;
	return 0;
}

static int fill_in(struct evt_pool_options *options)
{
	if (options->workers < 0 || options->workers > EVT_POOL_MAX_WORKERS)
		return evt_fail_(EINVAL, "evt_pool_new: workers %d, %d at most",
			options->workers, EVT_POOL_MAX_WORKERS);
	if (options->workers == 0)
		options->workers = evt_net_cpus_("");
	if (evt_option_("evt_pool_new", "grace_ms", &options->grace_ms,
		    GRACE_MS) == -1)
		return -1;
	return evt_option_(
		"evt_pool_new", "stall_ms", &options->stall_ms, STALL_MS);
}

struct evt_pool *evt_pool_new_sized(
	const struct evt_pool_options *wanted, size_t size)
{
	struct evt_pool_options options;
	struct evt_pool *pool;
	int i;

	if (evt_forked_()) {
		evt_fail_(EPERM, "evt_pool_new in a forked child");
		return NULL;
	}
	if (!evt_options_copy_(&options, sizeof(options), wanted, size)) {
		evt_fail_(EINVAL, "evt_pool_new: options of a newer library");
		return NULL;
	}
	if (fill_in(&options) == -1)
		return NULL;
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		goto no_memory;
	pool->workers = calloc((size_t)options.workers, sizeof(*pool->workers));
	if (!pool->workers)
		goto no_memory;
	evt_pool_init_(pool, &evt_pool_hooks_);
	pool->owned = true;
	pool->options = options;
	pool->grace_ms = options.grace_ms;
	atomic_store(&pool->changes, 1);
	for (i = 0; i < options.workers; i++) {
		pool->workers[i].pool = pool;
		pool->workers[i].index = i;
	}
	return pool;
no_memory:
	free(pool);
	evt_fail_(ENOMEM, "evt_pool_new: %d workers", options.workers);
	return NULL;
}

/* Starting */

bool evt_pool_await_start_(struct evt_pool *pool)
{
	bool started;

	pthread_mutex_lock(&pool->lock);
	while (pool->start == EVT_START_WAIT)
		pthread_cond_wait(&pool->changed, &pool->lock);
	started = pool->start == EVT_START_GO;
	pthread_mutex_unlock(&pool->lock);
	return started;
}

static void tell_start(struct evt_pool *pool, enum evt_start start)
{
	pthread_mutex_lock(&pool->lock);
	pool->start = start;
	if (start == EVT_START_GO) {
		atomic_store(&pool->nr_open, pool->nr_workers);
		atomic_store(&pool->phase, EVT_POOL_RUNNING);
	}
	pthread_mutex_unlock(&pool->lock);
	evt_pool_tell_(pool);
}

/* A pool serves once; but one that could not be started may be tried again. */
static int claim(struct evt_pool *pool, const char *call, bool boss)
{
	int failed;
	bool taken;

	if (evt_forked_())
		return evt_fail_(EPERM, "%s in a forked child", call);
	if (!pool || !pool->owned)
		return evt_fail_(EINVAL, "%s", call);
	if (!boss && evt_thread_self_())
		return evt_fail_(EDEADLK, "%s on a library thread", call);
	failed = atomic_load(&pool->listen_error);
	if (failed) {
		evt_log_(EVT_LOG_ERROR, "%s: an evt_listen had failed", call);
		errno = ECONNABORTED;
		return -1;
	}
	pthread_mutex_lock(&pool->lock);
	taken = pool->start != EVT_START_NOT;
	if (!taken)
		pool->start = EVT_START_WAIT;
	pthread_mutex_unlock(&pool->lock);
	return taken ? evt_fail_(EALREADY, "%s: a pool serves once", call) : 0;
}

static int make_loops(struct evt_pool *pool)
{
	if (evt_worker_init_(&pool->boss, pool, -1) == -1)
		return evt_fault_(errno, "the listener's loop");
	atomic_store(&pool->wake_fd, pool->boss.pipe.write_fd);
	if (evt_watch_init_(pool) == -1) {
		evt_fail_(ENOMEM, "the listener's timer");
		goto no_watch;
	}
	if (evt_pool_init_workers_(pool, pool->options.workers) == -1)
		goto no_workers;
	return 0;
no_workers:
	evt_watch_free_(pool);
no_watch:
	evt_worker_free_(&pool->boss);
	return -1;
}

static void close_boss_pipe(struct evt_pool *pool)
{
	atomic_store(&pool->wake_fd, -1);
	evt_pipe_close_(&pool->boss.pipe);
}

static void unmake(struct evt_pool *pool, int nr_threads)
{
	int error = errno;

	tell_start(pool, EVT_START_CANCELLED);
	evt_pool_end_workers_(pool, nr_threads);
	evt_watch_free_(pool);
	evt_worker_free_(&pool->boss);
	close_boss_pipe(pool);
	tell_start(pool, EVT_START_NOT);
	errno = error;
}

/* The boss's too, unless the caller is to be it. */
static int start_threads(struct evt_pool *pool, bool boss)
{
	int nr = pool->options.workers;
	int error;
	int started = evt_pool_start_threads_(pool, nr, &error);

	if (started < nr) {
		evt_fault_(error, "the thread of worker %d of %d", started, nr);
	} else {
		error = boss ? evt_pool_start_boss_thread_(pool) : 0;
		if (!error)
			return 0;
		evt_fault_(error, "the listener's thread");
	}
	errno = error;
	unmake(pool, started);
	return -1;
}

static int launch(struct evt_pool *pool, const char *call, bool boss)
{
	if (claim(pool, call, boss) == -1)
		return -1;
	if (make_loops(pool) == -1) {
		int error = errno;

		close_boss_pipe(pool);
		tell_start(pool, EVT_START_NOT);
		errno = error;
		return -1;
	}
	pool->boss_in_loop = true;
	pool->boss_joinable = boss;
	return start_threads(pool, boss);
}

int evt_pool_start(struct evt_pool *pool)
{
	if (launch(pool, "evt_pool_start", true) == -1)
		return -1;
	tell_start(pool, EVT_START_GO);
	return 0;
}

/* The thread is the program's again, or is about to end. */
struct lent_thread {
	struct evt_pool *pool;
	sigset_t mask;
	int cancel;
};

static void give_back(void *arg)
{
	struct lent_thread *lent = arg;
	struct evt_pool *pool = lent->pool;

	evt_self_ = NULL;
	end_signals(pool, &lent->mask);
	/* The last look at it: evt_pool_free may be waiting for this. */
	pthread_mutex_lock(&pool->lock);
	evt_pool_over_(pool);
	pthread_mutex_unlock(&pool->lock);
	pthread_setcancelstate(lent->cancel, NULL);
}

int evt_pool_run(struct evt_pool *pool)
{
	struct lent_thread lent = {.pool = pool};
	int result;

	if (launch(pool, "evt_pool_run", false) == -1)
		return -1;
	begin_signals(pool, &lent.mask);
	evt_thread_borrow_();
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &lent.cancel);
	tell_start(pool, EVT_START_GO);
	pthread_cleanup_push(give_back, &lent);
	result = evt_pool_serve_(pool);
	pthread_cleanup_pop(1);
	if (result == -1)
		errno = ENXIO;
	return result;
}

/* Stopping */

void evt_pool_stop(struct evt_pool *pool)
{
	int error = errno;

	if (!pool || !pool->owned) {
		evt_log_(EVT_LOG_ERROR, "evt_pool_stop: no pool of that kind");
		return;
	}
	if (evt_forked_())
		return;
	/* With make_loops: the flag first, and there the pipe first. */
	atomic_store(&pool->stop_wanted, true);
	if (!wake(atomic_load(&pool->wake_fd)))
		atomic_store(&pool->unheard, true);
	errno = error;
}

int evt_pool_wait(struct evt_pool *pool)
{
	if (evt_forked_())
		return evt_fail_(EPERM, "evt_pool_wait in a forked child");
	if (!pool || !pool->owned)
		return evt_fail_(EINVAL, "evt_pool_wait");
	if (evt_thread_self_() && evt_thread_self_()->pool == pool)
		return evt_fail_(EDEADLK, "evt_pool_wait on its own thread");
	if (!evt_pool_await_over_(pool))
		return evt_fail_(EINVAL, "evt_pool_wait: it was not started");
	return 0;
}

void evt_pool_free(struct evt_pool *pool)
{
	if (!pool || evt_forked_() || !pool->owned || evt_thread_self_()) {
		evt_log_(EVT_LOG_ERROR, "evt_pool_free %s",
			pool ? "where it may not be called" : "of NULL");
		return;
	}
	evt_pool_stop(pool);
	evt_pool_await_over_(pool);
	forget_pool(pool);
	pool->hooks->on_free(pool);
	if (atomic_load(&pool->wake_fd) != -1)
		close_boss_pipe(pool);
	pthread_cond_destroy(&pool->changed);
	pthread_mutex_destroy(&pool->rescue_lock);
	pthread_mutex_destroy(&pool->lock);
	free(pool->workers);
	free(pool);
}

/* Draining, on the boss */

/* Reads what woke it; -1: somebody closed the pipe. */
static int listen_to_pipe(struct evt_pool *pool, int timeout_ms)
{
	struct pollfd in = {.fd = pool->boss.pipe.read_fd, .events = POLLIN};
	char bytes[512];
	ssize_t len;
	int ready = poll(&in, 1, timeout_ms);

	if (ready == -1 && errno != EINTR)
		evt_pool_nap_(pool, LOOK_MS); /* no memory: it may pass */
	if (ready <= 0)
		return 0;
	do
		len = read(in.fd, bytes, sizeof(bytes));
	while (len == (ssize_t)sizeof(bytes) || (len == -1 && errno == EINTR));
	return len == -1 && errno == EAGAIN ? 0 : (len > 0 ? 0 : -1);
}

void evt_pool_await_stop_(struct evt_pool *pool)
{
	bool deaf = false;

	/* Whoever cannot hear of a stop any more stops at once. */
	while (!atomic_load(&pool->stop_wanted) && !deaf)
		deaf = listen_to_pipe(pool, SURE_MS) == -1;
	evt_pool_request_stop_(pool);
}

static bool is_drained(struct evt_pool *pool)
{
	int i;

	for (i = 0; i < pool->nr_workers; i++)
		if (!atomic_load(&pool->workers[i].drained))
			return false;
	return true;
}

/* How long until the grace is over, -1 for no end; 0: it is. */
static int grace_left_ms(struct evt_pool *pool)
{
	int64_t left;

	if (atomic_load(&pool->signals) > 1)
		return 0;
	if (pool->grace_ms == -1)
		return -1;
	left = pool->stop_ms + pool->grace_ms - evt_now_ms_();
	return left > 0 ? (int)left : 0;
}

static void tell_drained(struct evt_pool *pool)
{
	unsigned long idle = atomic_load(&pool->drained.idle);
	unsigned long finished = atomic_load(&pool->drained.finished);
	unsigned long aborted = atomic_load(&pool->drained.aborted);

	if (idle + finished + aborted == 0)
		return;
	evt_log_(aborted ? EVT_LOG_WARN : EVT_LOG_INFO,
		"stopped: of %lu connections %lu were idle, %lu finished, "
		"%lu aborted",
		idle + finished + aborted, idle, finished, aborted);
}

void evt_pool_drain_(struct evt_pool *pool)
{
	bool hurried = false;
	bool deaf = false;

	atomic_store(&pool->draining, true);
	evt_pool_changed_(pool);
	while (!is_drained(pool)) {
		int left = hurried ? -1 : grace_left_ms(pool);

		if (left == 0) {
			hurried = true;
			atomic_store(&pool->hurry, true);
			evt_pool_changed_(pool);
			evt_pool_end_deaf_(pool);
			continue;
		}
		if (left == -1 || left > SURE_MS)
			left = SURE_MS;
		/* A boss that hears nothing looks again and again. */
		if (deaf)
			evt_pool_nap_(pool, left < LOOK_MS ? left : LOOK_MS);
		else
			deaf = listen_to_pipe(pool, left) == -1;
	}
	tell_drained(pool);
}

/* Counters */

static unsigned long greater(unsigned long a, unsigned long b)
{
	return a > b ? a : b;
}

int evt_pool_stats_sized(
	struct evt_pool *pool, struct evt_stats *stats, size_t size)
{
	struct evt_stats sums = {0};
	int i;

	if (evt_forked_())
		return evt_fail_(EPERM, "evt_pool_stats in a forked child");
	if (!pool || !pool->owned || !stats)
		return evt_fail_(EINVAL, "evt_pool_stats");
	for (i = -1; i < pool->options.workers; i++) {
		struct evt_counters *from = i == -1
			? &pool->boss.counters
			: &pool->workers[i].counters;

#define LOAD(name)      atomic_load_explicit(&from->name, memory_order_relaxed)
#define SUM(name, text) sums.name += LOAD(name);
#define MAX(name, text) sums.name = greater(sums.name, LOAD(name));
		EVT_STATS(SUM, MAX)
#undef LOAD
#undef SUM
#undef MAX
	}
	sums.dropped += atomic_load(&pool->dropped);
	sums.gone += atomic_load(&pool->gone);
	memset(stats, 0, size);
	memcpy(stats, &sums, size < sizeof(sums) ? size : sizeof(sums));
	return 0;
}
