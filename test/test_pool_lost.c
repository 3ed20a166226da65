/*
 * test_pool_lost.c: threads of a pool of evt_pool_new that end before their
 * time: connections have their end, what was theirs reaches no other, the
 * others go on, and a stop works.
 */
#include "../evt-pool-internal.h"
#include "pool_rig.h"

static void expect_the_end(void)
{
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_true(is_balanced());
	free_pool();
}

static size_t end_the_thread(
	struct evt_conn *conn, const char *data, size_t len, void *arg)
{
	if (*data == 'q')
		pthread_exit(NULL);
	if (*data == 'w') {
		wait_at_gate();
		pthread_exit(NULL);
	}
	return echo_data(conn, data, len, arg);
}

static const struct evt_handlers mortal = {.on_open = note_open,
	.on_data = end_the_thread,
	.on_close = note_close};

/* C15 */
static void connections_of_a_lost_worker_end_and_the_others_go_on(void **state)
{
	int clients[2 * WORKERS];
	int ended_here = 0;
	char byte;
	int i;

	(void)state;
	start_pool(NULL, &mortal, NULL);
	connect_clients(clients, 2 * WORKERS);
	assert_true(send_all(clients[0], "q", 1));
	assert_true(WAIT_FOR(atomic_load(&seen.closed) == 2));
	assert_int_equal(atomic_load(&seen.reasons[EVT_REASON_FAILED]), 2);
	for (i = 0; i < 2 * WORKERS; i++) {
		bool good = send_all(clients[i], "a", 1) &&
			receive_all(clients[i], &byte, 1);

		ended_here += !good;
	}
	assert_int_equal(ended_here, 2);
	for (i = 0; i < 2 * WORKERS; i++)
		assert_true(answers(pool_port));
	close_clients(clients, 2 * WORKERS);
	expect_the_end();
}

/* Ends the worker of a new client, which sees that. */
static void lose_a_worker(void)
{
	int client;

	connect_clients(&client, 1);
	assert_true(send_all(client, "q", 1));
	assert_true(at_end(client));
	close(client);
}

static atomic_int hooks_after_close;

static void count_hook(struct evt_worker *worker, void *arg)
{
	(void)worker;
	(void)arg;
	if (atomic_load(&seen.opened) == atomic_load(&seen.closed))
		atomic_fetch_add(&hooks_after_close, 1);
	atomic_fetch_add(&seen.tasks, 1);
}

/* C15 */
static void the_last_call_on_a_lost_worker_is_its_hook(void **state)
{
	const struct evt_pool_options options = {
		.workers = WORKERS, .on_worker_stop = count_hook};

	(void)state;
	start_pool(&options, &mortal, NULL);
	atomic_store(&hooks_after_close, 0);
	lose_a_worker();
	assert_true(WAIT_FOR(atomic_load(&seen.tasks) == 1));
	assert_int_equal(atomic_load(&hooks_after_close), 1);
	expect_the_end();
	assert_int_equal(atomic_load(&seen.tasks), WORKERS);
}

/* C15: what a thread ends in, the others' or its own on_close included. */
static void end_in_open(struct evt_conn *conn, void *arg)
{
	note_open(conn, arg);
	pthread_exit(NULL);
}

static void end_in_close(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	note_close(conn, reason, arg);
	if (reason != EVT_REASON_FAILED)
		pthread_exit(NULL);
}

static void end_in_timeout(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	(void)conn;
	(void)reason;
	(void)arg;
	pthread_exit(NULL);
}

static void end_in_stop(struct evt_conn *conn, void *arg)
{
	note_stop(conn, arg);
	pthread_exit(NULL);
}

static void a_thread_may_end_in_on_open(void **state)
{
	const struct evt_handlers handlers = {
		.on_open = end_in_open, .on_close = note_close};
	int client;

	(void)state;
	start_pool(NULL, &handlers, NULL);
	connect_clients(&client, 1);
	assert_true(at_end(client));
	close(client);
	assert_true(WAIT_FOR(atomic_load(&seen.closed) == 1));
	expect_the_end();
}

static void a_thread_may_end_in_on_close(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = echo_data,
		.on_close = end_in_close};
	int clients[2];

	(void)state;
	start_pool(NULL, &handlers, NULL);
	connect_clients(clients, 2);
	shutdown(clients[0], SHUT_WR);
	assert_true(at_end(clients[0]));
	close_clients(clients, 2);
	assert_true(WAIT_FOR(atomic_load(&seen.closed) == 2));
	expect_the_end();
}

/* Two whose time is over at once, on one worker. */
static void a_thread_may_end_in_on_timeout(void **state)
{
	const struct evt_pool_options one = {.workers = 1};
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_timeout = end_in_timeout,
		.on_close = note_close};
	const struct evt_listen_options how = {.lifetime_ms = 30};
	int clients[20];
	int i;

	(void)state;
	start_pool(&one, &handlers, &how);
	hold_worker(0);
	for (i = 0; i < 20; i++)
		clients[i] = connect_to(pool_port);
	assert_true(WAIT_FOR(stats_now().accepted == 20));
	open_gate();
	for (i = 0; i < 20; i++)
		assert_true(at_end(clients[i]));
	close_clients(clients, 20);
	assert_int_equal(atomic_load(&seen.reasons[EVT_REASON_FAILED]), 20);
	expect_the_end();
}

/* D07 */
static void a_thread_may_end_in_on_stop(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_stop = end_in_stop,
		.on_close = note_close};
	int clients[9];

	(void)state;
	start_pool(NULL, &handlers, NULL);
	connect_clients(clients, 9);
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	close_clients(clients, 9);
	assert_int_equal(atomic_load(&seen.told), WORKERS);
	assert_int_equal(atomic_load(&seen.reasons[EVT_REASON_FAILED]), 9);
	assert_true(is_balanced());
	free_pool();
}

/* By its port, from index. */
static atomic_int next_worker;

static int choose_next(
	struct evt_pool *self, const struct sockaddr *peer, void *arg)
{
	(void)self;
	(void)peer;
	(void)arg;
	return atomic_load(&next_worker);
}

static const struct evt_listen_options chosen = {
	.choice = EVT_CHOICE_FUNCTION, .choose = choose_next};

static int connect_on(int index, uint64_t *id)
{
	int client;

	atomic_store(&next_worker, index);
	connect_clients(&client, 1);
	assert_ptr_equal(
		atomic_load(&seen.worker), evt_pool_worker(pool, index));
	*id = atomic_load(&seen.id);
	return client;
}

static atomic_int conn_tasks;

static void note_conn_task(struct evt_conn *conn, void *arg)
{
	(void)arg;
	atomic_fetch_add(&conn_tasks, conn ? 1000 : 1);
}

/* C15, E19: that of another worker has the same slot. */
static void what_is_sent_to_a_lost_connection_reaches_no_other(void **state)
{
	static const char large[5000] = "secret";
	uint64_t ids[2];
	int clients[2];
	char byte;

	(void)state;
	atomic_store(&conn_tasks, 0);
	start_pool(NULL, &mortal, &chosen);
	clients[0] = connect_on(0, &ids[0]);
	clients[1] = connect_on(1, &ids[1]);
	assert_true(send_all(clients[0], "q", 1));
	assert_true(at_end(clients[0]));
	assert_int_equal(evt_pool_send(pool, ids[0], "secret", 6), 0);
	assert_int_equal(evt_pool_send(pool, ids[0], large, 5000), 0);
	assert_int_equal(
		evt_pool_post_conn(pool, ids[0], note_conn_task, NULL), 0);
	assert_true(WAIT_FOR(atomic_load(&conn_tasks) != 0));
	assert_int_equal(atomic_load(&conn_tasks), 1);
	assert_int_equal(evt_pool_send(pool, ids[1], "y", 1), 0);
	assert_true(receive_all(clients[1], &byte, 1));
	assert_int_equal(byte, 'y');
	assert_true(WAIT_FOR(stats_now().gone == 3));
	close_clients(clients, 2);
	expect_the_end();
}

/* C15: the same, in the pipe when the thread ends. */
static void what_lies_in_the_pipe_for_a_lost_connection_is_gone(void **state)
{
	static const char large[5000] = "secret";
	uint64_t ids[2];
	int clients[2];
	char byte;

	(void)state;
	atomic_store(&conn_tasks, 0);
	start_pool(NULL, &mortal, &chosen);
	clients[0] = connect_on(0, &ids[0]);
	clients[1] = connect_on(1, &ids[1]);
	assert_true(send_all(clients[0], "w", 1));
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	assert_int_equal(evt_pool_send(pool, ids[0], "secret", 6), 0);
	assert_int_equal(evt_pool_send(pool, ids[0], large, 5000), 0);
	assert_int_equal(
		evt_pool_post_conn(pool, ids[0], note_conn_task, NULL), 0);
	open_gate();
	assert_true(WAIT_FOR(atomic_load(&conn_tasks) != 0));
	assert_int_equal(atomic_load(&conn_tasks), 1);
	assert_int_equal(evt_pool_send(pool, ids[1], "y", 1), 0);
	assert_true(receive_all(clients[1], &byte, 1));
	assert_int_equal(byte, 'y');
	assert_true(WAIT_FOR(stats_now().gone == 3));
	close_clients(clients, 2);
	expect_the_end();
}

static void connect_again(
	struct evt_conn *conn, enum evt_reason reason, void *arg)
{
	char url[64];

	snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", pool_port);
	note_close(conn, reason, arg);
	if (reason != EVT_REASON_FAILED)
		return;
	if (evt_connect(evt_conn_worker(conn), url, &echoes, NULL, NULL))
		atomic_fetch_add(&seen.tasks, 1);
	else
		atomic_store(&tally.refused, errno);
}

/* C15: a client that connects again when its connection has ended. */
static void on_a_lost_worker_nothing_can_be_connected(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = end_the_thread,
		.on_close = connect_again};

	(void)state;
	start_pool(NULL, &handlers, NULL);
	lose_a_worker();
	assert_true(WAIT_FOR(atomic_load(&seen.closed) == 1));
	expect_the_end();
	assert_int_equal(atomic_load(&seen.tasks), 0);
	assert_int_equal(atomic_load(&tally.refused), ECANCELED);
}

/* C15 */
static void without_a_worker_clients_are_sent_away(void **state)
{
	struct evt_stats stats;
	int i;

	(void)state;
	start_pool(NULL, &mortal, &chosen);
	for (i = 0; i < WORKERS; i++) {
		atomic_store(&next_worker, i);
		lose_a_worker();
	}
	for (i = 0; i < 5; i++) {
		int client = connect_to(pool_port);

		assert_true(client == -1 || at_end(client));
		if (client != -1)
			close(client);
	}
	assert_int_equal(
		evt_worker_post(evt_pool_worker(pool, 0), note_task_ran, NULL),
		-1);
	assert_int_equal(errno, ENXIO);
	assert_int_equal(evt_pool_post_all(pool, note_task_ran, NULL), -1);
	assert_int_equal(errno, ENXIO);
	evt_pool_stop(pool);
	assert_int_equal(evt_pool_wait(pool), 0);
	stats = stats_now();
	assert_int_equal(stats.opened, WORKERS);
	assert_int_equal(stats.accepted, WORKERS + stats.dropped);
	assert_true(is_balanced());
	free_pool();
}

/* C15: what is in the pipe of a worker that is lost while the pool stops goes
 * to one that has already reported that it is done. */
static void those_of_a_worker_lost_in_a_stop_have_their_end(void **state)
{
	const struct evt_handlers handlers = {.on_open = note_open,
		.on_data = end_the_thread,
		.on_stop = note_stop,
		.on_close = note_close};
	const struct evt_pool_options options = {.workers = 2, .grace_ms = 300};
	uint64_t id;
	int clients[20];
	int first;
	int i;

	(void)state;
	start_pool(&options, &handlers, &chosen);
	first = connect_on(0, &id);
	assert_true(send_all(first, "w", 1));
	assert_true(WAIT_FOR(atomic_load(&gate.waiting) == 1));
	for (i = 0; i < 20; i++)
		clients[i] = connect_to(pool_port);
	assert_true(WAIT_FOR(stats_now().accepted == 21));
	evt_pool_stop(pool);
	assert_true(WAIT_FOR(atomic_load(&evt_pool_worker(pool, 1)->drained)));
	open_gate();
	assert_int_equal(evt_pool_wait(pool), 0);
	assert_true(is_balanced());
	close_clients(clients, 20);
	close(first);
	free_pool();
}

static int end_in_choose(
	struct evt_pool *self, const struct sockaddr *peer, void *arg)
{
	(void)self;
	(void)peer;
	(void)arg;
	if (atomic_fetch_add(&tally.accepted, 1) > 0)
		pthread_exit(NULL);
	return 0;
}

/* C15 */
static void without_its_listener_a_pool_serves_whom_it_has(void **state)
{
	const struct evt_listen_options how = {
		.choice = EVT_CHOICE_FUNCTION, .choose = end_in_choose};
	int clients[2];
	char byte;

	(void)state;
	start_pool(NULL, NULL, &how);
	connect_clients(&clients[0], 1);
	clients[1] = connect_to(pool_port);
	assert_true(WAIT_FOR(log_has("the listener has lost its thread")));
	assert_true(send_all(clients[0], "a", 1));
	assert_true(receive_all(clients[0], &byte, 1));
	assert_int_equal(evt_pool_post_all(pool, note_task_ran, NULL), WORKERS);
	assert_true(WAIT_FOR(atomic_load(&seen.tasks) == WORKERS));
	/* Nobody is to wait for what does not come. */
	assert_true(WAIT_FOR(refused(pool_port)));
	assert_true(at_end(clients[1]));
	close_clients(clients, 2);
	expect_the_end();
}

/* C15: the boss, in a pool that stops at once. */
static void a_pool_that_lost_its_listener_is_freed(void **state)
{
	const struct evt_listen_options how = {
		.choice = EVT_CHOICE_FUNCTION, .choose = end_in_choose};
	int clients[2];

	(void)state;
	start_pool(NULL, NULL, &how);
	connect_clients(&clients[0], 1);
	clients[1] = connect_to(pool_port);
	assert_true(WAIT_FOR(log_has("the listener has lost its thread")));
	free_pool();
	assert_true(at_end(clients[0]) && at_end(clients[1]));
	close_clients(clients, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LEDGER_TEST(
			connections_of_a_lost_worker_end_and_the_others_go_on),
		LEDGER_TEST(the_last_call_on_a_lost_worker_is_its_hook),
		LEDGER_TEST(a_thread_may_end_in_on_open),
		LEDGER_TEST(a_thread_may_end_in_on_close),
		LEDGER_TEST(a_thread_may_end_in_on_timeout),
		LEDGER_TEST(a_thread_may_end_in_on_stop),
		LEDGER_TEST(what_is_sent_to_a_lost_connection_reaches_no_other),
		LEDGER_TEST(
			what_lies_in_the_pipe_for_a_lost_connection_is_gone),
		LEDGER_TEST(on_a_lost_worker_nothing_can_be_connected),
		LEDGER_TEST(without_a_worker_clients_are_sent_away),
		LEDGER_TEST(those_of_a_worker_lost_in_a_stop_have_their_end),
		LEDGER_TEST(without_its_listener_a_pool_serves_whom_it_has),
		LEDGER_TEST(a_pool_that_lost_its_listener_is_freed),
	};

	return ledger_run("pool_lost", tests);
}
