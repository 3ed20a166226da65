/*
 * test_regress_pool.c: what reviews and attacks have found in pools: pipes that
 * somebody else has closed, tasks without end, posts during a start, a lost
 * worker that has very many connections.
 */
#include "../evt-pool-internal.h"
#include "pool_rig.h"

#include <sys/resource.h>

static const struct evt_pool_options one = {.workers = 1, .grace_ms = 300};

/* Pipes closed by somebody else; in children, which have them to themselves */

static void run_with_the_boss_not_to_be_woken(void *arg)
{
	struct runner runner;

	(void)arg;
	make_pool(&one, NULL, NULL);
	start_runner(&runner, pool);
	CHECK(WAIT_FOR(answers(pool_port)));
	CHECK(close(atomic_load(&pool->wake_fd)) == 0);
	evt_pool_stop(pool);
	CHECK(join_runner(&runner) == 0 || atomic_load(&runner.error) == ENXIO);
	free_pool();
}

static void run_until_the_boss_is_cut_off(void *arg)
{
	struct runner runner;

	(void)arg;
	make_pool(&one, NULL, NULL);
	start_runner(&runner, pool);
	CHECK(WAIT_FOR(answers(pool_port)));
	CHECK(close(atomic_load(&pool->wake_fd)) == 0);
	CHECK(WAIT_FOR(atomic_load(&runner.done)));
	CHECK(join_runner(&runner) == -1);
	CHECK(atomic_load(&runner.error) == ENXIO);
	free_pool();
}

static void start_with_the_boss_not_to_be_woken(void *arg)
{
	(void)arg;
	start_pool(&one, NULL, NULL);
	CHECK(answers(pool_port));
	CHECK(close(atomic_load(&pool->wake_fd)) == 0);
	evt_pool_stop(pool);
	CHECK(evt_pool_wait(pool) == 0);
	free_pool();
}

static void start_and_close_a_workers_pipe(void *arg)
{
	const struct evt_pipe *pipe;
	int client;

	(void)arg;
	start_pool(&one, NULL, NULL);
	connect_clients(&client, 1);
	pipe = &evt_pool_worker(pool, 0)->pipe;
	CHECK(close(pipe->read_fd) == 0 && close(pipe->write_fd) == 0);
	evt_pool_stop(pool);
	CHECK(evt_pool_wait(pool) == 0);
	CHECK(at_end(client));
	close(client);
	free_pool();
}

static void passes_in_child(void (*fn)(void *))
{
	assert_int_equal(in_child(fn, NULL, 10 * slowness()), 0);
}

/* C13 */
static void run_returns_though_its_boss_cannot_be_woken(void **state)
{
	(void)state;
	passes_in_child(run_with_the_boss_not_to_be_woken);
}

/* C13 */
static void run_says_that_its_loop_has_failed(void **state)
{
	(void)state;
	passes_in_child(run_until_the_boss_is_cut_off);
}

/* C13 */
static void a_stop_returns_though_the_boss_cannot_be_woken(void **state)
{
	(void)state;
	passes_in_child(start_with_the_boss_not_to_be_woken);
}

/* C13 */
static void a_stop_returns_though_a_workers_pipe_is_not_there(void **state)
{
	(void)state;
	/* TSan loses track of a thread that is cancelled in a call which it
	 * watches: it then sees no lock in what that thread does. */
	if (under("tsan"))
		skip();
	passes_in_child(start_and_close_a_workers_pipe);
}

/* Tasks */

static void post_again(struct evt_worker *worker, void *arg)
{
	atomic_fetch_add(&seen.tasks, 1);
	if (evt_worker_post(worker, post_again, arg) == -1)
		atomic_store(&tally.refused, errno);
}

/* D07: the grace is for connections, of which there are none. */
static void a_task_that_posts_itself_does_not_use_up_the_grace(void **state)
{
	const struct evt_pool_options patient = {
		.workers = 1, .grace_ms = 60000 * slowness()};
	int64_t start;

	(void)state;
	start_pool(&patient, NULL, NULL);
	assert_int_equal(
		evt_worker_post(evt_pool_worker(pool, 0), post_again, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&seen.tasks) > 100));
	start = now_ms();
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_in_range(now_ms() - start, 0, 10000 * slowness());
	assert_int_equal(atomic_load(&tally.refused), ECANCELED);
	free_pool();
}

static struct {
	pthread_t thread;
	atomic_int calls;
	atomic_int taken;
	atomic_int error; /* but for ENOTCONN */
	atomic_bool done;
} poster;

static void *post_until_done(void *arg)
{
	struct evt_worker *worker = arg;

	while (!atomic_load(&poster.done)) {
		if (evt_worker_post(worker, note_task_ran, NULL) == 0)
			atomic_fetch_add(&poster.taken, 1);
		else if (errno != ENOTCONN)
			atomic_store(&poster.error, errno);
		atomic_fetch_add(&poster.calls, 1);
	}
	return NULL;
}

static void say_nothing(int level, const char *line, void *arg)
{
	(void)level, (void)line, (void)arg;
}

static void post_during_a_start(void)
{
	make_pool(&one, NULL, NULL);
	atomic_store(&poster.calls, 0);
	atomic_store(&poster.taken, 0);
	atomic_store(&poster.error, 0);
	atomic_store(&poster.done, false);
	CHECK(pthread_create(&poster.thread, NULL, post_until_done,
		      evt_pool_worker(pool, 0)) == 0);
	CHECK(WAIT_FOR(atomic_load(&poster.calls) > 0));
	CHECK(evt_pool_start(pool) == 0);
	CHECK(WAIT_FOR(atomic_load(&poster.taken) > 0));
	atomic_store(&poster.done, true);
	pthread_join(poster.thread, NULL);
	free_pool();
}

static void a_task_that_is_posted_during_a_start_runs_or_is_refused(
	void **state)
{
	int i;

	(void)state;
	evt_set_log(say_nothing, NULL);
	for (i = 0; i < 200 / slowness(); i++) {
		post_during_a_start();
		assert_int_equal(atomic_load(&poster.error), 0);
		assert_int_equal(
			atomic_load(&seen.tasks), atomic_load(&poster.taken));
	}
}

/* A lost worker */

#define MOST_CLIENTS 3000

static atomic_int closed_at_hook;

static void note_hook(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
	atomic_store(&closed_at_hook, atomic_load(&seen.closed));
}

static void end_thread(struct evt_worker *worker, void *arg)
{
	(void)worker, (void)arg;
	pthread_exit(NULL);
}

/* So many as descriptors are allowed for, both ends of each. */
static int clients_to_be_had(int wanted)
{
	struct rlimit limit;
	rlim_t most;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	most = limit.rlim_cur > 200 ? (limit.rlim_cur - 200) / 2 : 0;
	return most < (rlim_t)wanted ? (int)most : wanted;
}

/* C15 */
static void thousands_on_a_lost_worker_have_their_on_close(void **state)
{
	const struct evt_pool_options options = {
		.workers = 1, .on_worker_stop = note_hook};
	static int clients[MOST_CLIENTS];
	int nr = clients_to_be_had(MOST_CLIENTS / slowness());

	(void)state;
	atomic_store(&closed_at_hook, -1);
	start_pool(&options, NULL, NULL);
	connect_clients(clients, nr);
	assert_int_equal(
		evt_worker_post(evt_pool_worker(pool, 0), end_thread, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&closed_at_hook) != -1));
	assert_int_equal(atomic_load(&closed_at_hook), nr);
	assert_int_equal(atomic_load(&seen.reasons[EVT_REASON_FAILED]), nr);
	assert_true(at_end(clients[0]) && at_end(clients[nr - 1]));
	close_clients(clients, nr);
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_true(is_balanced());
	free_pool();
}

static void allow_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == -1)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(run_returns_though_its_boss_cannot_be_woken),
		LEDGER_TEST(run_says_that_its_loop_has_failed),
		LEDGER_TEST(a_stop_returns_though_the_boss_cannot_be_woken),
		LEDGER_TEST(a_stop_returns_though_a_workers_pipe_is_not_there),
		LEDGER_TEST(a_task_that_posts_itself_does_not_use_up_the_grace),
		LEDGER_TEST(
			a_task_that_is_posted_during_a_start_runs_or_is_refused),
		LEDGER_TEST(thousands_on_a_lost_worker_have_their_on_close),
	};

	allow_descriptors();
	return ledger_run("regress_pool", tests);
}
