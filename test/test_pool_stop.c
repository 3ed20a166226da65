/*
 * test_pool_stop.c: stopping a pool: who comes meanwhile, from where a stop may
 * be asked for, and what it does not need.
 */
/* wrap: fcntl */
#include "../evt-pool-internal.h"
#include "pool_rig.h"

static atomic_bool small_pipes; /* of one page: soon full */

int __real_fcntl(int fd, int command, ...);

int __wrap_fcntl(int fd, int command, ...)
{
	va_list args;
	long arg;

	va_start(args, command);
	arg = va_arg(args, long);
	va_end(args);
	if (command == F_SETPIPE_SZ && atomic_load(&small_pipes))
		arg = 4096;
	return __real_fcntl(fd, command, arg);
}

static const struct evt_pool_options hasty = {
	.workers = WORKERS, .grace_ms = 100};
static const struct evt_pool_options patient = {
	.workers = WORKERS, .grace_ms = -1};

/* Waits for the end, and looks whether every connection has had its own. */
static void expect_a_balanced_end(void)
{
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_true(is_balanced());
	assert_true(refused(pool_port));
}

static void stop_and_expect_a_balanced_end(void)
{
	evt_pool_stop(pool);
	expect_a_balanced_end();
}

/* Handlers that are not done when they are told to stop. */
static const struct evt_handlers stubborn = {.on_open = note_open,
	.on_data = echo_data,
	.on_stop = note_stop,
	.on_close = note_close};

#define MUCH (4 << 20)

static void write_much_at_open(struct evt_conn *conn, void *arg)
{
	static char much[MUCH];

	evt_conn_write(conn, much, sizeof(much));
	note_open(conn, arg);
}

/* Arriving while it stops */

struct caller {
	pthread_t thread;
	atomic_bool done;
};

static void *call_in_a_loop(void *arg)
{
	struct caller *it = arg;

	while (!atomic_load(&it->done)) {
		int fd = connect_to(pool_port);

		if (fd != -1)
			close(fd);
	}
	return NULL;
}

static void stop_among_callers(const struct evt_handlers *handlers,
	const struct evt_listen_options *how)
{
	struct caller callers[2];
	int i;

	start_pool(&hasty, handlers, how);
	for (i = 0; i < 2; i++) {
		atomic_store(&callers[i].done, false);
		assert_int_equal(pthread_create(&callers[i].thread, NULL,
					 call_in_a_loop, &callers[i]),
			0);
	}
	assert_true(WAIT_FOR(atomic_load(&seen.opened) > 5));
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	for (i = 0; i < 2; i++) {
		atomic_store(&callers[i].done, true);
		pthread_join(callers[i].thread, NULL);
	}
	assert_true(is_balanced());
	free_pool();
}

/* D08 */
static void who_comes_while_it_stops_is_served_or_closed(void **state)
{
	int i;

	(void)state;
	for (i = 0; i < 200 / (slowness() * slowness()); i++)
		stop_among_callers(&echoes, NULL);
}

/* D08 */
static void who_comes_while_it_stops_is_closed_though_handlers_do_not(
	void **state)
{
	const struct evt_listen_options how = {.reuseport = 1};
	int i;

	(void)state;
	for (i = 0; i < 20 / slowness(); i++)
		stop_among_callers(&stubborn, i % 2 ? &how : NULL);
}

/* D08 */
static void who_waited_in_a_workers_pipe_is_told_to_stop(void **state)
{
	const struct evt_pool_options one = {.workers = 1, .grace_ms = -1};
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_stop = close_at_stop,
		.on_close = note_close};
	int clients[30];
	int i;

	(void)state;
	start_pool(&one, &handlers, NULL);
	hold_worker(0);
	for (i = 0; i < 30; i++)
		clients[i] = connect_to(pool_port);
	assert_true(WAIT_FOR(stats_now().accepted == 30));
	evt_pool_stop(pool);
	assert_true(WAIT_FOR(refused(pool_port)));
	open_gate();
	assert_true(WAIT_FOR(atomic_load(&seen.closed) == 30));
	close_clients(clients, 30);
	expect_a_balanced_end();
	assert_int_equal(atomic_load(&seen.told), 30);
	free_pool();
}

#define MANY 300 /* more than are read from a pipe at a time */

/* D07, D08: the grace ends before the worker comes to those in its pipe. */
static void the_grace_is_over_for_those_in_the_pipe_too(void **state)
{
	const struct evt_pool_options one = {.workers = 1, .grace_ms = 1};
	int clients[MANY];
	int i;

	(void)state;
	start_pool(&one, &stubborn, NULL);
	hold_worker(0);
	for (i = 0; i < MANY; i++)
		clients[i] = connect_to(pool_port);
	assert_true(WAIT_FOR(stats_now().accepted == MANY));
	evt_pool_stop(pool);
	assert_true(WAIT_FOR(atomic_load(&pool->hurry)));
	open_gate();
	expect_a_balanced_end();
	close_clients(clients, MANY);
	free_pool();
}

/* Whence */

static void stop_task(struct evt_worker *worker, void *arg)
{
	(void)arg;
	evt_pool_stop(evt_worker_pool(worker));
	atomic_fetch_add(&seen.tasks, 1);
}

static void stop_at_open(struct evt_conn *conn, void *arg)
{
	note_open(conn, arg);
	evt_pool_stop(pool);
}

static int stop_in_choose(
	struct evt_pool *self, const struct sockaddr *peer, void *arg)
{
	(void)peer;
	(void)arg;
	evt_pool_stop(self);
	return 0;
}

static void stop_in_hook(struct evt_worker *worker, void *arg)
{
	(void)arg;
	evt_pool_stop(evt_worker_pool(worker));
}

/* D02: the first may have ended the pool before the last is posted. */
static void a_task_may_stop_the_pool(void **state)
{
	int posted;

	(void)state;
	start_pool(NULL, NULL, NULL);
	posted = evt_pool_post_all(pool, stop_task, NULL);
	assert_in_range(posted, 1, WORKERS);
	expect_a_balanced_end();
	assert_int_equal(atomic_load(&seen.tasks), posted);
	free_pool();
}

/* D02 */
static void a_handler_may_stop_the_pool(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = stop_at_open, .on_close = note_close};
	int client;

	(void)state;
	start_pool(&patient, &handlers, NULL);
	client = connect_to(pool_port);
	assert_true(at_end(client));
	close(client);
	expect_a_balanced_end();
	free_pool();
}

/* D02: on the thread that has to see to it. */
static void choosing_a_worker_may_stop_the_pool(void **state)
{
	const struct evt_listen_options how = {
		.choice = EVT_CHOICE_FUNCTION, .choose = stop_in_choose};
	int client;

	(void)state;
	start_pool(&patient, NULL, &how);
	client = connect_to(pool_port);
	assert_true(at_end(client));
	close(client);
	expect_a_balanced_end();
	free_pool();
}

/* D02 */
static void the_hooks_of_a_worker_may_stop_the_pool(void **state)
{
	const struct evt_pool_options options = {.workers = WORKERS,
		.on_worker_start = stop_in_hook,
		.on_worker_stop = stop_in_hook};

	(void)state;
	make_pool(&options, NULL, NULL);
	assert_int_equal(evt_pool_run(pool), 0);
	free_pool();
}

static void *stop_main_of_many(void *arg)
{
	(void)arg;
	evt_pool_stop(pool);
	return NULL;
}

/* D03 */
static void sixteen_threads_may_stop_it_at_once(void **state)
{
	pthread_t threads[16];
	int round;
	int i;

	(void)state;
	for (round = 0; round < 20 / slowness(); round++) {
		start_pool(NULL, NULL, NULL);
		for (i = 0; i < 16; i++)
			assert_int_equal(pthread_create(&threads[i], NULL,
						 stop_main_of_many, NULL),
				0);
		assert_int_equal(evt_pool_wait(pool), 0);
		for (i = 0; i < 16; i++)
			pthread_join(threads[i], NULL);
		free_pool();
	}
}

/* Of no need */

static atomic_int fill_error;

static void fill_the_others(struct evt_worker *worker, void *arg)
{
	int i;

	(void)worker;
	(void)arg;
	for (i = 1; i < WORKERS; i++)
		while (evt_worker_post(evt_pool_worker(pool, i), note_task_ran,
			       NULL) == 0)
			atomic_fetch_add(&tally.served, 1);
	atomic_store(&fill_error, errno);
}

/* D12 */
static void a_stop_needs_no_room_in_a_pipe(void **state)
{
	int clients[9];

	(void)state;
	make_pool(&patient, NULL, NULL);
	atomic_store(&small_pipes, true);
	assert_int_equal(evt_pool_start(pool), 0);
	atomic_store(&small_pipes, false);
	connect_clients(clients, 9);
	hold_worker(1);
	hold_worker(2);
	atomic_store(&fill_error, 0);
	evt_worker_post(evt_pool_worker(pool, 0), fill_the_others, NULL);
	assert_true(WAIT_FOR(atomic_load(&fill_error) == EAGAIN));
	evt_pool_stop(pool);
	assert_true(WAIT_FOR(refused(pool_port)));
	open_gate();
	expect_a_balanced_end();
	close_clients(clients, 9);
	assert_int_equal(atomic_load(&seen.tasks), atomic_load(&tally.served));
	free_pool();
}

/* D13: those that are idle, those in their grace, and one with output. */
static void a_stop_needs_no_memory(void **state)
{
	const struct evt_handlers much = {
		.on_open = write_much_at_open, .on_close = note_close};
	struct evt_listener *second;
	struct evt_listener *third;
	int clients[12];
	bool allocated;

	(void)state;
	make_pool(&hasty, NULL, NULL);
	second = evt_listen(pool, "tcp://127.0.0.1:0", &stubborn, NULL, NULL);
	third = evt_listen(pool, "tcp://127.0.0.1:0", &much, NULL, NULL);
	assert_int_equal(evt_pool_start(pool), 0);
	connect_clients(clients, 4);
	pool_port = evt_listener_port(second);
	connect_clients(clients + 4, 4);
	pool_port = evt_listener_port(third);
	connect_clients(clients + 8, 4);
	fail_allocation(1, true);
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	allocated = fault_reached();
	fail_allocation(0, false);
	close_clients(clients, 12);
	assert_true(is_balanced());
	assert_false(allocated);
	assert_int_equal(atomic_load(&seen.reasons[EVT_REASON_STOPPED]), 12);
	free_pool();
}

static size_t wait_at_data(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	wait_at_gate();
	return echo_data(conn, data, len, arg);
}

/* D07: nobody ends a callback but itself; the others do not wait for it. */
static void a_callback_that_blocks_longer_than_the_grace_is_waited_for(
	void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = wait_at_data,
		.on_stop = note_stop,
		.on_close = note_close};
	struct runner waiter;
	int clients[3];

	(void)state;
	start_pool(&hasty, &handlers, NULL);
	connect_clients(clients, 3);
	assert_true(send_all(clients[0], "x", 1));
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	evt_pool_stop(pool);
	start_waiter(&waiter);
	assert_true(at_end(clients[1]) && at_end(clients[2]));
	assert_false(atomic_load(&waiter.done));
	open_gate();
	assert_int_equal(join_runner(&waiter), 0);
	close_clients(clients, 3);
	assert_true(is_balanced());
	assert_true(log_has("of 3 connections"));
	free_pool();
}

static void listen_late(struct evt_conn *conn, void *arg)
{
	(void)arg;
	note_stop(conn, arg);
	atomic_store(&seen.tasks,
		evt_listen(pool, "tcp://127.0.0.1:0", &echoes, NULL, NULL)
			? 0
			: errno);
	if (!evt_connect(evt_conn_worker(conn), "tcp://127.0.0.1:1", &echoes,
		    NULL, NULL))
		atomic_store(&tally.refused, errno);
	evt_conn_close(conn);
}

static void while_it_stops_nothing_new_is_begun(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_stop = listen_late,
		.on_close = note_close};
	int client;

	(void)state;
	start_pool(&patient, &handlers, NULL);
	connect_clients(&client, 1);
	log_forget();
	evt_pool_stop(pool);
	assert_true(at_end(client));
	close(client);
	expect_a_balanced_end();
	assert_int_equal(atomic_load(&seen.tasks), ECANCELED);
	assert_int_equal(atomic_load(&tally.refused), ECANCELED);
	assert_int_equal(log_lines(EVT_LOG_WARN), 0);
	free_pool();
}

static void a_pool_without_connections_says_nothing_of_them(void **state)
{
	(void)state;
	start_pool(NULL, NULL, NULL);
	log_forget();
	stop_and_expect_a_balanced_end();
	free_pool();
	assert_int_equal(log_lines(EVT_LOG_DEBUG), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(who_comes_while_it_stops_is_served_or_closed),
		LEDGER_TEST(
			who_comes_while_it_stops_is_closed_though_handlers_do_not),
		LEDGER_TEST(who_waited_in_a_workers_pipe_is_told_to_stop),
		LEDGER_TEST(the_grace_is_over_for_those_in_the_pipe_too),
		LEDGER_TEST(a_task_may_stop_the_pool),
		LEDGER_TEST(a_handler_may_stop_the_pool),
		LEDGER_TEST(choosing_a_worker_may_stop_the_pool),
		LEDGER_TEST(the_hooks_of_a_worker_may_stop_the_pool),
		LEDGER_TEST(sixteen_threads_may_stop_it_at_once),
		LEDGER_TEST(a_stop_needs_no_room_in_a_pipe),
		LEDGER_TEST(a_stop_needs_no_memory),
		LEDGER_TEST(
			a_callback_that_blocks_longer_than_the_grace_is_waited_for),
		LEDGER_TEST(while_it_stops_nothing_new_is_begun),
		LEDGER_TEST(a_pool_without_connections_says_nothing_of_them),
	};

	return ledger_run("pool_stop", tests);
}
