/*
 * test_pool_tasks.c: tasks of a pool of evt_pool_new, from before it runs until
 * after it has ended: each that was taken runs exactly once.
 */
/* wrap: fcntl */
#include "pool_rig.h"
#include "small_pipes.h"

/* Whatever is posted from now on, by threads of the program's. */
struct poster {
	pthread_t thread;
	atomic_int taken;
	atomic_int error; /* of the first that was refused */
	atomic_bool to_all;
};

static void *poster_main(void *arg)
{
	struct poster *it = arg;
	unsigned n;

	for (n = 0;; n++) {
		int index = (int)(n % WORKERS);
		int taken = atomic_load(&it->to_all)
			? evt_pool_post_all(pool, note_task_ran, NULL)
			: 1 +
				evt_worker_post(evt_pool_worker(pool, index),
					note_task_ran, NULL);

		if (taken <= 0)
			break;
		atomic_fetch_add(&it->taken, taken);
	}
	atomic_store(&it->error, errno);
	return NULL;
}

static void start_poster(struct poster *it, bool to_all)
{
	atomic_store(&it->taken, 0);
	atomic_store(&it->error, 0);
	atomic_store(&it->to_all, to_all);
	assert_int_equal(pthread_create(&it->thread, NULL, poster_main, it), 0);
}

/* Hands WORKERS posts to a pool in a phase in which all are refused. */
static void expect_posts_give(int error)
{
	int i;

	log_forget();
	for (i = 0; i < WORKERS; i++) {
		errno = 0;
		assert_int_equal(evt_worker_post(evt_pool_worker(pool, i),
					 note_task_ran, NULL),
			-1);
		assert_int_equal(errno, error);
	}
	errno = 0;
	assert_int_equal(evt_pool_post_all(pool, note_task_ran, NULL), -1);
	assert_int_equal(errno, error);
}

static void before_it_runs_nothing_can_be_posted(void **state)
{
	(void)state;
	make_pool(NULL, NULL, NULL);
	expect_posts_give(ENOTCONN);
	free_pool();
	assert_int_equal(atomic_load(&seen.tasks), 0);
}

static void after_the_end_nothing_can_be_posted_and_no_line_says_so(
	void **state)
{
	int client;

	(void)state;
	start_pool(NULL, NULL, NULL);
	connect_clients(&client, 1);
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	expect_posts_give(ECANCELED);
	assert_int_equal(
		evt_pool_send(pool, atomic_load(&seen.id), "x", 1), -1);
	assert_int_equal(errno, ECANCELED);
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	close(client);
	free_pool();
	assert_int_equal(atomic_load(&seen.tasks), 0);
}

static void a_task_runs_once_on_its_worker(void **state)
{
	int i;

	(void)state;
	start_pool(NULL, NULL, NULL);
	for (i = 0; i < 300; i++)
		assert_int_equal(
			evt_worker_post(evt_pool_worker(pool, i % WORKERS),
				note_task_ran, NULL),
			0);
	assert_true(WAIT_FOR(atomic_load(&seen.tasks) == 300));
	free_pool();
	assert_int_equal(atomic_load(&seen.tasks), 300);
}

static atomic_int ran_on[WORKERS];

static void note_where(struct evt_worker *worker, void *arg)
{
	(void)arg;
	atomic_fetch_add(&ran_on[evt_worker_index(worker)], 1);
}

static void what_is_posted_to_all_runs_on_each(void **state)
{
	int i;

	(void)state;
	start_pool(NULL, NULL, NULL);
	for (i = 0; i < WORKERS; i++)
		atomic_store(&ran_on[i], 0);
	assert_int_equal(evt_pool_post_all(pool, note_where, NULL), WORKERS);
	free_pool();
	for (i = 0; i < WORKERS; i++)
		assert_int_equal(atomic_load(&ran_on[i]), 1);
}

/* C16, D06 */
static void each_task_that_was_taken_while_it_stops_runs_once(void **state)
{
	struct poster posters[4];
	int round;
	int i;

	(void)state;
	for (round = 0; round < 20 / slowness(); round++) {
		int taken = 0;

		start_pool(NULL, NULL, NULL);
		for (i = 0; i < 4; i++)
			start_poster(&posters[i], i == 3);
		assert_true(WAIT_FOR(atomic_load(&seen.tasks) > 50));
		evt_pool_stop(pool);
		for (i = 0; i < 4; i++) {
			pthread_join(posters[i].thread, NULL);
			assert_int_equal(
				atomic_load(&posters[i].error), ECANCELED);
			taken += atomic_load(&posters[i].taken);
		}
		assert_int_equal(evt_pool_wait(pool), 0);
		assert_int_equal(atomic_load(&seen.tasks), taken);
		free_pool();
	}
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
}

/* D06: the drain is held up by a connection that is not closed. */
static void while_it_drains_tasks_are_taken_and_run(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = note_open, .on_stop = note_stop};
	int client;

	(void)state;
	start_pool(NULL, &handlers, NULL);
	connect_clients(&client, 1);
	evt_pool_stop(pool);
	assert_true(WAIT_FOR(atomic_load(&seen.told) == 1));
	assert_int_equal(evt_pool_post_all(pool, note_task_ran, NULL), WORKERS);
	assert_true(WAIT_FOR(atomic_load(&seen.tasks) == WORKERS));
	close(client);
	assert_int_equal(evt_pool_wait(pool), 0);
	free_pool();
}

/* A task that posts another to its own worker, as long as it can. */
static void post_again(struct evt_worker *worker, void *arg)
{
	atomic_fetch_add(&seen.tasks, 1);
	if (evt_worker_post(worker, post_again, arg) == 0)
		atomic_fetch_add(&tally.served, 1);
	else
		atomic_store((atomic_int *)arg, errno);
}

/* D07: until the grace is over, at most. */
static void a_task_that_posts_itself_does_not_hold_up_a_stop(void **state)
{
	const struct evt_pool_options hasty = {
		.workers = WORKERS, .grace_ms = 100};
	atomic_int error = 0;

	(void)state;
	start_pool(&hasty, NULL, NULL);
	assert_int_equal(
		evt_worker_post(evt_pool_worker(pool, 0), post_again, &error),
		0);
	assert_true(WAIT_FOR(atomic_load(&seen.tasks) > 100));
	assert_true(answers(pool_port));
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_int_equal(atomic_load(&error), ECANCELED);
	assert_int_equal(
		atomic_load(&seen.tasks), atomic_load(&tally.served) + 1);
	free_pool();
}

static atomic_int fill_taken;
static atomic_int fill_error;

static void fill_own_pipe(struct evt_worker *worker, void *arg)
{
	int taken = 0;

	(void)arg;
	while (taken < 100000 &&
		evt_worker_post(worker, note_task_ran, NULL) == 0)
		taken++;
	atomic_store(&fill_error, errno);
	atomic_store(&fill_taken, taken);
}

/* C02 */
static void a_worker_that_fills_its_own_pipe_is_refused(void **state)
{
	(void)state;
	start_pool(NULL, NULL, NULL);
	atomic_store(&fill_taken, 0);
	log_forget();
	assert_int_equal(
		evt_worker_post(evt_pool_worker(pool, 1), fill_own_pipe, NULL),
		0);
	assert_true(WAIT_FOR(atomic_load(&fill_taken) > 0));
	assert_int_equal(atomic_load(&fill_error), EAGAIN);
	assert_true(
		WAIT_FOR(atomic_load(&seen.tasks) == atomic_load(&fill_taken)));
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
	free_pool();
}

static void make_small_pool(void)
{
	make_pool(NULL, NULL, NULL);
	atomic_store(&small_pipes, true);
	assert_int_equal(evt_pool_start(pool), 0);
	atomic_store(&small_pipes, false);
}

/* C03: one that waits for room in the pipe of a worker that is held. */
static void a_stop_ends_the_wait_of_a_thread_for_room(void **state)
{
	struct poster poster;

	(void)state;
	make_small_pool();
	hold_worker(0);
	hold_worker(1);
	hold_worker(2);
	start_poster(&poster, false);
	assert_true(WAIT_FOR(atomic_load(&poster.taken) >= 128));
	evt_pool_stop(pool);
	pthread_join(poster.thread, NULL);
	assert_int_equal(atomic_load(&poster.error), ECANCELED);
	open_gate();
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_int_equal(atomic_load(&seen.tasks), atomic_load(&poster.taken));
	free_pool();
}

static atomic_int choose_error;

static int fill_in_choose(
	struct evt_pool *self, const struct sockaddr *peer, void *arg)
{
	struct evt_worker *worker = evt_pool_worker(self, 0);
	int i;

	(void)peer;
	(void)arg;
	for (i = 0;
		i < 5000 && evt_worker_post(worker, note_task_ran, NULL) == 0;
		i++)
		atomic_fetch_add(&tally.served, 1);
	atomic_store(&choose_error, errno);
	return 1;
}

/* C03: the one that has to see to the stop. */
static void a_stop_ends_the_wait_of_the_accepting_thread_for_room(void **state)
{
	const struct evt_listen_options how = {
		.choice = EVT_CHOICE_FUNCTION, .choose = fill_in_choose};
	int client;

	(void)state;
	make_pool(NULL, NULL, &how);
	atomic_store(&choose_error, 0);
	atomic_store(&small_pipes, true);
	assert_int_equal(evt_pool_start(pool), 0);
	atomic_store(&small_pipes, false);
	hold_worker(0);
	client = connect_to(pool_port);
	assert_true(WAIT_FOR(atomic_load(&tally.served) >= 128));
	evt_pool_stop(pool);
	assert_true(WAIT_FOR(atomic_load(&choose_error) != 0));
	open_gate();
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_int_equal(atomic_load(&seen.tasks), atomic_load(&tally.served));
	close(client);
	free_pool();
}

/* C01, C03 */
static void a_thread_that_waits_for_room_goes_on_when_there_is_some(
	void **state)
{
	struct poster poster;

	(void)state;
	make_small_pool();
	hold_worker(0);
	start_poster(&poster, true);
	assert_true(WAIT_FOR(atomic_load(&poster.taken) >= 128));
	open_gate();
	assert_true(WAIT_FOR(atomic_load(&poster.taken) >= 3000));
	evt_pool_stop(pool);
	pthread_join(poster.thread, NULL);
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_int_equal(atomic_load(&seen.tasks), atomic_load(&poster.taken));
	free_pool();
}

static atomic_int all_from_inside;

static void post_all_from_inside(struct evt_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	/* Of its own pipe it would have to make the room itself. */
	while (evt_worker_post(evt_pool_worker(pool, 1), note_task_ran, NULL) ==
		0)
		atomic_fetch_add(&tally.served, 1);
	atomic_store(
		&all_from_inside, evt_pool_post_all(pool, note_task_ran, NULL));
}

/* C02: the first ones by index took it. */
static void posting_to_all_ends_at_the_first_full_pipe(void **state)
{
	(void)state;
	make_small_pool();
	atomic_store(&all_from_inside, -2);
	hold_worker(1);
	assert_int_equal(evt_worker_post(evt_pool_worker(pool, 0),
				 post_all_from_inside, NULL),
		0);
	assert_true(WAIT_FOR(atomic_load(&all_from_inside) != -2));
	assert_int_equal(atomic_load(&all_from_inside), 1);
	open_gate();
	assert_true(WAIT_FOR(
		atomic_load(&seen.tasks) == atomic_load(&tally.served) + 1));
	free_pool();
}

static void greet(struct evt_conn *conn, void *arg)
{
	evt_conn_write(conn, "hello", 5);
	if (arg)
		evt_conn_close(conn);
}

static void greet_all(struct evt_worker *worker, void *arg)
{
	evt_worker_each_conn(worker, greet, arg);
}

static void a_task_writes_to_the_connections_of_its_worker(void **state)
{
	char text[5];
	int clients[6];
	int i;

	(void)state;
	start_pool(NULL, NULL, NULL);
	connect_clients(clients, 6);
	assert_int_equal(evt_pool_post_all(pool, greet_all, NULL), WORKERS);
	assert_int_equal(evt_pool_post_all(pool, greet_all, "close"), WORKERS);
	for (i = 0; i < 6; i++) {
		assert_true(receive_all(clients[i], text, 5));
		assert_true(receive_all(clients[i], text, 5));
		assert_memory_equal(text, "hello", 5);
		assert_true(at_end(clients[i]));
	}
	close_clients(clients, 6);
	free_pool();
	assert_int_equal(atomic_load(&seen.reasons[EVT_REASON_OURS]), 6);
}

static atomic_int signal_errno;

static void stop_in_a_full_pipe(struct evt_worker *worker, void *arg)
{
	int i;

	(void)worker;
	(void)arg;
	errno = EDOM;
	for (i = 0; i < 10000; i++)
		evt_pool_stop(pool);
	atomic_store(&signal_errno, errno);
}

/* D12: a signal handler may ask for it, whose errno is another's. */
static void stop_leaves_errno_alone_however_often_it_is_called(void **state)
{
	(void)state;
	start_pool(NULL, NULL, NULL);
	atomic_store(&signal_errno, 0);
	assert_int_equal(evt_worker_post(evt_pool_worker(pool, 0),
				 stop_in_a_full_pipe, NULL),
		0);
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_int_equal(atomic_load(&signal_errno), EDOM);
	free_pool();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(before_it_runs_nothing_can_be_posted),
		LEDGER_TEST(
			after_the_end_nothing_can_be_posted_and_no_line_says_so),
		LEDGER_TEST(a_task_runs_once_on_its_worker),
		LEDGER_TEST(what_is_posted_to_all_runs_on_each),
		LEDGER_TEST(each_task_that_was_taken_while_it_stops_runs_once),
		LEDGER_TEST(while_it_drains_tasks_are_taken_and_run),
		LEDGER_TEST(a_task_that_posts_itself_does_not_hold_up_a_stop),
		LEDGER_TEST(a_worker_that_fills_its_own_pipe_is_refused),
		LEDGER_TEST(a_stop_ends_the_wait_of_a_thread_for_room),
		LEDGER_TEST(
			a_stop_ends_the_wait_of_the_accepting_thread_for_room),
		LEDGER_TEST(
			a_thread_that_waits_for_room_goes_on_when_there_is_some),
		LEDGER_TEST(posting_to_all_ends_at_the_first_full_pipe),
		LEDGER_TEST(a_task_writes_to_the_connections_of_its_worker),
		LEDGER_TEST(stop_leaves_errno_alone_however_often_it_is_called),
	};

	return ledger_run("pool_tasks", tests);
}
