/*
 * test_worker.c: the functions of evt-pool.h, through the classic pool: who one
 * is, and the order in which tasks run.
 */
#include "known_pool.h"

/* Who one is */

static struct {
	_Atomic(struct evt_worker *) self[WORKERS];
	_Atomic(struct evt_pool *) pool[WORKERS];
	_Atomic(struct event_base *) base[WORKERS];
	atomic_int index[WORKERS];
	atomic_int told;
} who;

static void tell_who(struct evt_worker *self, void *arg)
{
	int i = evt_worker_index(self);

	(void)arg;
	atomic_store(&who.self[i], evt_worker_self());
	atomic_store(&who.pool[i], evt_worker_pool(self));
	atomic_store(&who.base[i], evt_thread_base());
	atomic_store(&who.index[i], evt_worker_index(evt_worker_self()));
	atomic_fetch_add(&who.told, 1);
}

static void each_worker_knows_itself_its_pool_and_its_base(void **state)
{
	int i;

	(void)state;
	atomic_store(&who.told, 0);
	serve_with_a_known_pool(WORKERS);
	assert_int_equal(
		evt_pool_post_all(atomic_load(&pool), tell_who, NULL), WORKERS);
	assert_true(WAIT_FOR(atomic_load(&who.told) == WORKERS));
	for (i = 0; i < WORKERS; i++) {
		assert_ptr_equal(atomic_load(&who.self[i]), worker(i));
		assert_ptr_equal(atomic_load(&who.pool[i]), atomic_load(&pool));
		assert_ptr_equal(
			atomic_load(&who.base[i]), evt_worker_base(worker(i)));
		assert_int_equal(atomic_load(&who.index[i]), i);
	}
	evt_server_stop();
}

static void workers_and_their_bases_are_different(void **state)
{
	int i;

	(void)state;
	serve_with_a_known_pool(WORKERS);
	for (i = 0; i < WORKERS; i++) {
		assert_int_equal(evt_worker_index(worker(i)), i);
		assert_non_null(evt_worker_base(worker(i)));
		if (i > 0)
			assert_ptr_not_equal(evt_worker_base(worker(i)),
				evt_worker_base(worker(i - 1)));
	}
	assert_int_equal(evt_pool_workers(atomic_load(&pool)), WORKERS);
	evt_server_stop();
}

static void a_worker_that_is_not_there_is_refused(void **state)
{
	static const int indices[] = {-1, WORKERS, INT_MAX, INT_MIN};
	size_t i;

	(void)state;
	serve_with_a_known_pool(WORKERS);
	for (i = 0; i < sizeof(indices) / sizeof(indices[0]); i++) {
		errno = 0;
		log_forget();
		assert_null(worker(indices[i]));
		assert_int_equal(errno, EINVAL);
		assert_int_equal(log_lines(EVT_LOG_ERROR), 1);
	}
	evt_server_stop();
}

/* A12 */
static void nothing_is_done_with_null(void **state)
{
	struct evt_worker *some;

	(void)state;
	serve_with_a_known_pool(1);
	some = worker(0);
	errno = 0;
	assert_int_equal(evt_pool_workers(NULL), -1);
	assert_null(evt_pool_worker(NULL, 0));
	assert_null(evt_worker_pool(NULL));
	assert_int_equal(evt_worker_index(NULL), -1);
	assert_null(evt_worker_base(NULL));
	assert_int_equal(evt_worker_post(NULL, no_task, NULL), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(evt_worker_post(some, NULL, NULL), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(evt_pool_post_all(NULL, no_task, NULL), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(evt_pool_post_all(atomic_load(&pool), NULL, NULL), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(log_lines(EVT_LOG_ERROR), 9);
	evt_server_stop();
}

/* A12 */
static void each_refusal_of_null_sets_errno(void **state)
{
	(void)state;
	errno = 0;
	evt_pool_workers(NULL);
	assert_int_equal(errno, EINVAL);
	errno = 0;
	evt_pool_worker(NULL, 0);
	assert_int_equal(errno, EINVAL);
	errno = 0;
	evt_worker_pool(NULL);
	assert_int_equal(errno, EINVAL);
	errno = 0;
	evt_worker_index(NULL);
	assert_int_equal(errno, EINVAL);
	errno = 0;
	evt_worker_base(NULL);
	assert_int_equal(errno, EINVAL);
	errno = 0;
	evt_worker_post(NULL, no_task, NULL);
	assert_int_equal(errno, EINVAL);
}

static atomic_int listener_is_worker; /* -1: not asked yet */

static void ask_listener(sockfd_t fd, short evt, void *arg)
{
	atomic_store(&listener_is_worker, evt_worker_self() != NULL);
	on_client(fd, evt, arg);
}

static void only_workers_are_workers(void **state)
{
	int port;

	(void)state;
	atomic_store(&listener_is_worker, -1);
	errno = 0;
	assert_null(evt_worker_self());
	assert_int_equal(errno, 0);
	assert_null(log_line(0));
	port = serve(ask_listener, echo, 1);
	assert_null(evt_worker_self());
	assert_true(answers(port));
	assert_int_equal(atomic_load(&listener_is_worker), 0);
	evt_server_stop();
}

/* Order */

static void tasks_run_in_the_order_of_posting(void **state)
{
	int i;

	(void)state;
	serve_with_a_known_pool(2);
	for (i = 1; i <= 20000; i++)
		assert_int_equal(
			evt_worker_post(worker(1), note_task, numbered(i)), 0);
	assert_true(WAIT_FOR(atomic_load(&nr_arrived) == 20000));
	assert_true(arrived_in_order(20000));
	evt_server_stop();
}

/* C17 */
static void tasks_and_connections_keep_their_common_order(void **state)
{
	int i;

	(void)state;
	serve_with_a_known_pool(1);
	for (i = 1; i <= 2000; i += 2) {
		assert_int_equal(
			evt_thread_dispatch(NO_FD, EV_READ, numbered(i)), 0);
		assert_int_equal(
			evt_worker_post(worker(0), note_task, numbered(i + 1)),
			0);
	}
	assert_true(WAIT_FOR(atomic_load(&nr_arrived) == 2000));
	assert_true(arrived_in_order(2000));
	evt_server_stop();
}

static void a_task_runs_on_its_worker(void **state)
{
	int i;

	(void)state;
	serve_with_a_known_pool(WORKERS);
	for (i = WORKERS - 1; i >= 0; i--) {
		atomic_store(&tally.served, 0);
		evt_worker_post(worker(i), tell_worker, NULL);
		assert_true(WAIT_FOR(atomic_load(&tally.served) == 1));
		assert_ptr_equal(atomic_load(&ran_on), worker(i));
	}
	evt_server_stop();
}

/* C16 */
static void what_eight_threads_post_runs_once(void **state)
{
	struct poster it[8];
	int i;

	(void)state;
	serve_with_a_known_pool(2);
	for (i = 0; i < 8; i++)
		start_poster(&it[i], 1 + i * 5001, (i + 1) * 5001);
	for (i = 0; i < 8; i++)
		pthread_join(it[i].thread, NULL);
	assert_true(WAIT_FOR(atomic_load(&nr_arrived) == 8 * 5001));
	assert_true(each_arrived_once(8 * 5001));
	evt_server_stop();
}

static void a_task_never_runs_inside_of_a_post(void **state)
{
	(void)state;
	atomic_store(&deepest, 0);
	serve_with_a_known_pool(1);
	evt_worker_post(worker(0), post_from_inside, numbered(1000));
	assert_true(WAIT_FOR(atomic_load(&tally.served) == 2));
	assert_int_equal(atomic_load(&deepest), 1);
	evt_server_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(each_worker_knows_itself_its_pool_and_its_base),
		LEDGER_TEST(workers_and_their_bases_are_different),
		LEDGER_TEST(a_worker_that_is_not_there_is_refused),
		LEDGER_TEST(nothing_is_done_with_null),
		LEDGER_TEST(each_refusal_of_null_sets_errno),
		LEDGER_TEST(only_workers_are_workers),
		LEDGER_TEST(tasks_run_in_the_order_of_posting),
		LEDGER_TEST(tasks_and_connections_keep_their_common_order),
		LEDGER_TEST(a_task_runs_on_its_worker),
		LEDGER_TEST(what_eight_threads_post_runs_once),
		LEDGER_TEST(a_task_never_runs_inside_of_a_post),
	};

	return ledger_run("worker", tests);
}
