/*
 * test_tasks.c: posting to a worker (evt-pool.h): to oneself, to a full pipe,
 * to all, while the pool stops, and to a worker that has lost its thread.
 */
#include "known_pool.h"

/* Posting to oneself */

/* C18 */
static void a_task_posts_itself_100_000_deep(void **state)
{
	(void)state;
	atomic_store(&deepest, 0);
	serve_with_a_known_pool(1);
	evt_worker_post(worker(0), post_from_inside, numbered(100000));
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 2));
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	evt_server_stop();
}

static atomic_bool enough;
static atomic_int rounds;

static void post_on_and_on(struct evt_worker *self, void *arg)
{
	atomic_fetch_add(&rounds, 1);
	if (!atomic_load(&enough))
		evt_worker_post(self, post_on_and_on, arg);
}

/* C18 */
static void a_task_that_posts_itself_does_not_starve_connections(void **state)
{
	int i;

	(void)state;
	atomic_store(&enough, false);
	atomic_store(&rounds, 0);
	serve_with_a_known_pool(1);
	evt_worker_post(worker(0), post_on_and_on, NULL);
	for (i = 1; i <= 20; i++) {
		int before = atomic_load(&rounds);

		assert_true(WAIT_FOR(atomic_load(&rounds) > before));
		evt_thread_dispatch(NO_FD, EV_READ, numbered(i));
		assert_true(WAIT_FOR(atomic_load(&nr_arrived) == i));
	}
	assert_true(arrived_in_order(20));
	atomic_store(&enough, true);
	evt_server_stop();
}

static void on_own_timer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
	atomic_store(&enough, true);
}

static struct event *own_timer;

static void free_own_timer(void *arg)
{
	(void)arg;
	event_free(own_timer);
}

static void start_own_timer(struct evt_worker *self, void *arg)
{
	const struct timeval soon = {.tv_usec = 1000};

	own_timer = event_new(evt_worker_base(self), -1, 0, on_own_timer, NULL);
	event_add(own_timer, &soon);
	evt_thread_at_stop(free_own_timer, NULL);
	post_on_and_on(self, arg);
}

/* C18 */
static void a_task_that_posts_itself_does_not_starve_the_loop(void **state)
{
	(void)state;
	atomic_store(&enough, false);
	atomic_store(&rounds, 0);
	serve_with_a_known_pool(1);
	evt_worker_post(worker(0), start_own_timer, NULL);
	assert_true(WAIT_FOR(atomic_load(&enough)));
	evt_server_stop();
	assert_true(atomic_load(&rounds) > 0);
}

static atomic_int posted;

static void post_two(struct evt_worker *self, void *arg)
{
	int i;

	atomic_fetch_add(&rounds, 1);
	for (i = 0; i < 2 && atomic_load(&rounds) < 50000; i++)
		if (evt_worker_post(self, post_two, arg) == 0)
			atomic_fetch_add(&posted, 1);
		else if (errno != EAGAIN)
			atomic_store(&tally.refused, errno);
}

/* C02 */
static void tasks_that_multiply_fill_the_pipe_and_never_block(void **state)
{
	(void)state;
	atomic_store(&rounds, 0);
	atomic_store(&posted, 1);
	serve_with_a_known_pool(1);
	evt_worker_post(worker(0), post_two, NULL);
	assert_true(WAIT_FOR(atomic_load(&rounds) >= 50000 &&
		atomic_load(&rounds) == atomic_load(&posted)));
	assert_int_equal(atomic_load(&tally.refused), 0);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	evt_server_stop();
	assert_int_equal(atomic_load(&rounds), atomic_load(&posted));
}

/* Full pipes */

/* C02 */
static void a_worker_gets_eagain_for_a_full_pipe(void **state)
{
	struct filler it;

	(void)state;
	serve_with_a_known_pool(2);
	hold(0);
	fill_from(1, 0, &it);
	assert_int_equal(atomic_load(&it.error), EAGAIN);
	assert_int_equal(atomic_load(&it.taken), room(worker(0)));
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	open_gate();
	evt_server_stop();
}

/* C02 */
static void a_worker_gets_eagain_for_its_own_full_pipe(void **state)
{
	struct filler it;

	(void)state;
	serve_with_a_known_pool(1);
	fill_from(0, 0, &it);
	assert_int_equal(atomic_load(&it.error), EAGAIN);
	assert_int_equal(atomic_load(&it.taken), room(worker(0)));
	evt_server_stop();
}

/* C01 */
static void another_thread_waits_for_room(void **state)
{
	struct filler filler;
	struct poster it;

	(void)state;
	serve_with_a_known_pool(2);
	hold(0);
	fill_from(1, 0, &filler);
	start_poster(&it, 1, 100);
	assert_true(WAIT_FOR(atomic_load(&atomic_load(&pool)->waiters) == 1));
	assert_int_equal(atomic_load(&it.taken), 0);
	open_gate();
	pthread_join(it.thread, NULL);
	assert_int_equal(atomic_load(&it.error), 0);
	evt_server_stop();
	assert_true(arrived_in_order(100));
}

/* C03 */
static void who_waits_for_room_is_sent_away_by_a_stop(void **state)
{
	struct filler filler;
	struct poster it;
	pthread_t thread;

	(void)state;
	serve_with_a_known_pool(2);
	hold(0);
	fill_from(1, 0, &filler);
	start_poster(&it, 1, 100);
	assert_true(WAIT_FOR(atomic_load(&atomic_load(&pool)->waiters) == 1));
	thread = stop_elsewhere(NULL);
	pthread_join(it.thread, NULL);
	assert_int_equal(atomic_load(&it.error), ECANCELED);
	assert_false(log_has("evt_worker_post"));
	open_gate();
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&nr_arrived), 0);
}

static atomic_int result_of_post_all;
static atomic_int error_of_post_all;
static atomic_bool has_posted_all;

static void post_to_all(struct evt_worker *self, void *arg)
{
	int result = evt_pool_post_all(evt_worker_pool(self), note_task, arg);

	atomic_store(&error_of_post_all, result == -1 ? errno : 0);
	atomic_store(&result_of_post_all, result);
	atomic_store(&has_posted_all, true);
}

static void post_to_all_from(int index)
{
	atomic_store(&has_posted_all, false);
	assert_int_equal(
		evt_worker_post(worker(index), post_to_all, numbered(1)), 0);
	assert_true(WAIT_FOR(atomic_load(&has_posted_all)));
}

static void post_all_tells_how_many_took_it_by_index(void **state)
{
	struct filler it;

	(void)state;
	serve_with_a_known_pool(3);
	hold(1);
	fill_from(2, 1, &it);
	post_to_all_from(2);
	assert_int_equal(atomic_load(&result_of_post_all), 1);
	assert_true(WAIT_FOR(atomic_load(&nr_arrived) == 1));
	open_gate();
	evt_server_stop();
	assert_int_equal(atomic_load(&nr_arrived), 1);
}

static void post_all_fails_if_not_even_the_first_took_it(void **state)
{
	struct filler it;

	(void)state;
	serve_with_a_known_pool(2);
	hold(0);
	fill_from(1, 0, &it);
	post_to_all_from(1);
	assert_int_equal(atomic_load(&result_of_post_all), -1);
	assert_int_equal(atomic_load(&error_of_post_all), EAGAIN);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	open_gate();
	evt_server_stop();
	assert_int_equal(atomic_load(&nr_arrived), 0);
}

static void post_all_from_a_worker_reaches_itself_too(void **state)
{
	(void)state;
	serve_with_a_known_pool(WORKERS);
	post_to_all_from(2);
	assert_int_equal(atomic_load(&result_of_post_all), WORKERS);
	evt_server_stop();
	assert_int_equal(atomic_load(&arrived[1]), WORKERS);
}

static void *post_to_all_main(void *arg)
{
	atomic_store(&result_of_post_all,
		evt_pool_post_all(atomic_load(&pool), note_task, arg));
	return NULL;
}

/* C03 */
static void post_all_that_waits_for_room_is_ended_by_a_stop(void **state)
{
	struct filler it;
	pthread_t poster;
	pthread_t thread;

	(void)state;
	serve_with_a_known_pool(3);
	hold(1);
	fill_from(2, 1, &it);
	pthread_create(&poster, NULL, post_to_all_main, numbered(1));
	assert_true(WAIT_FOR(atomic_load(&atomic_load(&pool)->waiters) == 1));
	thread = stop_elsewhere(NULL);
	pthread_join(poster, NULL);
	assert_int_equal(atomic_load(&result_of_post_all), 1);
	open_gate();
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&nr_arrived), 1);
}

/* Stopping */

static void tasks_that_were_taken_run_before_stop_returns(void **state)
{
	int i;

	(void)state;
	serve_with_a_known_pool(2);
	hold(0);
	hold(1);
	for (i = 1; i <= 5000; i++)
		assert_int_equal(
			evt_worker_post(worker(i % 2), note_task, numbered(i)),
			0);
	assert_int_equal(atomic_load(&nr_arrived), 0);
	open_gate();
	evt_server_stop();
	assert_true(each_arrived_once(5000));
}

/* The workers are held, so the pool stays valid, while it is stopping, for as
 * long as the posters need. */
static void what_is_taken_while_stopping_runs_exactly_once(void **state)
{
	struct poster it[4];
	pthread_t thread;
	int taken = 0;
	int i;

	(void)state;
	serve_with_a_known_pool(2);
	hold(0);
	hold(1);
	for (i = 0; i < 4; i++)
		start_poster(&it[i], 1 + 20001 * i, 20001 * (i + 1));
	thread = stop_elsewhere(NULL);
	for (i = 0; i < 4; i++) {
		pthread_join(it[i].thread, NULL);
		assert_int_equal(atomic_load(&it[i].error), ECANCELED);
		taken += atomic_load(&it[i].taken);
	}
	open_gate();
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&nr_arrived), taken);
	for (i = 1; i < MOST; i++)
		assert_true(atomic_load(&arrived[i]) <= 1);
}

static atomic_int error_at_stop;
static atomic_int error_of_all_at_stop;

static void post_at_stop(void *arg)
{
	struct evt_worker *self = evt_worker_self();
	int result = evt_worker_post(self, note_task, arg);

	atomic_store(&error_at_stop, result == -1 ? errno : 0);
	result = evt_pool_post_all(evt_worker_pool(self), note_task, arg);
	atomic_store(&error_of_all_at_stop, result == -1 ? errno : 0);
}

static void register_at_stop(struct evt_worker *self, void *arg)
{
	(void)self;
	evt_thread_at_stop(post_at_stop, arg);
	atomic_fetch_add(&tally.served, 1);
}

static void once_the_pool_has_ended_posting_is_canceled(void **state)
{
	(void)state;
	atomic_store(&error_at_stop, 0);
	serve_with_a_known_pool(1);
	evt_worker_post(worker(0), register_at_stop, numbered(1));
	evt_server_stop();
	assert_int_equal(atomic_load(&error_at_stop), ECANCELED);
	assert_int_equal(atomic_load(&error_of_all_at_stop), ECANCELED);
	assert_int_equal(atomic_load(&nr_arrived), 0);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

static void a_chain_of_tasks_ends_when_the_pool_does(void **state)
{
	(void)state;
	atomic_store(&enough, false);
	atomic_store(&rounds, 0);
	serve_with_a_known_pool(1);
	evt_worker_post(worker(0), post_on_and_on, NULL);
	assert_true(WAIT_FOR(atomic_load(&rounds) > 0));
	evt_server_stop();
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

static void end_thread(struct evt_worker *self, void *arg)
{
	(void)self;
	(void)arg;
	pthread_exit(NULL);
}

/* C15 */
static void a_task_for_a_lost_worker_runs_on_another(void **state)
{
	(void)state;
	serve_with_a_known_pool(2);
	evt_worker_post(worker(0), end_thread, NULL);
	assert_true(WAIT_FOR(log_has("worker 0 has lost its thread")));
	atomic_store(&tally.served, 0);
	assert_int_equal(evt_worker_post(worker(0), tell_worker, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
	assert_ptr_equal(atomic_load(&ran_on), worker(1));
	evt_server_stop();
}

/* C15 */
static void with_no_worker_left_a_task_is_refused(void **state)
{
	(void)state;
	serve_with_a_known_pool(1);
	evt_worker_post(worker(0), end_thread, NULL);
	assert_true(WAIT_FOR(atomic_load(&worker(0)->lost)));
	assert_true(WAIT_FOR(
		evt_worker_post(worker(0), note_task, numbered(1)) == -1));
	assert_int_equal(errno, ENXIO);
	assert_true(log_has("evt_worker_post to worker 0"));
	assert_int_equal(
		evt_pool_post_all(atomic_load(&pool), note_task, NULL), -1);
	assert_int_equal(errno, ENXIO);
	evt_server_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(a_task_posts_itself_100_000_deep),
		LEDGER_TEST(
			a_task_that_posts_itself_does_not_starve_connections),
		LEDGER_TEST(a_task_that_posts_itself_does_not_starve_the_loop),
		LEDGER_TEST(tasks_that_multiply_fill_the_pipe_and_never_block),
		LEDGER_TEST(a_worker_gets_eagain_for_a_full_pipe),
		LEDGER_TEST(a_worker_gets_eagain_for_its_own_full_pipe),
		LEDGER_TEST(another_thread_waits_for_room),
		LEDGER_TEST(who_waits_for_room_is_sent_away_by_a_stop),
		LEDGER_TEST(post_all_tells_how_many_took_it_by_index),
		LEDGER_TEST(post_all_fails_if_not_even_the_first_took_it),
		LEDGER_TEST(post_all_from_a_worker_reaches_itself_too),
		LEDGER_TEST(post_all_that_waits_for_room_is_ended_by_a_stop),
		LEDGER_TEST(tasks_that_were_taken_run_before_stop_returns),
		LEDGER_TEST(what_is_taken_while_stopping_runs_exactly_once),
		LEDGER_TEST(once_the_pool_has_ended_posting_is_canceled),
		LEDGER_TEST(a_chain_of_tasks_ends_when_the_pool_does),
		LEDGER_TEST(a_task_for_a_lost_worker_runs_on_another),
		LEDGER_TEST(with_no_worker_left_a_task_is_refused),
	};

	return ledger_run("tasks", tests);
}
