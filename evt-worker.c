/*
 * evt-worker.c: one thread of the library's, its loop, and the pipe that feeds
 * it.
 *
 * A worker waits in its loop; nothing polls. While the program has no events
 * on that loop, there is but the pipe to wait for, and the worker sleeps in
 * read(2) itself: that wakes it sooner than an epoll_wait(2) that only tells it
 * to read. Measured by bench/handoff with 16 idle workers: 5.4 us, where bare
 * epoll takes 6.5 and libevent's loop 1.15 times as much as that.
 *
 * It ends when it is told that nothing more comes, and has read its pipe to the
 * end: so what lies there is served before. Ending needs neither memory nor
 * room in the pipe: the write end is closed, and if a forked child has that
 * open as well, a record wakes the worker, which is awake where there is no
 * room for one.
 */
#include "evt-pool-internal.h"
#include "evt-log-internal.h"
#include "evt-net-internal.h"

#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

_Thread_local struct evt_worker *evt_self_;
atomic_bool evt_is_forked_;
atomic_bool evt_has_forked_;

/* Library threads that run, for the child of a fork. */
static atomic_int nr_threads;

/* The child has the one thread that forked, and it is no worker there. */
static void after_fork_in_child(void)
{
	if (atomic_load(&nr_threads) == 0)
		return;
	atomic_store(&evt_is_forked_, true);
	evt_self_ = NULL;
	evt_log_after_fork_();
}

/* Before, or what is closed right after the fork would be missed. */
static void before_fork(void)
{
	atomic_store(&evt_has_forked_, true);
}

/* Setting up */

static void on_inbox(evutil_socket_t fd, short what, void *arg);
static void on_poll(evutil_socket_t fd, short what, void *arg);

int evt_worker_watch_(struct evt_worker *worker, int fd, uint64_t key)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = key};

	return epoll_ctl(worker->poll_fd, EPOLL_CTL_ADD, fd, &event);
}

static int control_watch(struct evt_worker *worker, int what, int fd,
	struct evt_watch *watch, uint32_t events)
{
	struct epoll_event event = {.events = events,
		.data.u64 = EVT_KEY_WATCH | (uint64_t)(uintptr_t)watch};

	return epoll_ctl(worker->poll_fd, what, fd, &event);
}

int evt_worker_add_watch_(struct evt_worker *worker, int fd,
	struct evt_watch *watch, uint32_t events)
{
	if (control_watch(worker, EPOLL_CTL_ADD, fd, watch, events) == -1) {
		/* It could not be dropped, and was counted all the time. */
		if (errno != EEXIST)
			return -1;
		return control_watch(worker, EPOLL_CTL_MOD, fd, watch, events);
	}
	worker->nr_watches++;
	return 0;
}

int evt_worker_change_watch_(struct evt_worker *worker, int fd,
	struct evt_watch *watch, uint32_t events)
{
	return control_watch(worker, EPOLL_CTL_MOD, fd, watch, events);
}

void evt_worker_drop_watch_(struct evt_worker *worker, int fd)
{
	if (epoll_ctl(worker->poll_fd, EPOLL_CTL_DEL, fd, NULL) == 0)
		worker->nr_watches--;
}

static void close_poll(struct evt_worker *worker)
{
	int error = errno;

	if (worker->poll_fd != -1)
		close(worker->poll_fd);
	worker->poll_fd = -1;
	errno = error;
}

static int open_poll(struct evt_worker *worker)
{
	worker->poll_fd = evt_net_above_stdio_(epoll_create1(EPOLL_CLOEXEC));
	if (worker->poll_fd == -1)
		return -1;
	/* libevent's debug mode asks for that of whatever it waits for. */
	evt_net_set_nonblocking_(worker->poll_fd, true);
	if (evt_worker_watch_(worker, worker->pipe.read_fd, EVT_KEY_INBOX) == 0)
		return 0;
	close_poll(worker);
	return -1;
}

/* What the loop waits for on its own account. */
static int add_inbox(struct evt_worker *worker)
{
	bool polls = worker->poll_fd != -1;

	errno = ENOMEM; /* what libevent does not say */
	worker->inbox = event_new(worker->base,
		polls ? worker->poll_fd : worker->pipe.read_fd,
		EV_READ | EV_PERSIST, polls ? on_poll : on_inbox, worker);
	if (!worker->inbox)
		return -1;
	if (event_add(worker->inbox, NULL) == 0)
		return 0;
	event_free(worker->inbox);
	return -1;
}

/* A program knows the workers of a pool of evt_pool_new before they run: what
 * other threads look at was written then, and their counters stay. */
static void begin_anew(
	struct evt_worker *worker, struct evt_pool *pool, int index)
{
	if (!pool->owned || index == -1) {
		worker->pool = pool;
		worker->index = index;
	}
	worker->state = NULL;
	worker->poll_fd = -1;
	worker->batch.fill = worker->batch.next = 0;
	worker->at_stop = NULL;
	worker->done = worker->broken = worker->blocks = false;
	worker->reads_directly = worker->in_loop = worker->has_conns = false;
	worker->nr_watches = 0;
	worker->udp_sockets = NULL;
	worker->known = NULL;
	worker->depth = 0;
	worker->changes = 0;
	worker->stalled = false;
	atomic_store(&worker->serving, -1);
	atomic_store(&worker->closing, false);
	atomic_store(&worker->lost, false);
	atomic_store(&worker->drained, false);
	atomic_store(&worker->turn, 0);
	atomic_store(&worker->delivered, 0);
	atomic_store(&worker->ended, 0);
	atomic_store(&worker->assigned, 0);
}

int evt_worker_init_(
	struct evt_worker *worker, struct evt_pool *pool, int index)
{
	begin_anew(worker, pool, index);
	if (evt_pipe_open_(&worker->pipe) == -1)
		return -1;
	if (pool->hooks->on_event && index != -1 && open_poll(worker) == -1)
		goto no_poll;
	worker->base = evt_base_new_();
	if (!worker->base)
		goto no_base;
	if (add_inbox(worker) == -1)
		goto no_inbox;
	if (pool->hooks->init && pool->hooks->init(worker) == -1)
		goto no_state;
	return 0;
no_state:
	event_free(worker->inbox);
no_inbox:
	event_base_free(worker->base);
no_base:
	close_poll(worker);
no_poll:
	evt_pipe_close_(&worker->pipe);
	return -1;
}

void evt_worker_free_(struct evt_worker *worker)
{
	if (worker->pool->hooks->release)
		worker->pool->hooks->release(worker);
	event_free(worker->inbox);
	event_base_free(worker->base);
	worker->base = NULL; /* a log hook may still ask for it */
	close_poll(worker);
	/* A stop may still be asked for, which wakes the boss. */
	if (worker->index != -1 || !worker->pool->owned)
		evt_pipe_close_(&worker->pipe);
}

/*
 * The host's signals are for the host's threads: ours block them all, but for
 * those that a fault in this very thread raises, and the profiler's.
 */
static void signals_to_block(sigset_t *set)
{
	static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP,
		SIGSYS, SIGABRT, SIGPROF};
	size_t i;

	sigfillset(set);
	for (i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		sigdelset(set, faults[i]);
}

static pthread_once_t fork_handler = PTHREAD_ONCE_INIT;

static void register_fork_handler(void)
{
	pthread_atfork(before_fork, NULL, after_fork_in_child);
}

int evt_worker_start_(
	struct evt_worker *worker, void *(*main)(void *), void *arg)
{
	sigset_t blocked;
	sigset_t before;
	int error;

	pthread_once(&fork_handler, register_fork_handler);
	signals_to_block(&blocked);
	pthread_sigmask(SIG_BLOCK, &blocked, &before);
	atomic_fetch_add(&nr_threads, 1);
	error = pthread_create(&worker->thread, NULL, main, arg);
	if (error)
		atomic_fetch_sub(&nr_threads, 1);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

/* The thread */

/* True for a worker on whose base the program has no event. */
static bool has_nothing_but_inbox(const struct evt_worker *worker)
{
	return worker->reads_directly &&
		event_base_get_num_events(worker->base,
			EVENT_BASE_COUNT_ACTIVE | EVENT_BASE_COUNT_ADDED) == 1;
}

static void begin_turn(struct evt_worker *worker)
{
	unsigned turn = atomic_load_explicit(
		&worker->turn, memory_order_relaxed);

	worker->clock_used = true; /* but see evt_home_on_event_ */
	worker->now_us = evt_now_us_();
	worker->now_ms = (uint32_t)(worker->now_us / 1000);
	if (worker->index == -1)
		return;
	atomic_store_explicit(&worker->turn, turn + 1, memory_order_relaxed);
	/* The boss looks twice before it stops watching: evt-pool-watch.c */
	if (!atomic_load_explicit(
		    &worker->pool->watching, memory_order_relaxed))
		evt_watch_wanted_(worker->pool);
}

/* The coarse clock tells for little whether it may have been long. */
static void end_turn(struct evt_worker *worker)
{
	unsigned turn = atomic_load_explicit(
		&worker->turn, memory_order_relaxed);

	if (evt_coarse_us_() > worker->now_us)
		evt_count_max_(&worker->counters.longest_callback_us,
			(unsigned long)(evt_now_us_() - worker->now_us));
	if (worker->index != -1)
		atomic_store_explicit(
			&worker->turn, turn + 1, memory_order_relaxed);
}

void evt_turn_begin_(struct evt_worker *worker)
{
	if (worker->depth++ == 0 && worker->pool->owned)
		begin_turn(worker);
}

int evt_callback_begin_(struct evt_worker *worker)
{
	int state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	evt_turn_begin_(worker);
	return state;
}

/* Of a boss: whether it has been asked to stop. */
static bool is_to_stop(struct evt_pool *pool)
{
	if (atomic_load(&pool->stop_wanted))
		evt_pool_request_stop_(pool);
	return evt_pool_phase_(pool) >= EVT_POOL_STOPPING;
}

void evt_turn_end_(struct evt_worker *worker)
{
	if (worker->depth == 1 && worker->pool->owned) {
		if (worker->state)
			worker->pool->hooks->settle(worker);
		end_turn(worker);
	}
	worker->depth--;
	if (worker->index == -1 && is_to_stop(worker->pool))
		worker->done = true;
	/* A classic callback may run the loop itself, out of habit. */
	if ((worker->in_loop || !worker->pool->owned) &&
		(worker->done || worker->broken ||
			has_nothing_but_inbox(worker)))
		event_base_loopbreak(worker->base);
}

void evt_callback_end_(struct evt_worker *worker, int state)
{
	evt_turn_end_(worker);
	pthread_setcancelstate(state, NULL);
}

void evt_worker_serving_(struct evt_worker *worker, int fd)
{
	struct evt_pool *pool = worker->pool;

	if (fd == -1) {
		atomic_store_explicit(
			&worker->serving, -1, memory_order_release);
		return;
	}
	/* With hurry: here it is said what is served, and then looked whether
	 * the grace is over; there it is said that it is over, and then looked
	 * what is served. */
	atomic_store(&worker->serving, fd);
	if (atomic_load(&pool->hurry))
		pool->hooks->cut(pool, fd);
}

static void deliver(struct evt_worker *worker, const struct evt_record *record)
{
	struct evt_pool *pool = worker->pool;
	unsigned long delivered;

	delivered = atomic_load_explicit(
		&worker->delivered, memory_order_relaxed);
	atomic_store_explicit(
		&worker->delivered, delivered + 1, memory_order_relaxed);
	if (!pool->hooks->cut) {
		pool->hooks->deliver(worker, record);
		return;
	}
	evt_worker_serving_(worker, record->fd);
	pool->hooks->deliver(worker, record);
	evt_worker_serving_(worker, -1);
}

static void note_wait(
	struct evt_worker *worker, const struct evt_record *record)
{
	uint32_t wait = (uint32_t)worker->now_us - record->queued_us;

	/* Queued a moment after this turn began it has not waited. */
	if (wait < INT32_MAX)
		evt_count_max_(&worker->counters.longest_wait_us, wait);
}

static void receive(struct evt_worker *worker, struct evt_record *record)
{
	if (worker->state)
		worker->pool->hooks->receive(worker, record);
}

static void handle(struct evt_worker *worker, struct evt_record *record)
{
	if (record->queued_us != 0)
		note_wait(worker, record);
	switch (record->kind) {
	case EVT_RECORD_WAKE:
		break;
	case EVT_RECORD_CONN:
		deliver(worker, record);
		break;
	case EVT_RECORD_TASK:
		record->task(worker, record->arg);
		break;
	case EVT_RECORD_CONN_TASK:
	case EVT_RECORD_SEND:
		receive(worker, record);
		break;
	default:
		evt_log_(EVT_LOG_ERROR,
			"worker %d: foreign bytes in its pipe, ignored",
			worker->index);
		evt_batch_resync_(&worker->batch);
	}
}

static void look_for_changes(struct evt_worker *worker)
{
	struct evt_pool *pool = worker->pool;
	unsigned changes = atomic_load(&pool->changes);

	if (changes == worker->changes)
		return;
	worker->changes = changes;
	if (worker->index == -1)
		evt_watch_look_(pool);
	pool->hooks->on_change(worker);
}

/* One read; false if it brought nothing. */
static bool serve_batch(struct evt_worker *worker)
{
	int got = evt_pipe_take_(&worker->pipe, &worker->batch);
	bool empty = got == 0 || (got == -1 && errno == EAGAIN);
	struct evt_record *record;
	int state = evt_callback_begin_(worker);

	if (got == 1)
		evt_pool_tell_of_room_(worker->pool);
	else if (empty && atomic_load(&worker->closing))
		worker->done = true;
	else if (got == 0 || !empty)
		worker->broken = true;
	while (got == 1 && (record = evt_batch_next_(&worker->batch)))
		handle(worker, record);
	look_for_changes(worker);
	evt_callback_end_(worker, state);
	return got == 1;
}

/*
 * One read, so that a flood of records does not starve what else lives on the
 * worker. Once nothing more can come, all that there is: the pipe has no end
 * while a forked child has it open as well.
 */
static void serve_inbox(struct evt_worker *worker)
{
	/* With close_pipes. */
	if (!serve_batch(worker) || !atomic_load(&worker->closing))
		return;
	evt_net_set_nonblocking_(worker->pipe.read_fd, true);
	while (serve_batch(worker))
		;
}

static void on_inbox(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	serve_inbox(arg);
}

static void on_event(struct evt_worker *worker, const struct epoll_event *event)
{
	uint64_t key = event->data.u64;
	struct evt_watch *watch;

	if (key == EVT_KEY_INBOX) {
		serve_inbox(worker);
	} else if (key & EVT_KEY_WATCH) {
		watch = (void *)(uintptr_t)(key & ~EVT_KEY_WATCH);
		watch->on_ready(watch, event->events);
	} else {
		worker->pool->hooks->on_event(worker, key, event->events);
	}
}

/* Waits for what there is on poll_fd, and sees to it. */
static void poll_once(struct evt_worker *worker, int timeout_ms)
{
	struct epoll_event *events = worker->events;
	int nr = epoll_wait(
		worker->poll_fd, events, EVT_POLL_BATCH, timeout_ms);
	int state;
	int i;

	if (nr == -1 && errno != EINTR)
		worker->broken = true;
	/* Nobody cancels it while it is at work. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	for (i = 0; i < nr; i++)
		on_event(worker, &events[i]);
	pthread_setcancelstate(state, NULL);
}

static void on_poll(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	poll_once(arg, 0);
}

void evt_thread_enter_(struct evt_worker *worker)
{
	char name[16]; /* as long as the kernel takes: see prctl(2) */

	evt_self_ = worker;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	/* The thread that called evt_pool_run keeps its name. */
	if (worker->index == -1 && atomic_load(&worker->pool->has_signals))
		return;
	if (worker->index == -1)
		snprintf(name, sizeof(name), "evt-listener");
	else
		snprintf(name, sizeof(name), "evt-worker-%d", worker->index);
	pthread_setname_np(pthread_self(), name);
}

void evt_thread_take_sigpipe_(void)
{
	const struct timespec now = {0, 0};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	while (sigtimedwait(&set, NULL, &now) == -1 && errno == EINTR)
		;
}

void evt_thread_borrow_(void)
{
	pthread_once(&fork_handler, register_fork_handler);
	atomic_fetch_add(&nr_threads, 1);
}

void evt_thread_leave_(void)
{
	atomic_fetch_sub(&nr_threads, 1);
}

static bool goes_on(const struct evt_worker *worker)
{
	return !worker->done && !worker->broken;
}

int evt_worker_run_(struct evt_worker *worker)
{
	int result = 0;

	/* The program may break its loop out of habit; it goes on. */
	while (result == 0 && goes_on(worker)) {
		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
		while (goes_on(worker) && has_nothing_but_inbox(worker)) {
			if (worker->has_conns || worker->nr_watches > 0)
				poll_once(worker, -1);
			else
				serve_inbox(worker);
		}
		worker->in_loop = true;
		if (goes_on(worker))
			result = event_base_loop(worker->base, 0);
		worker->in_loop = false;
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	}
	return worker->done ? 0 : -1;
}

int evt_worker_at_stop_(
	struct evt_worker *worker, void (*fn)(void *), void *arg)
{
	struct evt_at_stop *entry;

	if (worker->done)
		return ECANCELED;
	entry = malloc(sizeof(*entry));
	if (!entry)
		return ENOMEM;
	*entry = (struct evt_at_stop){worker->at_stop, fn, arg};
	worker->at_stop = entry;
	return 0;
}

void evt_worker_run_at_stop_(struct evt_worker *worker)
{
	struct evt_at_stop *entry;

	worker->done = true;
	while ((entry = worker->at_stop)) {
		void (*fn)(void *) = entry->fn;
		void *arg = entry->arg;

		worker->at_stop = entry->next;
		free(entry);
		fn(arg);
	}
}

static void leave_pool(void *arg)
{
	struct evt_worker *worker = arg;

	evt_thread_leave_();
	evt_pool_worker_left_(worker->pool);
}

void evt_worker_run_hook_(
	struct evt_worker *worker, void (*hook)(struct evt_worker *, void *))
{
	int state;

	if (!hook)
		return;
	state = evt_callback_begin_(worker);
	hook(worker, worker->pool->options.arg);
	evt_callback_end_(worker, state);
}

void evt_worker_begin_(struct evt_worker *worker)
{
	int state;

	if (worker->index != -1)
		evt_worker_run_hook_(
			worker, worker->pool->options.on_worker_start);
	state = evt_callback_begin_(worker);
	look_for_changes(worker);
	evt_callback_end_(worker, state);
}

void *evt_worker_main_(void *arg)
{
	struct evt_worker *worker = arg;

	evt_thread_enter_(worker);
	if (worker->pool->owned && !evt_pool_await_start_(worker->pool)) {
		leave_pool(worker);
		return NULL;
	}
	worker->reads_directly = evt_net_set_nonblocking_(
					 worker->pipe.read_fd, false) == 0;
	/* Even if what runs at the stop ends the thread once more. */
	pthread_cleanup_push(leave_pool, worker);
	pthread_cleanup_push(evt_worker_lose_, worker);
	evt_worker_begin_(worker);
	if (evt_worker_run_(worker) == -1) {
		evt_worker_lose_(worker);
	} else {
		evt_worker_run_at_stop_(worker);
		evt_worker_run_hook_(
			worker, worker->pool->options.on_worker_stop);
	}
	pthread_cleanup_pop(0); /* evt_worker_lose_ */
	pthread_cleanup_pop(1); /* leave_pool */
	return NULL;
}

/* evt-pool.h */

struct evt_worker *evt_worker_self(void)
{
	struct evt_worker *self = evt_thread_self_();

	return self && self->index != -1 ? self : NULL;
}

struct evt_pool *evt_worker_pool(struct evt_worker *worker)
{
	if (worker)
		return worker->pool;
	evt_fail_(EINVAL, "evt_worker_pool");
	return NULL;
}

int evt_worker_index(struct evt_worker *worker)
{
	return worker ? worker->index : evt_fail_(EINVAL, "evt_worker_index");
}

struct event_base *evt_worker_base(struct evt_worker *worker)
{
	if (worker)
		return worker->base;
	evt_fail_(EINVAL, "evt_worker_base");
	return NULL;
}
