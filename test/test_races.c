/*
 * test_races.c: what one thread does between two lines of another: made to
 * happen in a wrapped call, since else it is seen once in a million times.
 */
/* wrap: write sched_yield */
#include "listen_rig.h"
#include "../evt-pool-internal.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>

ssize_t __real_write(int fd, const void *data, size_t len);
int __real_sched_yield(void);

/* Each once, when it comes to this descriptor. */
static atomic_int lose_after_write = -1;
static atomic_int wait_in_write = -1;
static atomic_bool has_yielded;

/* What is held at the gate is let go, and ends worker 0. */
static void lose_now(void)
{
	open_gate();
	CHECK(WAIT_FOR(atomic_load(&server.pool->workers[0].lost)));
}

ssize_t __wrap_write(int fd, const void *data, size_t len)
{
	int lose = fd;
	int wait = fd;
	ssize_t written;

	/* In the handler; a worker may wake that one too. */
	if (!evt_worker_self() &&
		atomic_compare_exchange_strong(&wait_in_write, &wait, -1))
		while (!atomic_load(&has_yielded))
			poll(NULL, 0, 1); /* memcheck runs a thread at a time */
	written = __real_write(fd, data, len);
	if (atomic_compare_exchange_strong(&lose_after_write, &lose, -1))
		lose_now();
	return written;
}

int __wrap_sched_yield(void)
{
	atomic_store(&has_yielded, true);
	return __real_sched_yield();
}

static void wait_and_leave(struct evt_worker *self, void *arg)
{
	(void)self, (void)arg;
	wait_at_gate();
	pthread_exit(NULL);
}

/* Worker 0 is at the gate, and will be lost with the next record for it. */
static void prepare_to_lose(void)
{
	struct evt_worker *worker = evt_pool_worker(server.pool, 0);

	shut_gate();
	assert_int_equal(evt_worker_post(worker, wait_and_leave, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	atomic_store(&lose_after_write, worker->pipe.write_fd);
}

static atomic_int ran_on;

static void note_worker(struct evt_worker *self, void *arg)
{
	(void)arg;
	atomic_store(&ran_on, evt_worker_index(self));
}

/* C15 */
static void a_task_put_while_its_worker_is_lost_runs(void **state)
{
	(void)state;
	start_echo(NULL, 2);
	prepare_to_lose();
	atomic_store(&ran_on, -1);
	assert_int_equal(evt_worker_post(evt_pool_worker(server.pool, 0),
				 note_worker, NULL),
		0);
	assert_int_equal(atomic_load(&lose_after_write), -1);
	assert_true(WAIT_FOR(atomic_load(&ran_on) == 1));
	end_server();
}

static int choose_0(
	struct evt_pool *pool, const struct sockaddr *peer, void *arg)
{
	(void)pool, (void)peer, (void)arg;
	return 0;
}

/* C15 */
static void a_client_handed_over_while_its_worker_is_lost_is_served(
	void **state)
{
	const struct evt_listen_options options = {
		.choice = EVT_CHOICE_FUNCTION, .choose = choose_0};

	(void)state;
	start_echo(&options, 2);
	prepare_to_lose();
	assert_true(serves(server.port));
	assert_int_equal(atomic_load(&lose_after_write), -1);
	assert_true(serves(server.port));
	assert_int_equal(end_server().dropped, 0);
}

/* Signals; in children, since they are the whole process's */

static struct evt_pool *new_pool(void (*on_start)(struct evt_worker *, void *))
{
	const struct evt_pool_options options = {
		.workers = 1, .on_worker_start = on_start};
	struct evt_pool *pool = evt_pool_new(&options);

	CHECK(pool);
	return pool;
}

static struct evt_pool *pool_that_has_ended(void)
{
	struct evt_pool *pool = new_pool(NULL);

	evt_pool_stop(pool);
	CHECK(evt_pool_run(pool) == 0);
	return pool;
}

static void raise_stop(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
	kill(getpid(), SIGTERM);
}

static void run_beside_one_that_has_ended(void *arg)
{
	struct evt_pool *running = new_pool(raise_stop);
	struct evt_pool *ended = pool_that_has_ended();

	(void)arg;
	CHECK(evt_pool_run(running) == 0);
	evt_pool_free(running);
	evt_pool_free(ended);
}

/* D15 */
static void a_signal_goes_past_a_pool_that_has_ended(void **state)
{
	(void)state;
	assert_int_equal(in_child(run_beside_one_that_has_ended, NULL, 20), 0);
}

static void *free_pool_main(void *pool)
{
	CHECK(WAIT_FOR(atomic_load(&wait_in_write) == -1));
	evt_pool_free(pool);
	return NULL;
}

/* The handler of the signal waits, until who frees the other has seen it. */
static void arm_and_raise(struct evt_worker *worker, void *arg)
{
	(void)arg;
	atomic_store(
		&wait_in_write, atomic_load(&evt_worker_pool(worker)->wake_fd));
	kill(getpid(), SIGTERM);
}

static void free_one_while_a_handler_looks(void *arg)
{
	struct evt_pool *running = new_pool(arm_and_raise);
	struct evt_pool *ended = pool_that_has_ended();
	pthread_t thread;
	sigset_t stop;

	(void)arg;
	/* The signal is for who runs the pool, and not for who frees one. */
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &stop, NULL);
	atomic_store(&wait_in_write, -2); /* not yet */
	CHECK(pthread_create(&thread, NULL, free_pool_main, ended) == 0);
	CHECK(evt_pool_run(running) == 0);
	pthread_join(thread, NULL);
	CHECK(atomic_load(&has_yielded));
	evt_pool_free(running);
}

/* D15: it must not be gone while the list is looked through. */
static void a_pool_is_not_freed_under_a_handler(void **state)
{
	(void)state;
	assert_int_equal(in_child(free_one_while_a_handler_looks, NULL, 20), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVER_TEST(a_task_put_while_its_worker_is_lost_runs),
		SERVER_TEST(
			a_client_handed_over_while_its_worker_is_lost_is_served),
		SERVER_TEST(a_signal_goes_past_a_pool_that_has_ended),
		SERVER_TEST(a_pool_is_not_freed_under_a_handler),
	};

	return ledger_run("races", tests);
}
