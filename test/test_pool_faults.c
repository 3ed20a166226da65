/*
 * test_pool_faults.c: a pool that the system does not give its threads, pipes,
 * descriptors or memory: it is started whole or not at all, and the next
 * attempt works.
 */
/* wrap: pthread_create pipe2 eventfd timerfd_create epoll_create1 epoll_ctl poll */
#include "../evt-pool-internal.h"
#include "pool_rig.h"
#include "inject.h"
#include "../evt-log-internal.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/timerfd.h>

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
	void *(*main)(void *), void *arg);
int __real_pipe2(int fds[2], int flags);
int __real_eventfd(unsigned value, int flags);
int __real_timerfd_create(int clock, int flags);
int __real_epoll_create1(int flags);
int __real_epoll_ctl(int poll_fd, int what, int fd, struct epoll_event *event);
int __real_poll(struct pollfd *fds, nfds_t nr, int timeout);

static struct inject on_thread = {.name = "pthread_create"};
static struct inject on_pipe2 = {.name = "pipe2"};
static struct inject on_eventfd = {.name = "eventfd"};
static struct inject on_timerfd = {.name = "timerfd_create"};
static struct inject on_epoll = {.name = "epoll_create1"};
static struct inject on_watch = {.name = "epoll_ctl"};
static struct inject on_poll = {.name = "poll"};

static void (*while_starting)(void); /* once, as the first thread is made */

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr,
	void *(*main)(void *), void *arg)
{
	void (*then)(void) = while_starting;

	while_starting = NULL;
	if (then)
		then();
	if (injected(&on_thread))
		return errno;
	return __real_pthread_create(thread, attr, main, arg);
}

int __wrap_pipe2(int fds[2], int flags)
{
	return injected(&on_pipe2) ? -1 : __real_pipe2(fds, flags);
}

int __wrap_eventfd(unsigned value, int flags)
{
	return injected(&on_eventfd) ? -1 : __real_eventfd(value, flags);
}

int __wrap_timerfd_create(int clock, int flags)
{
	return injected(&on_timerfd) ? -1 : __real_timerfd_create(clock, flags);
}

/* These are the workers' own; libevent's are not seen here. */
int __wrap_epoll_create1(int flags)
{
	return injected(&on_epoll) ? -1 : __real_epoll_create1(flags);
}

int __wrap_epoll_ctl(int poll_fd, int what, int fd, struct epoll_event *event)
{
	return injected(&on_watch) ? -1
				   : __real_epoll_ctl(poll_fd, what, fd, event);
}

/* Of the boss that waits for the end. */
int __wrap_poll(struct pollfd *fds, nfds_t nr, int timeout)
{
	if (pool && nr == 1 && fds[0].fd == pool->boss.pipe.read_fd &&
		injected(&on_poll))
		return -1;
	return __real_poll(fds, nr, timeout);
}

/* What is open and runs, before and after. */
struct balance {
	int fds;
	int threads;
	long allocations;
};

static struct balance balance_now(void)
{
	return (struct balance){
		count_fds(), count_threads(), count_allocations()};
}

/* A thread that was joined may be seen a moment longer. */
static bool is_even(struct balance before)
{
	return WAIT_FOR(count_threads() <= before.threads) &&
		count_fds() == before.fds &&
		count_allocations() == before.allocations;
}

#define EXPECT(n, condition)                                             \
	do {                                                             \
		int error_ = errno;                                      \
		bool holds_ = (condition);                               \
                                                                         \
		fail_allocation(0, false);                               \
		if (!holds_)                                             \
			fail_msg("fault %d: not true: %s (errno %s)", n, \
				#condition, strerrorname_np(error_));    \
	} while (0)

/* The worker hooks, which must not be called for a start that fails. */
static atomic_int hooks_called;

static void count_hook(struct evt_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	atomic_fetch_add(&hooks_called, 1);
}

static const struct evt_pool_options counted = {.workers = WORKERS,
	.on_worker_start = count_hook,
	.on_worker_stop = count_hook};

/* The pool has said no: it is as before, and serves now. */
static void expect_it_serves_after(int n, struct balance before)
{
	struct evt_pool *self = pool;

	EXPECT(n, log_lines(EVT_LOG_WARN) == 1);
	EXPECT(n, is_even(before));
	EXPECT(n, atomic_load(&hooks_called) == 0);
	EXPECT(n, evt_pool_wait(self) == -1 && errno == EINVAL);
	EXPECT(n,
		evt_worker_post(
			evt_pool_worker(self, 0), note_task_ran, NULL) == -1);
	EXPECT(n, evt_pool_start(self) == 0);
	EXPECT(n, answers(pool_port));
	free_pool();
}

static void expect_start_fails(
	struct inject *call, int error, int k, int (*start)(struct evt_pool *))
{
	struct balance before;

	make_pool(&counted, NULL, NULL);
	before = balance_now();
	atomic_store(&hooks_called, 0);
	log_forget();
	inject(call, error, k - 1, 1);
	errno = 0;
	EXPECT(k, start(pool) == -1);
	EXPECT(k, errno == error);
	end_injection(call);
	expect_it_serves_after(k, before);
}

/* A15, A16 */
static void each_thread_may_fail_and_the_next_start_works(void **state)
{
	int k;

	(void)state;
	for (k = 1; k <= WORKERS + 1; k++)
		expect_start_fails(&on_thread, EAGAIN, k, evt_pool_start);
}

/* A15: the thread that calls run is the listener's. */
static void each_thread_may_fail_in_run_and_the_next_start_works(void **state)
{
	int k;

	(void)state;
	for (k = 1; k <= WORKERS; k++)
		expect_start_fails(&on_thread, EAGAIN, k, evt_pool_run);
}

/* A18 */
static void each_pipe_may_fail_and_the_next_start_works(void **state)
{
	int k;

	(void)state;
	for (k = 1; k <= WORKERS + 1; k++) {
		expect_start_fails(&on_pipe2, EMFILE, k, evt_pool_start);
		expect_start_fails(&on_pipe2, ENFILE, k, evt_pool_run);
	}
}

/* A17: the room that a base needs. */
static void each_base_may_fail_and_the_next_start_works(void **state)
{
	int k;

	(void)state;
	for (k = 1; k <= WORKERS + 1; k++) {
		expect_start_fails(&on_eventfd, EMFILE, 3 * k, evt_pool_start);
		expect_start_fails(
			&on_eventfd, ENFILE, 3 * k - 2, evt_pool_run);
	}
}

/* A17: what the loop waits for on its own account. */
static void each_watch_may_fail_and_the_next_start_works(void **state)
{
	int k;

	(void)state;
	for (k = 1; k <= WORKERS; k++) {
		expect_start_fails(&on_epoll, EMFILE, k, evt_pool_start);
		expect_start_fails(&on_watch, ENOSPC, k, evt_pool_start);
		expect_start_fails(&on_watch, ENOMEM, k, evt_pool_run);
	}
}

static struct evt_listener *late;

static void listen_late(void)
{
	late = evt_listen(pool, "tcp://127.0.0.1:0", &echoes, NULL, NULL);
}

/* Its loops have been made, and its threads not yet. Nothing else wakes who
 * accepts: no worker wants to be watched. */
static void a_listener_that_comes_while_it_starts_is_served(void **state)
{
	const struct evt_pool_options unwatched = {
		.workers = 1, .stall_ms = -1};

	(void)state;
	make_pool(&unwatched, NULL, NULL);
	while_starting = listen_late;
	assert_int_equal(evt_pool_start(pool), 0);
	assert_non_null(late);
	assert_true(answers(evt_listener_port(late)));
	assert_true(answers(pool_port));
	free_pool();
}

/* A17 */
static void each_timer_may_fail_and_the_next_start_works(void **state)
{
	int k;

	(void)state;
	for (k = 1; k <= WORKERS; k++) {
		expect_start_fails(&on_timerfd, EMFILE, k, evt_pool_start);
		expect_start_fails(&on_timerfd, ENOMEM, k, evt_pool_run);
	}
}

/* poll(2) gives ENOMEM: it looks again every 10 ms, and does not spin. */
static void a_stop_that_has_no_memory_to_wait_waits_all_the_same(void **state)
{
	int64_t begun;

	(void)state;
	make_pool(NULL, NULL, NULL);
	assert_int_equal(evt_pool_start(pool), 0);
	hold_worker(0);
	begun = now_ms();
	inject(&on_poll, ENOMEM, 0, FOR_EVER);
	evt_pool_stop(pool);
	assert_true(WAIT_FOR(atomic_load(&on_poll.calls) >= 6));
	assert_true(now_ms() - begun >= 40);
	assert_int_equal(atomic_load(&pool->phase), EVT_POOL_STOPPING);
	open_gate();
	assert_int_equal(evt_pool_wait(pool), 0);
	end_injection(&on_poll);
	free_pool();
}

/* A stop that was asked for meanwhile is not lost with the attempt. */
static void a_stop_survives_a_start_that_failed(void **state)
{
	(void)state;
	make_pool(&counted, NULL, NULL);
	evt_pool_stop(pool);
	inject(&on_thread, EAGAIN, WORKERS, 1);
	assert_int_equal(evt_pool_start(pool), -1);
	assert_int_equal(errno, EAGAIN);
	evt_pool_stop(pool);
	assert_false(atomic_load(&pool->unheard)); /* nobody is there */
	assert_int_equal(evt_pool_run(pool), 0);
	free_pool();
}

static void a_pool_may_be_freed_after_a_start_that_failed(void **state)
{
	(void)state;
	make_pool(&counted, NULL, NULL);
	inject(&on_thread, EAGAIN, WORKERS - 1, 1);
	assert_int_equal(evt_pool_run(pool), -1);
	free_pool();
	assert_true(refused(pool_port));
}

/* K01, K02: the whole of a life, the n-th allocation failing. */
static int live_once(void)
{
	const struct evt_pool_options one = {.workers = 1};

	pool_port = -1;
	pool = evt_pool_new(&one);
	if (!pool)
		return -1;
	listener = evt_listen(pool, "tcp://127.0.0.1:0", &echoes, NULL, NULL);
	if (!listener)
		return -1;
	pool_port = evt_listener_port(listener);
	return evt_pool_start(pool);
}

/* The same pool again, if there is one and no evt_listen has failed. */
static int live_on(void)
{
	if (pool && listener)
		return evt_pool_start(pool);
	evt_pool_free(pool);
	return live_once();
}

static bool survive_allocation(int n, bool from_then_on)
{
	struct balance before = balance_now();
	bool reached;
	int result;

	pool = NULL;
	listener = NULL;
	evt_log_(EVT_LOG_DEBUG, "allocation %d", n); /* lines may repeat */
	log_forget();
	fail_allocation(n, from_then_on);
	errno = 0;
	result = live_once();
	reached = fault_reached();
	if (result == -1) {
		EXPECT(n, errno == ENOMEM);
		EXPECT(n, reached && log_lines(EVT_LOG_WARN) == 1);
		EXPECT(n, live_on() == 0);
	}
	fail_allocation(0, false);
	EXPECT(n, answers(pool_port)); /* what starts listens */
	free_pool();
	EXPECT(n, is_even(before));
	return reached;
}

/* K01, K02 */
static void each_allocation_may_fail_and_the_next_attempt_works(void **state)
{
	int n = 1;

	(void)state;
	free_pool();
	while (survive_allocation(n, false))
		n++;
	assert_in_range(n, 10, 400);
}

/* K01, K02 */
static void memory_may_end_anywhere_and_the_next_attempt_works(void **state)
{
	int n = 1;

	(void)state;
	while (survive_allocation(n, true))
		n++;
	assert_in_range(n, 10, 400);
}

static void run_short_of_descriptors(void *arg)
{
	const struct evt_pool_options many = {.workers = 100};
	struct rlimit limit;

	(void)arg;
	CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	limit.rlim_cur = 64;
	CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	pool = evt_pool_new(&many);
	CHECK(pool);
	CHECK(evt_pool_run(pool) == -1 && errno == EMFILE);
	CHECK(count_fds() < 20);
	limit.rlim_cur = 1024;
	CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	CHECK(evt_pool_start(pool) == 0);
	CHECK(evt_pool_post_all(pool, note_task_ran, NULL) == 100);
	evt_pool_free(pool);
	CHECK(atomic_load(&seen.tasks) == 100);
}

/* A14 */
static void a_limit_of_descriptors_may_be_raised_for_the_next_try(void **state)
{
	(void)state;
	if (under("valgrind")) /* it needs descriptors itself */
		skip();
	assert_int_equal(in_child(run_short_of_descriptors, NULL, 10), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(each_thread_may_fail_and_the_next_start_works),
		LEDGER_TEST(
			each_thread_may_fail_in_run_and_the_next_start_works),
		LEDGER_TEST(each_pipe_may_fail_and_the_next_start_works),
		LEDGER_TEST(each_base_may_fail_and_the_next_start_works),
		LEDGER_TEST(each_watch_may_fail_and_the_next_start_works),
		LEDGER_TEST(a_listener_that_comes_while_it_starts_is_served),
		LEDGER_TEST(each_timer_may_fail_and_the_next_start_works),
		LEDGER_TEST(
			a_stop_that_has_no_memory_to_wait_waits_all_the_same),
		LEDGER_TEST(a_stop_survives_a_start_that_failed),
		LEDGER_TEST(a_pool_may_be_freed_after_a_start_that_failed),
		LEDGER_TEST(
			each_allocation_may_fail_and_the_next_attempt_works),
		LEDGER_TEST(memory_may_end_anywhere_and_the_next_attempt_works),
		LEDGER_TEST(
			a_limit_of_descriptors_may_be_raised_for_the_next_try),
	};

	return ledger_run("pool_faults", tests);
}
